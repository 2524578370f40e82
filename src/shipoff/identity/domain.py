"""Users, teams, roles and tokens as values, and the form of a token's secret."""

from __future__ import annotations

import hashlib
import hmac
import zlib
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum

SECRET_BYTES = 32
_PREFIX = "shp_"
_BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
# 256 bits and 32 bits in base 62.
_BODY_DIGITS, _CHECKSUM_DIGITS = 43, 6


class Role(IntEnum):
    """What a member may do; a higher one includes the lower ones."""

    VIEWER = 1
    DEVELOPER = 2
    OWNER = 3


@dataclass(frozen=True)
class User:
    id: str
    email: str
    name: str


@dataclass(frozen=True)
class Team:
    id: str
    name: str


@dataclass(frozen=True)
class Membership:
    team: Team
    role: Role


@dataclass(frozen=True)
class Member:
    user: User
    role: Role


@dataclass(frozen=True)
class Token:
    """An API token without its secret. `expires_at` None: never."""

    id: str
    name: str
    created_at: datetime
    expires_at: datetime | None = None
    last_used_at: datetime | None = None


@dataclass(frozen=True)
class NewToken:
    """A token to be stored; `lasts_days` counts from the database's now, unless `expires_at` is given."""

    id: str
    user_id: str
    name: str
    hash: bytes
    expires_at: datetime | None = None
    lasts_days: int | None = None


@dataclass(frozen=True)
class Identity:
    """Who a token belongs to. `platform_team_id` is the team whose owners run the platform; empty before it was set up."""

    user: User
    memberships: tuple[Membership, ...]
    token_id: str
    platform_team_id: str = ""


@dataclass(frozen=True)
class AuditEntry:
    """One line of the audit log; `time` is the database's."""

    id: str
    team_id: str
    actor: str
    action: str
    object_id: str
    detail: str
    time: datetime | None = None


def _base62(number: int, digits: int) -> str:
    out = ""
    for _ in range(digits):
        number, digit = divmod(number, 62)
        out = _BASE62[digit] + out
    return out


def format_secret(random: bytes) -> str:
    """A token's secret: a prefix that scanners of leaked secrets recognise, 256 random bits, and a CRC-32 of them.

    The form is that of GitHub's tokens (GitHub blog, "Behind GitHub's new authentication token formats", 2021).
    """
    body = _base62(int.from_bytes(random, "big"), _BODY_DIGITS)
    return f"{_PREFIX}{body}{_base62(zlib.crc32(body.encode()), _CHECKSUM_DIGITS)}"


def hash_secret(secret: str) -> bytes:
    """What is stored: SHA-256. The secret has 256 random bits, so that a slow hash would add nothing."""
    return hashlib.sha256(secret.encode()).digest()


def same_secret(given: str, expected: str) -> bool:
    """Compares in a time that depends on neither's content nor length."""
    return hmac.compare_digest(hash_secret(given), hash_secret(expected))
