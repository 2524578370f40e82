"""Plans before anything is built."""

from __future__ import annotations

from shipoff.contracts.detector.v1 import detector_pb2
from shipoff.contracts.types.v1 import types_pb2
from shipoff.gateway.access import Reach
from shipoff.gateway.authentication import Role
from shipoff.gateway.models.plans import DetectIn, DetectOut, detect_out
from shipoff.gateway.models.projects import merged_build
from shipoff.gateway.routing import guarded

router = guarded("plans", large=True)

_TIMEOUT_S = 20.0


@router.post("/v1/detect")
async def detect(body: DetectIn, reach: Reach) -> DetectOut:
    """How a source would be built and run, and why; or the question that has to be answered first. Nothing is built."""
    settings = types_pb2.BuildSettings()
    if body.project is not None:
        settings = (await reach.project(body.project, needs=Role.VIEWER)).build
    request = detector_pb2.DetectRequest(
        paths=body.paths,
        contents={path: text.encode() for path, text in body.contents.items()},
        settings=merged_build(settings, body.build) or settings,
        source_digest=body.source_digest,
        builds_images=reach.gateway.settings.build_executor == "buildkit",
    )
    return detect_out(await reach.gateway.clients.detector.Detect(request, timeout=_TIMEOUT_S))
