"""The settings of images, as the operator writes them and as builders are told."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from shipoff.build.adapters.assignment import Assignment as Sent
from shipoff.build.adapters.assignment import Limits as SentLimits
from shipoff.build.adapters.images import images
from shipoff.build.settings import BuildSettings
from shipoff.builder.assignment import Assignment


def settings(**values: object) -> BuildSettings:
    return BuildSettings(_env_file=None, **values)  # type: ignore[arg-type]  # pydantic-settings' own keyword


def test_native_builds_know_nothing_of_images():
    assert images(settings()) is None


def test_images_need_a_registry():
    with pytest.raises(ValidationError, match="SHIPOFF_BUILD_REGISTRY"):
        settings(executor="buildkit")


@pytest.mark.parametrize("field", ["base_images", "registry_mirrors"])
@pytest.mark.parametrize("text", ["python", "python=", "=x", "a=b,c"])
def test_a_list_of_pairs_that_is_none_is_refused_by_its_name(field, text):
    with pytest.raises(ValidationError, match=f"SHIPOFF_BUILD_{field.upper()}"):
        settings(**{field: text})


def test_a_builder_is_told_what_the_operator_wrote(tmp_path):
    program = tmp_path / "docker-buildx"
    program.write_text("")
    written = settings(
        executor="buildkit",
        registry="r.example:5000/apps",
        buildx=str(program),
        base_images="python=a:1, python-run=b:1",
        registry_mirrors="docker.io=m/hub",
        platforms="linux/amd64,linux/arm64",
        sbom_generator="off",
    )
    sent = Sent(
        address="a", token="t", mark="m", work="/w", caches="/c", uid=None, path="/bin", environment={}, allow_hosts=(),
        patience_s=1.0, limits=SentLimits(1, 1, 1, 1, 1, 1, 1, 1), images=images(written),
    )  # fmt: skip
    told = Assignment.from_json(sent.to_json()).images
    assert told is not None
    assert (told.registry, told.buildx, told.sbom_generator) == ("r.example:5000/apps", str(program), "")
    assert told.base_images == {"python": "a:1", "python-run": "b:1"}
    assert told.mirrors == {"docker.io": "m/hub"}
    assert told.platforms == ("linux/amd64", "linux/arm64")
