"""Who is calling: the Bearer token of a request, and what identity says about it."""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum

from starlette.requests import HTTPConnection

from shipoff.common.errors import InvalidInput, Unauthenticated
from shipoff.contracts.identity.v1 import identity_pb2
from shipoff.contracts.identity.v1.identity_pb2_grpc import IdentityServiceStub
from shipoff.gateway.limits import Buckets, too_many

_MOST_CACHED = 10_000
_LONGEST_TOKEN = 200
# How long an address need not fear its own wrong tokens for one that was right.
_PROVEN_S = 600.0
_QUERY_NAMES = {"token", "access_token", "api_key", "apikey", "authorization", "bearer", "secret"}
_SECRET_PREFIX = "shp_"  # noqa: S105 - how a secret begins, not one


class Role(IntEnum):
    """What a member may do; a higher one includes the lower ones. The numbers are the contract's."""

    VIEWER = identity_pb2.ROLE_VIEWER
    DEVELOPER = identity_pb2.ROLE_DEVELOPER
    OWNER = identity_pb2.ROLE_OWNER


@dataclass(frozen=True)
class Principal:
    """A caller who proved who it is. `roles` by team id; the owners of `platform_team_id` run the platform."""

    user_id: str
    email: str
    name: str
    token_id: str
    roles: Mapping[str, Role]
    team_names: Mapping[str, str]
    platform_team_id: str = ""


@dataclass(frozen=True)
class _Known:
    principal: Principal
    fresh_until_s: float
    proven_until_s: float


def token_of(connection: HTTPConnection) -> str:
    """The Bearer token of the Authorization header (RFC 6750, section 2.1).

    Raises InvalidInput when a token is in the query string, where logs and histories keep it; Unauthenticated without one.
    """
    for name, value in connection.query_params.multi_items():
        if name.lower() in _QUERY_NAMES or value.startswith(_SECRET_PREFIX):
            remedy = "send it in the Authorization header, and revoke this one: it may be in logs now"
            raise InvalidInput("a token does not belong into a URL", field=name, remedy=remedy)
    headers = connection.headers.getlist("authorization")
    scheme, _, token = headers[0].partition(" ") if len(headers) == 1 else ("", "", "")
    token = token.strip()
    if scheme.lower() != "bearer" or not token:
        raise Unauthenticated("a token is needed", remedy="send the header Authorization: Bearer <token>")
    if len(token) > _LONGEST_TOKEN or not token.isascii() or not token.isprintable():
        raise _not_valid()
    return token


def _not_valid() -> Unauthenticated:
    return Unauthenticated("the token is not valid", remedy="sign in again: shipoff login")


class Authenticator:
    """Asks identity, remembers the answer for seconds, and slows down who sends wrong tokens."""

    def __init__(
        self,
        identity: IdentityServiceStub,
        *,
        cache_s: float,
        users: Buckets,
        failures: Buckets,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._identity = identity
        self._cache_s = cache_s
        self._users, self._failures = users, failures
        self._clock = clock
        self._known: OrderedDict[bytes, _Known] = OrderedDict()

    async def principal(self, token: str, *, address: str) -> Principal:
        """Who this is. Raises Unauthenticated; Refused (429) for a user or an address that asks too much.

        An address with too many wrong tokens gets 429 whatever it sends next, so that the answer tells nothing; only a
        token that was right a while ago still passes, so that one broken script does not lock out its neighbours.
        """
        digest = hashlib.sha256(token.encode()).digest()
        known = self._known.get(digest)
        if known is None or known.fresh_until_s <= self._clock():
            known = await self._ask(token, digest, address, proven=known is not None and known.proven_until_s > self._clock())
        self._users.take(known.principal.user_id)
        return known.principal

    async def _ask(self, token: str, digest: bytes, address: str, *, proven: bool) -> _Known:
        wait_s = self._failures.wait_s(address)
        if wait_s and not proven:
            raise too_many("too many wrong tokens", wait_s)
        try:
            answer = await self._identity.Authenticate(identity_pb2.AuthenticateRequest(secret=token))
        except Unauthenticated as error:
            self._known.pop(digest, None)
            if not wait_s:
                self._failures.take(address)
            raise _not_valid() from error
        now_s = self._clock()
        known = _Known(_principal(answer), now_s + self._cache_s, now_s + _PROVEN_S)
        self._known.pop(digest, None)
        self._known[digest] = known
        if len(self._known) > _MOST_CACHED:
            self._known.popitem(last=False)
        return known

    def forget(self) -> None:
        """Asks identity again for everybody: after a change of members, teams or tokens through this gateway."""
        now_s = self._clock()
        for digest, known in self._known.items():
            self._known[digest] = _Known(known.principal, now_s, known.proven_until_s)


def _principal(answer: identity_pb2.AuthenticateResponse) -> Principal:
    return Principal(
        user_id=answer.user.id,
        email=answer.user.email,
        name=answer.user.name,
        token_id=answer.token_id,
        roles={membership.team.id: Role(membership.role) for membership in answer.memberships},
        team_names={membership.team.id: membership.team.name for membership in answer.memberships},
        platform_team_id=answer.platform_team_id,
    )
