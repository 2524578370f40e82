"""The composition root."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from shipoff.common.config import address, load
from shipoff.common.rpc import serving
from shipoff.contracts.detector.v1 import detector_pb2_grpc
from shipoff.detector.server import DetectorServicer
from shipoff.detector.settings import DetectorSettings


@asynccontextmanager
async def running(settings: DetectorSettings | None = None) -> AsyncIterator[None]:
    """Runs the service until the context is left; then drains it."""
    settings = settings or load(DetectorSettings)
    registration = (detector_pb2_grpc.add_DetectorServiceServicer_to_server, DetectorServicer())
    async with serving(settings.listen or address("detector"), [registration]):
        yield
