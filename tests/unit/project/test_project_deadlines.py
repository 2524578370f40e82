"""A project's own time limits, and the platform's above them."""

from __future__ import annotations

import pytest

from shipoff.common.errors import InvalidInput
from shipoff.project.domain import BuildSettings, Deadlines, RunSettings, check_deadlines

MOST = Deadlines(queue_s=100, build_s=200, ready_s=300)


def test_what_is_within_the_platforms_limits_is_taken():
    check_deadlines(BuildSettings(timeout_s=200, queue_timeout_s=100), RunSettings(ready_timeout_s=300), MOST)


@pytest.mark.parametrize(
    ("build", "run", "field", "limit"),
    [
        (BuildSettings(queue_timeout_s=101), RunSettings(), "build.queue_timeout_s", "100"),
        (BuildSettings(timeout_s=201), RunSettings(), "build.timeout_s", "200"),
        (BuildSettings(), RunSettings(ready_timeout_s=301), "run.ready_timeout_s", "300"),
    ],
)
def test_what_is_beyond_them_is_refused_with_the_field_and_the_limit(build, run, field, limit):
    with pytest.raises(InvalidInput) as refused:
        check_deadlines(build, run, MOST)
    assert refused.value.field == field
    assert limit in refused.value.remedy
