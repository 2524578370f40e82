"""What the log service can be told. Prefix SHIPOFF_LOG_."""

from __future__ import annotations

from pydantic import Field

from shipoff.common.config import ServiceSettings, service_config


class LogSettings(ServiceSettings):
    """Read once at the start."""

    model_config = service_config("log")

    # Lines are kept this long after they were received.
    retention_days: float = Field(default=14.0, gt=0)
    # Of one deployment's lines the newest so many are kept.
    deployment_lines: int = Field(default=100_000, ge=1)
    # A reader who follows may be behind by so many lines before some are left out.
    follow_buffer_lines: int = Field(default=5_000, ge=1)
    # Lines that have not arrived after this, while later ones of their producer have, are reported as lost.
    hole_patience_s: float = Field(default=15.0, ge=0)
    # What a log process that died had taken is taken over after this: below the patience above. Twice is no harm.
    reclaim_idle_s: float = Field(default=5.0, gt=0)
    # How often lines that another process stored are looked for, for those who follow.
    poll_s: float = Field(default=1.0, gt=0)
    # How often old lines are removed.
    retention_s: float = Field(default=60.0, gt=0)
