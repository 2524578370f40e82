"""What a platform of processes says to an image."""

from __future__ import annotations

import pytest

from shipoff.common.errors import InvalidInput
from shipoff.contracts.runtime.v1 import runtime_pb2
from shipoff.contracts.types.v1 import types_pb2
from shipoff.runtime.server import Defaults, workload_of


def test_an_image_is_refused_with_its_reference_and_the_setting():
    reference = "registry.example/apps/a@sha256:" + "a" * 64
    image = types_pb2.Artifact(kind=types_pb2.ARTIFACT_KIND_IMAGE, object_key=reference)
    with pytest.raises(InvalidInput, match=rf"{reference}.*SHIPOFF_BUILD_EXECUTOR=native"):
        workload_of(runtime_pb2.Workload(artifact=image), defaults=Defaults(memory_bytes=1, ready_timeout_s=1), now=0.0)
