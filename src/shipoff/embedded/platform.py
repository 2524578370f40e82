"""The platform's own settings: made once, kept in `secrets/` and `platform.env`, read by every service.

What a person adds to platform.env, or changes of the port and the domain, stays; what follows from the data folder's
place is written anew at each start, so that the folder can be moved.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass

from dotenv import dotenv_values
from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from shipoff.common import config
from shipoff.common.errors import InvalidInput
from shipoff.common.sandbox import Mode
from shipoff.common.sealing import KEY_BYTES
from shipoff.embedded.layout import Account, Layout, backing_account, write_private
from shipoff.embedded.postgres import SERVICES, SUPERUSER, database_url
from shipoff.embedded.valkey import redis_url

_HEADER = (
    "# Shipoff's settings on this machine, secrets included. Your own lines stay; the environment goes before this file.\n"
)


class PlatformSettings(BaseSettings):
    """What a person may choose: SHIPOFF_HTTP_PORT=9000 make up. What was chosen is kept for the next start."""

    model_config = SettingsConfigDict(env_prefix="SHIPOFF_", frozen=True, extra="ignore")

    # The one open port: apps, API and console.
    http_port: int = Field(default=8080, ge=1, le=65535)
    # Apps answer at <project>.<base_domain>.
    base_domain: str = Field(default="localhost", pattern=r"^[a-z0-9]([a-z0-9.-]{0,180}[a-z0-9])?$")
    # Seals variables; without it they are lost.
    master_key: SecretStr = SecretStr("")
    github_webhook_secret: SecretStr = SecretStr("")
    # Whoever has it makes the first owner, once.
    setup_token: SecretStr = SecretStr("")
    # s3://bucket/prefix keeps uploads and artifacts there; else they are files of the data folder.
    objects_url: str = ""
    # Builds and apps run inside bubblewrap where it works ("auto"), always ("required") or never ("off").
    sandbox: Mode = "auto"


@dataclass(frozen=True)
class Platform:
    """One machine's platform."""

    layout: Layout
    account: Account | None
    http_port: int
    base_domain: str
    setup_token: str
    # By role: the superuser, each service's, and `valkey`.
    passwords: Mapping[str, str]

    @property
    def url(self) -> str:
        """Where the API answers."""
        return f"http://localhost:{self.http_port}"

    def database_url(self, service: str) -> str:
        """How a service connects to its own database."""
        return database_url(self.layout, service, self.passwords[service])

    def app_url(self, project: str) -> str:
        """Where a project's production environment answers."""
        return f"http://{project}.{self.base_domain}:{self.http_port}"


def settings() -> PlatformSettings:
    """Reads the environment and platform.env. Raises InvalidInput naming the setting that is wrong."""
    try:
        return config.load(PlatformSettings)
    except ValidationError as error:
        problem = error.errors()[0]
        name = f"SHIPOFF_{'_'.join(str(part) for part in problem['loc']).upper()}"
        raise InvalidInput(f"{name}={problem['input']}: {problem['msg']}", field=name) from error


def establish(layout: Layout) -> Platform:
    """Makes the secrets that are missing, writes platform.env, and gives the platform. The folders exist already."""
    chosen = settings()
    setup_token = chosen.setup_token.get_secret_value() or _kept_secret(layout, "setup-token", secrets.token_urlsafe(24))
    fresh_key = base64.b64encode(os.urandom(KEY_BYTES)).decode()
    passwords = _passwords(layout)
    values = {
        "SHIPOFF_HTTP_PORT": str(chosen.http_port),
        "SHIPOFF_BASE_DOMAIN": chosen.base_domain,
        "SHIPOFF_SETUP_TOKEN": setup_token,
        "SHIPOFF_MASTER_KEY": chosen.master_key.get_secret_value() or _kept_secret(layout, "master-key", fresh_key),
        "SHIPOFF_GITHUB_WEBHOOK_SECRET": chosen.github_webhook_secret.get_secret_value()
        or _kept_secret(layout, "github-webhook-secret", secrets.token_urlsafe(32)),
        # A platform that is stopped leaves nothing running; its next start builds again.
        "SHIPOFF_BUILD_KEEP_BUILDERS": "false",
        "SHIPOFF_REDIS_URL": redis_url(layout, passwords["valkey"]),
        "SHIPOFF_OBJECTS_URL": _objects_url(chosen, layout),
        **{f"SHIPOFF_{name.upper()}_DATABASE_URL": database_url(layout, name, passwords[name]) for name in SERVICES},
    }
    _write_settings(layout, values)
    return Platform(
        layout=layout,
        account=backing_account(),
        http_port=chosen.http_port,
        base_domain=chosen.base_domain,
        setup_token=setup_token,
        passwords=passwords,
    )


def _objects_url(chosen: PlatformSettings, layout: Layout) -> str:
    """A bucket that was chosen; a folder moves with the data folder. Raises InvalidInput for what is neither."""
    if chosen.objects_url.startswith("s3://"):
        return chosen.objects_url
    if chosen.objects_url and not chosen.objects_url.startswith("file://"):
        name = "SHIPOFF_OBJECTS_URL"
        remedy = f"set {name} to s3://bucket/prefix, or leave it out: objects are files of the data folder then"
        raise InvalidInput(f"{name}={chosen.objects_url} names no object store that is known", field=name, remedy=remedy)
    return f"file://{layout.home / 'objects'}"


def _kept_secret(layout: Layout, name: str, fresh: str) -> str:
    """The secret of that name; the fresh one, kept from now on, where there is none."""
    path = layout.secrets / name
    if not path.is_file():
        write_private(path, fresh + "\n")
    return path.read_text().strip()


def _passwords(layout: Layout) -> dict[str, str]:
    roles = (SUPERUSER, *SERVICES, "valkey")
    kept = json.loads(_kept_secret(layout, "passwords.json", "{}"))
    missing = {role: secrets.token_urlsafe(24) for role in roles if role not in kept}
    if missing:
        kept |= missing
        write_private(layout.secrets / "passwords.json", json.dumps(kept, indent=2) + "\n")
    return {role: str(kept[role]) for role in roles}


def _write_settings(layout: Layout, values: Mapping[str, str]) -> None:
    kept = dotenv_values(layout.settings, interpolate=False) if layout.settings.exists() else {}
    lines = [f"{name}={_quoted(value or '')}\n" for name, value in {**kept, **values}.items()]
    write_private(layout.settings, _HEADER + "".join(lines))


def _quoted(value: str) -> str:
    """As a value of a .env file."""
    if value and all(character.isalnum() or character in "-_./:@+=?%," for character in value):
        return value
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
