"""The ids that follow a request."""

from __future__ import annotations

import asyncio

import pytest

from shipoff.common.telemetry import Context, current, new_traceparent, together, valid_traceparent, working_on

GIVEN = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_a_given_trace_is_kept_and_a_missing_one_begun():
    with working_on(Context(traceparent=GIVEN)):
        assert current().traceparent == GIVEN
    with working_on(Context(traceparent="nonsense")):
        assert valid_traceparent(current().traceparent)
    assert current() == Context()


@pytest.mark.parametrize("text", ["", GIVEN[:-1], GIVEN.upper(), GIVEN.replace("-", "_"), f"{GIVEN}0"])
def test_what_is_no_trace_context_is_not_taken_for_one(text):
    assert not valid_traceparent(text)


def test_two_new_ones_differ():
    assert new_traceparent() != new_traceparent()


async def test_tasks_do_not_see_each_other_s_ids():
    async def ask(request_id: str) -> str:
        with working_on(Context(request_id=request_id)):
            await asyncio.sleep(0)
            return current().request_id

    assert await asyncio.gather(ask("a"), ask("b")) == ["a", "b"]


def test_work_on_several_things_has_a_trace_of_its_own_that_names_theirs():
    first, second = (Context(request_id=name, tenant_id="t", traceparent=new_traceparent()) for name in ("r-1", "r-2"))
    both = together([first, second])
    assert both == Context(tenant_id="t", links=(first.traceparent, second.traceparent))
    with working_on(both) as ids:
        assert valid_traceparent(ids.traceparent)
        assert ids.traceparent not in both.links


def test_work_on_a_single_thing_has_its_ids():
    alone = Context(request_id="r", tenant_id="t", traceparent=GIVEN)
    assert together([alone]) == alone
