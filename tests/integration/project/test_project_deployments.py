"""Uploads and requests, on a real database, Valkey and object store."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import os
from collections.abc import AsyncIterator
from typing import Any

import pytest
import sqlalchemy as sa

from shipoff.common.errors import AlreadyExists, Exhausted, InvalidInput, NotFound
from shipoff.common.ids import new_id
from shipoff.common.objects import ObjectStore
from shipoff.common.outbox import Outbox
from shipoff.contracts.project.v1 import project_pb2 as pb
from shipoff.contracts.types.v1 import types_pb2
from shipoff.project.adapters.postgres import PostgresStore
from shipoff.project.reconciler import sweep_archives

ARCHIVE = gzip.compress(b"some source code")


def archive(digest: str) -> types_pb2.Source:
    return types_pb2.Source(archive=types_pb2.ArchiveSource(digest=digest))


def git(**fields: str) -> types_pb2.Source:
    return types_pb2.Source(git=types_pb2.GitSource(**fields))


async def test_an_upload_is_stored_under_its_digest(project: Any) -> None:
    shop = await project.project("shop")
    source = await project.upload(shop.id, ARCHIVE[:1], ARCHIVE[1:5], b"", ARCHIVE[5:])
    hexdigest = hashlib.sha256(ARCHIVE).hexdigest()
    assert source == types_pb2.ArchiveSource(
        digest=f"sha256:{hexdigest}", object_key=f"sources/{shop.id}/{hexdigest}.tar.gz", size_bytes=len(ARCHIVE)
    )
    assert (project.objects / source.object_key).read_bytes() == ARCHIVE
    assert await project.upload(shop.id, ARCHIVE) == source
    assert project.files() == [source.object_key]


@pytest.mark.parametrize("chunks", [(b"",), (b"\x1f",), (b"PK\x03\x04 a zip",), (b"\x1f", b"\x8c")])
async def test_what_is_no_gzip_file_is_refused_and_leaves_nothing(project: Any, chunks: tuple[bytes, ...]) -> None:
    shop = await project.project("shop")
    with pytest.raises(InvalidInput) as raised:
        await project.upload(shop.id, *chunks)
    assert raised.value.field == "source"
    assert project.files() == []


async def test_an_upload_beyond_the_limit_is_refused_and_leaves_nothing(project: Any) -> None:
    shop = await project.project("shop")
    with pytest.raises(Exhausted) as raised:
        await project.upload(shop.id, ARCHIVE[:2], *[os.urandom(256 << 10)] * 5)
    assert raised.value.remedy
    assert project.files() == []


async def test_an_upload_that_is_cut_leaves_nothing(project: Any, eventually: Any) -> None:
    shop = await project.project("shop")
    sent = asyncio.Event()

    async def parts() -> AsyncIterator[pb.UploadSourceRequest]:
        yield pb.UploadSourceRequest(project_id=shop.id)
        yield pb.UploadSourceRequest(chunk=ARCHIVE)
        sent.set()
        await asyncio.Event().wait()

    upload = asyncio.ensure_future(project.stub.UploadSource(parts(), timeout=30))
    await sent.wait()
    upload.cancel()
    await eventually(lambda: project.files() == [])
    assert await project.count("sources") == 0


async def test_the_first_message_names_the_project(project: Any) -> None:
    shop = await project.project("shop")

    async def parts(*requests: pb.UploadSourceRequest) -> AsyncIterator[pb.UploadSourceRequest]:
        for request in requests:
            yield request

    chunk, name = pb.UploadSourceRequest(chunk=ARCHIVE), pb.UploadSourceRequest(project_id=shop.id)
    for order in [(chunk,), (), (name, chunk, name)]:
        with pytest.raises(InvalidInput):
            await project.stub.UploadSource(parts(*order), timeout=30)
    with pytest.raises(NotFound):
        await project.upload(new_id())
    assert project.files() == []


async def test_an_accepted_archive_carries_every_fact(project: Any, eventually: Any) -> None:
    shop = await project.project("shop", run=types_pb2.RunSettings(replicas=2))
    await project.stub.SetVariables(
        pb.SetVariablesRequest(project_id=shop.id, environment="staging", variables={"A": "1"}, changed_by="user-1")
    )
    source = await project.upload(shop.id, ARCHIVE)
    deployment_id = await project.request(shop.id, environment="staging", source=archive(source.digest))
    (event,) = await eventually(project.events)
    message = event.message
    assert (event.tenant_id, message.deployment_id, message.environment) == (project.team_id, deployment_id, "staging")
    assert (message.project_id, message.project_name, message.team_id) == (shop.id, "shop", project.team_id)
    assert message.source.archive == source
    assert (message.trigger, message.requested_by, message.branch) == (types_pb2.TRIGGER_UPLOAD, "user-1", "")
    assert list(message.hosts) == ["shop-staging.apps.example.com"]
    assert (message.configuration.version, message.configuration.run.replicas) == (2, 2)
    assert project.sealer().open_variables(message.configuration.variables) == {"A": "1"}
    found = await project.stub.GetDeploymentRequest(pb.GetDeploymentRequestRequest(deployment_id=deployment_id))
    assert (found.source.archive, found.environment, found.trigger) == (source, "staging", types_pb2.TRIGGER_UPLOAD)
    assert (found.requested_at, found.team_id) == (message.requested_at, project.team_id)


async def test_an_archive_of_another_project_is_not_found(project: Any) -> None:
    shop, other = await project.project("shop"), await project.project("other")
    source = await project.upload(shop.id, ARCHIVE)
    with pytest.raises(NotFound) as raised:
        await project.request(other.id, source=archive(source.digest))
    assert raised.value.field == "source.archive.digest"
    forged = types_pb2.Source(
        archive=types_pb2.ArchiveSource(digest=source.digest, object_key="../../etc/passwd", size_bytes=9)
    )
    deployment_id = await project.request(shop.id, source=forged)
    found = await project.stub.GetDeploymentRequest(pb.GetDeploymentRequestRequest(deployment_id=deployment_id))
    assert found.source.archive == source


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"url": "ext::sh -c whoami"}, "source.git.url"),
        ({"url": "file:///etc"}, "source.git.url"),
        ({"url": "/etc"}, "source.git.url"),
        ({"url": "-oProxyCommand=x"}, "source.git.url"),
        ({"url": "http://169.254.169.254/latest"}, "source.git.url"),
        ({"url": "https://github.com/a/b", "ref": "--upload-pack=touch /tmp/x"}, "source.git.ref"),
        ({"url": "https://github.com/a/b", "ref": "a..b"}, "source.git.ref"),
        ({"url": "https://github.com/a/b", "commit": "HEAD"}, "source.git.commit"),
    ],
)
async def test_a_hostile_git_source_is_refused_with_its_field(project: Any, fields: dict[str, str], field: str) -> None:
    shop = await project.project("shop")
    with pytest.raises(InvalidInput) as raised:
        await project.request(shop.id, source=git(**fields))
    assert raised.value.field == field
    assert await project.count("deployment_requests") == 0


async def test_credentials_in_a_url_are_kept_nowhere(project: Any, eventually: Any) -> None:
    shop = await project.project("shop")
    await project.request(shop.id, source=git(url="https://user:hunter2@github.com/a/b", ref="main;curl${IFS}x|sh"))
    (event,) = await eventually(project.events)
    assert event.message.source.git.url == "https://github.com/a/b"
    assert event.message.branch == "main;curl${IFS}x|sh"
    assert event.message.trigger == types_pb2.TRIGGER_GIT


async def test_one_key_is_one_deployment_however_often_and_whatever_else(project: Any, eventually: Any) -> None:
    shop, other = await project.project("shop"), await project.project("other")
    ids = await asyncio.gather(*(project.request(shop.id, idempotency_key="k") for _ in range(6)))
    ids.append(await project.request(shop.id, idempotency_key="k", source=git(url="ext::nonsense")))
    assert len(set(ids)) == 1
    assert await project.request(other.id, idempotency_key="k") not in ids
    assert await project.request(shop.id) != await project.request(shop.id)
    await eventually(lambda: _count(project, 4))


async def _count(project: Any, expected: int) -> bool:
    return len(await project.events()) == expected


async def test_a_request_that_fails_leaves_no_event(project: Any) -> None:
    shop = await project.project("shop")
    await project.project("shop-qa")
    for environment in ("Bad_Name", "qa"):
        with pytest.raises((InvalidInput, AlreadyExists)):
            await project.request(shop.id, environment=environment)
    assert await project.count("deployment_requests") == await project.count("outbox") == 0


async def test_a_key_of_a_failed_request_is_free(project: Any) -> None:
    shop = await project.project("shop")
    with pytest.raises(InvalidInput):
        await project.request(shop.id, idempotency_key="k", source=git(url="ext::x"))
    assert await project.request(shop.id, idempotency_key="k")


async def test_an_unknown_deployment_is_not_found(project: Any) -> None:
    with pytest.raises(NotFound):
        await project.stub.GetDeploymentRequest(pb.GetDeploymentRequestRequest(deployment_id=new_id()))


async def test_archives_that_nobody_used_for_long_are_removed(project: Any) -> None:
    shop = await project.project("shop")
    old, kept = await project.upload(shop.id, ARCHIVE), await project.upload(shop.id, gzip.compress(b"other"))
    async with project.database.transaction() as tx:
        await tx.execute(sa.text("UPDATE sources SET used_at = now() - interval '15 days'"))
    await project.request(shop.id, source=archive(kept.digest))
    store = PostgresStore(project.database, Outbox(project.database, project.streams, producing=[]))
    async with ObjectStore.open(project.settings.objects_url) as objects:
        await sweep_archives(store, objects, kept_days=14)
    assert project.files() == [kept.object_key]
    with pytest.raises(NotFound):
        await project.request(shop.id, source=archive(old.digest))
    assert await project.upload(shop.id, ARCHIVE) == old
    assert await project.request(shop.id, source=archive(old.digest))
