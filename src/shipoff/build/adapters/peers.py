"""The detector over gRPC, the log over its stream."""

from __future__ import annotations

from collections.abc import Sequence

from shipoff.build.ports import Stored
from shipoff.common.errors import PermanentError
from shipoff.common.streams import LOGS_INGEST, Streams
from shipoff.contracts.build.v1 import build_pb2
from shipoff.contracts.detector.v1 import detector_pb2, detector_pb2_grpc
from shipoff.contracts.events.v1 import events_pb2
from shipoff.contracts.types.v1 import types_pb2

_DETECT_S = 20.0


class RemoteDetector:
    """Implements ports.Detector."""

    def __init__(self, stub: detector_pb2_grpc.DetectorServiceStub, *, builds_images: bool = False) -> None:
        self._stub = stub
        self._builds_images = builds_images

    async def detect(self, snapshot: build_pb2.Snapshot, settings: types_pb2.BuildSettings) -> build_pb2.PlanDecided:
        """The plan, or the problem. Raises TemporaryError while the detector is away."""
        request = detector_pb2.DetectRequest(
            paths=snapshot.paths,
            contents=dict(snapshot.contents),
            settings=settings,
            source_digest=snapshot.digest,
            builds_images=self._builds_images,
        )
        try:
            answer = await self._stub.Detect(request, timeout=_DETECT_S)
        except PermanentError as error:
            # The same source would fail the same way.
            return build_pb2.PlanDecided(problem=f"the source cannot be planned: {error.message}")
        if not answer.HasField("plan"):
            return build_pb2.PlanDecided(problem=answer.problem)
        return build_pb2.PlanDecided(plan=answer.plan)


class StreamedLog:
    """Implements ports.LogSink."""

    def __init__(self, streams: Streams) -> None:
        self._streams = streams

    async def publish(self, stored: Stored, lines: Sequence[types_pb2.LogLine]) -> None:
        """Returns once they are on the stream. Raises TemporaryError. Lines published twice keep their sequence."""
        batch = events_pb2.LogBatch(
            stream_id=f"{stored.ref.deployment_id}/build/{stored.ref.attempt}",
            deployment_id=stored.ref.deployment_id,
            project_id=stored.project_id,
            team_id=stored.team_id,
            source=types_pb2.LOG_SOURCE_BUILD,
            lines=lines,
        )
        await self._streams.publish(LOGS_INGEST, [batch], tenant_id=stored.team_id)
