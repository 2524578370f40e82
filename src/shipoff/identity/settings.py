"""What identity is told at its start."""

from __future__ import annotations

from pydantic import Field, SecretStr

from shipoff.common.config import ServiceSettings, service_config


class IdentitySettings(ServiceSettings):
    """SHIPOFF_IDENTITY_…"""

    model_config = service_config("identity")

    # Proves to the platform that somebody may make the first owner. Empty: nobody may.
    setup_token: SecretStr = Field(default=SecretStr(""), validation_alias="SHIPOFF_SETUP_TOKEN")
    # How long a token is valid whose maker did not say.
    token_days: int = Field(default=365, ge=1)
    # Connections to the database, and those for what only reads besides.
    pool_size: int = Field(default=5, ge=1)
    read_pool_size: int = Field(default=2, ge=0)
