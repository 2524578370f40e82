"""Webhook deliveries on a real database."""

from __future__ import annotations

import asyncio
import hmac
from typing import Any

import pytest
from neighbours.project import SECRET, URL, push_body
from pydantic import SecretStr

from shipoff.common.errors import InvalidInput, Unauthenticated
from shipoff.common.rpc import channel
from shipoff.common.telemetry import Context, working_on
from shipoff.contracts.project.v1 import project_pb2 as pb
from shipoff.contracts.project.v1.project_pb2_grpc import ProjectServiceStub
from shipoff.contracts.types.v1 import types_pb2
from shipoff.project.main import running
from shipoff.project.settings import ProjectSettings

ONE, TWO, THREE = "1" * 40, "2" * 40, "3" * 40


async def test_a_push_deploys_the_project_that_follows_the_repository(project: Any, eventually: Any) -> None:
    shop = await project.following()
    answer = await project.deliver(push_body(ONE))
    assert (answer.repeated, answer.ignored_because, len(answer.deployment_ids)) == (False, "", 1)
    (event,) = await eventually(project.events)
    message = event.message
    assert (message.project_id, [message.deployment_id]) == (shop.id, list(answer.deployment_ids))
    assert message.source.git == types_pb2.GitSource(url=URL, ref="main", commit=ONE)
    assert (message.branch, message.commit_message, message.requested_by) == ("main", "commit 1111", "github:ada")
    assert (message.trigger, message.environment) == (types_pb2.TRIGGER_WEBHOOK, "production")


async def test_every_follower_of_the_branch_is_deployed_and_nobody_else(project: Any) -> None:
    await project.following("one")
    await project.following("two", url="git@github.com:ADA/Engine.git", branch="main")
    await project.following("other-branch", branch="release")
    await project.following("other-repository", url="https://github.com/eve/engine")
    await project.project("none")
    answer = await project.deliver(push_body(ONE))
    assert len(answer.deployment_ids) == 2


@pytest.mark.parametrize("signature", ["", "sha256=", "sha1=" + "0" * 40, "sha256=" + "0" * 64])
@pytest.mark.parametrize("body", [push_body(ONE), b"[" * 100_000, b""])
async def test_an_unsigned_delivery_is_refused_whatever_it_says(project: Any, signature: str, body: bytes) -> None:
    await project.following()
    with pytest.raises(Unauthenticated):
        await project.deliver(body, signature=signature)
    assert await project.count("deliveries") == await project.count("deployment_requests") == 0


async def test_without_a_configured_secret_every_delivery_is_refused(project_settings: ProjectSettings) -> None:
    settings = project_settings.model_copy(update={"github_webhook_secret": SecretStr("")})
    signature = "sha256=" + hmac.new(b"", b"{}", "sha256").hexdigest()
    async with running(settings), channel(settings.listen) as ch:
        with pytest.raises(Unauthenticated):
            await ProjectServiceStub(ch).ReceiveWebhook(
                pb.ReceiveWebhookRequest(provider="github", delivery_id="1", event="ping", signature=signature, body=b"{}")
            )
    assert SECRET not in repr(project_settings)


async def test_a_replayed_delivery_does_nothing_and_tells_the_same(project: Any) -> None:
    await project.following()
    first = await project.deliver(push_body(ONE), delivery_id="d-1")
    again = await project.deliver(push_body(ONE), delivery_id="d-1")
    assert (again.repeated, list(again.deployment_ids)) == (True, list(first.deployment_ids))
    ignored = await project.deliver(b"{}", delivery_id="d-2", event="ping")
    assert (await project.deliver(b"{}", delivery_id="d-2", event="ping")).ignored_because == ignored.ignored_because
    assert await project.count("deployment_requests") == 1


@pytest.mark.parametrize(
    ("body", "event", "reason"),
    [
        (b'{"zen": "Keep it logically awesome."}', "ping", "ping"),
        (b"{}", "issues", "issues"),
        (push_body(ONE, ref="refs/tags/v1"), "push", "tag"),
        (push_body(ONE, ref="refs/heads/feature"), "push", "main is followed"),
        (push_body("0" * 40, deleted=True, head_commit=None), "push", "deleted"),
        (
            push_body(ONE, repository={"clone_url": "https://github.com/x/y", "default_branch": "main", "pushed_at": 1}),
            "push",
            "follows",
        ),
    ],
)
async def test_what_starts_nothing_says_why(project: Any, body: bytes, event: str, reason: str) -> None:
    await project.following()
    answer = await project.deliver(body, event=event)
    assert not answer.deployment_ids
    assert reason in answer.ignored_because
    assert await project.count("deployment_requests") == 0


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"{}", b"[" * 100_000, push_body(ONE, repository=None), push_body("x")])
async def test_a_signed_body_that_is_no_push_is_invalid_and_not_remembered(project: Any, body: bytes) -> None:
    await project.following()
    with pytest.raises(InvalidInput):
        await project.deliver(body, delivery_id="d-1")
    assert (await project.deliver(push_body(ONE), delivery_id="d-1")).deployment_ids


async def test_a_delivery_without_an_id_is_invalid(project: Any) -> None:
    with pytest.raises(InvalidInput) as raised:
        await project.deliver(push_body(ONE), delivery_id="")
    assert raised.value.field == "delivery_id"


async def test_the_same_push_through_two_webhooks_is_one_deployment(project: Any) -> None:
    await project.following()
    await project.deliver(push_body(ONE), delivery_id="organisation")
    answer = await project.deliver(push_body(ONE), delivery_id="repository")
    assert (list(answer.deployment_ids), answer.ignored_because) == ([], "this push was deployed already")


async def test_following_another_repository_forgets_the_first_ones_pushes(project: Any) -> None:
    shop = await project.following(url="https://github.com/ada/first")
    first = {"clone_url": "https://github.com/ada/first", "default_branch": "main", "pushed_at": 2_000_000_000}
    assert (await project.deliver(push_body(ONE, repository=first))).deployment_ids
    await project.stub.UpdateProject(pb.UpdateProjectRequest(project_id=shop.id, repository=pb.Repository(url=URL)))
    assert (await project.deliver(push_body(TWO))).deployment_ids


async def test_a_deleted_project_follows_nothing(project: Any) -> None:
    shop = await project.following()
    await project.stub.DeleteProject(pb.DeleteProjectRequest(project_id=shop.id))
    assert "no project follows" in (await project.deliver(push_body(ONE))).ignored_because


async def test_deliveries_that_come_together_end_as_if_they_had_come_one_by_one(project: Any, eventually: Any) -> None:
    """Each under its own request's id; one that is repeated once, and one that cannot be stored alone."""
    names = [f"shop-{number}" for number in range(6)]
    for name in names:
        await project.following(name, url=f"https://github.com/ada/{name}")

    async def deliver(name: str, delivery_id: str) -> Any:
        repository = {"clone_url": f"https://github.com/ada/{name}", "default_branch": "main", "pushed_at": 2_000_000_000}
        with working_on(Context(request_id=f"request-{delivery_id!r}")):
            return await project.deliver(push_body(ONE, repository=repository), delivery_id=delivery_id)

    sent = [deliver(name, f"{name}-{number}") for name in names for number in (1, 1, 2)]
    *answers, refused = await asyncio.gather(*sent, deliver(names[0], "with\0nul"), return_exceptions=True)
    assert isinstance(refused, InvalidInput)
    for first, again, later in zip(answers[::3], answers[1::3], answers[2::3], strict=True):
        assert sorted([first.repeated, again.repeated, later.repeated]) == [False, False, True]
        # The delivery that was sent twice tells the same twice; the same push in another delivery starts nothing more.
        assert list(first.deployment_ids) == list(again.deployment_ids)
        assert len({*first.deployment_ids, *later.deployment_ids}) == 1
    assert await project.count("deployment_requests") == len(names)
    assert await project.count("deliveries") == 2 * len(names)

    async def published() -> bool:
        events = await project.events()
        return len(events) == len(names) and len({event.request_id for event in events}) == len(names)

    await eventually(published)
