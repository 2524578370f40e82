"""The detector's settings: where it listens, nothing more."""

from __future__ import annotations

from shipoff.common.config import ServiceSettings, service_config


class DetectorSettings(ServiceSettings):
    """SHIPOFF_DETECTOR_…"""

    model_config = service_config("detector")
