"""What every body has in common: unknown fields are refused, lists come in pages, times are RFC 3339 in UTC."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Generic, TypeVar

from fastapi import Query
from google.protobuf.timestamp_pb2 import Timestamp
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from shipoff.contracts.types.v1 import types_pb2

_Item = TypeVar("_Item")


class Incoming(BaseModel):
    """A body that a caller sends."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Outgoing(BaseModel):
    """A body that a caller gets."""

    model_config = ConfigDict(frozen=True)


class Listing(Outgoing, Generic[_Item]):
    """A list that is complete."""

    items: list[_Item]


class Page(Outgoing, Generic[_Item]):
    """A part of a list; `next_cursor` null: the last one."""

    items: list[_Item]
    next_cursor: str | None = Field(default=None, description="Send it as `cursor` to go on.")


Limit = Annotated[int, Query(ge=1, le=200)]
Cursor = Annotated[str, Query(max_length=500)]
_LABEL = r"^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$"
Label = Annotated[str, StringConstraints(pattern=_LABEL)]
_EMAIL = r"^[^@\s]+@[^@\s]+$"
Email = Annotated[str, StringConstraints(min_length=3, max_length=254, pattern=_EMAIL)]
_ENVIRONMENT = r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$"
EnvironmentName = Annotated[str, StringConstraints(min_length=1, max_length=63, pattern=_ENVIRONMENT)]
EnvironmentQuery = Annotated[str, Query(min_length=1, max_length=63, pattern=_ENVIRONMENT)]

# What a text has to be, for people, by the pattern that says it to programs.
FORMS = {
    _ENVIRONMENT: "small letters, digits and hyphens, beginning and ending with a letter or a digit",
    _LABEL: "small letters, digits and hyphens, at most 40, beginning and ending with a letter or a digit",
    _EMAIL: "an e-mail address",
}


def moment(stamp: Timestamp) -> datetime:
    """A time that is always there."""
    return stamp.ToDatetime(UTC)


def moment_or_none(stamp: Timestamp) -> datetime | None:
    """A time that may not have come yet."""
    return stamp.ToDatetime(UTC) if stamp.ByteSize() else None


def stamp_of(when: datetime) -> Timestamp:
    """A time for a contract."""
    stamp = Timestamp()
    stamp.FromDatetime(when.astimezone(UTC))
    return stamp


def state_name(state: types_pb2.DeploymentState.ValueType) -> str:
    """ "queued", "building", …"""
    return types_pb2.DeploymentState.Name(state).removeprefix("DEPLOYMENT_STATE_").lower()
