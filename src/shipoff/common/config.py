"""Where settings come from: the environment first, then `platform.env` in the data folder, then the default."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeVar

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

_Settings = TypeVar("_Settings", bound=BaseSettings)


def home() -> Path:
    """The data folder: SHIPOFF_HOME; unset, `~/.shipoff`, and for root /var/lib/shipoff.

    Root's own home is closed to the accounts that the databases and the apps run under.
    """
    given = os.environ.get("SHIPOFF_HOME")
    if given:
        return Path(given).expanduser().resolve()
    return Path("/var/lib/shipoff") if os.geteuid() == 0 else Path.home() / ".shipoff"


def settings_file() -> Path:
    """The settings that the embedded platform wrote for its services."""
    return home() / "platform.env"


def load(kind: type[_Settings]) -> _Settings:
    """Reads and validates settings of this class.

    Raises pydantic.ValidationError, which names the setting, when one is missing or wrong.
    """
    return kind(_env_file=settings_file())


def listed(text: str) -> list[str]:
    """The entries of a list with commas; empty ones count for nothing."""
    return [entry for part in text.split(",") if (entry := part.strip())]


def service_config(service: str) -> SettingsConfigDict:
    """The settings behaviour of a service: frozen, prefix SHIPOFF_<SERVICE>_."""
    return SettingsConfigDict(env_prefix=f"SHIPOFF_{service.upper()}_", frozen=True, extra="ignore", populate_by_name=True)


class ServiceSettings(BaseSettings):
    """What every service is told. A subclass sets `model_config = service_config("<service>")`."""

    # Its own database, as postgresql+asyncpg://role:password@/name?host=folder. Empty for services that store nothing.
    database_url: str = ""
    # Where it listens for gRPC; empty: at its own `address()`.
    listen: str = ""
    redis_url: str = Field(default="", validation_alias="SHIPOFF_REDIS_URL")
    # file:///folder or s3://bucket.
    objects_url: str = Field(default="", validation_alias="SHIPOFF_OBJECTS_URL")
    # 32 bytes in base64; seals data keys. Only project, build, runtime and worker are given it.
    master_key: SecretStr = Field(default=SecretStr(""), validation_alias="SHIPOFF_MASTER_KEY")


class _Addresses(BaseSettings):
    """Peers' gRPC addresses where they are not on this machine: SHIPOFF_<SERVICE>_ADDRESS."""

    model_config = SettingsConfigDict(env_prefix="SHIPOFF_", frozen=True, extra="ignore")

    identity_address: str = ""
    project_address: str = ""
    orchestrator_address: str = ""
    build_address: str = ""
    detector_address: str = ""
    runtime_address: str = ""
    log_address: str = ""
    cdn_address: str = ""
    worker_address: str = ""
    gateway_address: str = ""


def address(service: str) -> str:
    """The gRPC address of a service; by default a Unix socket in the data folder."""
    given: str = getattr(load(_Addresses), f"{service}_address")
    return given or f"unix:{home()}/run/grpc/{service}.sock"
