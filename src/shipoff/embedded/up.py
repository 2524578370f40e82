"""`shipoff up`: everything in order, and in the opposite order on Ctrl-C or SIGTERM."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import structlog

from shipoff.common import config, postgres, sandbox
from shipoff.common.errors import ShipoffError
from shipoff.embedded import checks, process, services, welcome
from shipoff.embedded.caddy import Caddy
from shipoff.embedded.layout import Layout, backing_account, prepare
from shipoff.embedded.lock import locked
from shipoff.embedded.options import Options
from shipoff.embedded.platform import Platform, establish, settings
from shipoff.embedded.postgres import SERVICES as STORING
from shipoff.embedded.postgres import Postgres
from shipoff.embedded.progress import Report, explained
from shipoff.embedded.supervisor import Server, supervised
from shipoff.embedded.valkey import Valkey

log = structlog.get_logger()


async def up(options: Options, report: Report) -> None:
    """Runs the platform until SIGINT or SIGTERM, then stops it in order; a second signal ends everything at once.

    Raises ShipoffError when it cannot be started; what had started is stopped then.
    """
    stop, live = asyncio.Event(), asyncio.Event()
    work = asyncio.create_task(_until(stop, live, options, report))

    def asked() -> None:
        if stop.is_set():
            # The servers end with this process; apps are adopted by the next start.
            os._exit(1)
        stop.set()
        if not live.is_set():
            work.cancel()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, asked)
    try:
        await work
    except asyncio.CancelledError:
        if not stop.is_set():
            raise
    report.say("Stopped.")


async def _until(stop: asyncio.Event, live: asyncio.Event, options: Options, report: Report) -> None:
    async with running(options, report) as (platform, app_url):
        live.set()
        report.live(_welcome(platform, app_url, options), url=platform.url, app_url=app_url)
        log.info("platform live", url=platform.url)
        await stop.wait()
        report.say("Stopping (a second Ctrl-C ends everything at once) …")
        log.info("platform stopping")


@asynccontextmanager
async def running(options: Options, report: Report) -> AsyncIterator[tuple[Platform, str]]:
    """The live platform, and the sample app's URL if it serves; stopped in order when the block is left."""
    async with AsyncExitStack() as stack:
        platform = await _prepared(stack, report)
        await _start_servers(stack, platform, report)
        await _start_services(stack, platform, options, report)
        yield platform, await _welcomed(platform, options, report)


async def _prepared(stack: AsyncExitStack, report: Report) -> Platform:
    layout, account = Layout(config.home()), backing_account()
    with report.step("Data folder") as step:
        checks.check_git()
        checks.check_account()
        prepare(layout, account)
        stack.enter_context(locked(layout))
        checks.check_disk(layout)
        platform = establish(layout)
        ended = await process.end_leftovers(layout.run)
        checks.check_port(platform.http_port, account)
        step.note = f"{layout.home}, ended an earlier {', '.join(ended)}" if ended else str(layout.home)
    with report.step("Sandbox") as step:
        step.note, step.skipped = await asyncio.to_thread(_sandbox)
    return platform


def _sandbox() -> tuple[str, bool]:
    """What keeps builds and apps apart, and whether that is nothing. Raises PreconditionFailed where it is required."""
    mode = settings().sandbox
    if sandbox.usable(mode):
        return "bubblewrap: builds and apps see their own files and processes only", False
    if mode == "off":
        return "none (SHIPOFF_SANDBOX=off): deploy trusted code only", True
    return f"none ({sandbox.bubblewrap()[1]}): deploy trusted code only\n→ {sandbox.REMEDY}", True


async def _start_servers(stack: AsyncExitStack, platform: Platform, report: Report) -> None:
    layout, account = platform.layout, platform.account
    servers: Sequence[tuple[str, Server]] = (
        ("PostgreSQL", Postgres(layout, account, platform.passwords)),
        ("Valkey", Valkey(layout, account, platform.passwords["valkey"])),
        ("Caddy", Caddy(layout, account, platform.http_port)),
    )
    for title, server in servers:
        with report.step(title):
            stack.push_async_callback(server.stop)
            await server.start()
    await stack.enter_async_context(supervised([server for _, server in servers]))


async def _start_services(stack: AsyncExitStack, platform: Platform, options: Options, report: Report) -> None:
    with report.step("Migrations") as step:
        for name in STORING:
            await postgres.migrate(name, platform.database_url(name))
        step.note = f"{len(STORING)} databases"
    with report.step("Services") as step:
        if options.separate:
            await _start_separate(stack, platform)
        else:
            await stack.enter_async_context(services.running(services.SERVICES))
        await welcome.until_gateway_answers(platform)
        step.note = f"{len(services.SERVICES)}, {'each in a process of its own' if options.separate else 'in one process'}"


async def _start_separate(stack: AsyncExitStack, platform: Platform) -> None:
    children = [services.ServiceProcess(platform.layout, name) for name in services.SERVICES]
    stack.push_async_callback(_stop_separate, children)
    # At once: they find each other when they serve.
    async with asyncio.TaskGroup() as group:
        for child in children:
            group.create_task(child.start())
    await stack.enter_async_context(supervised(children))


async def _stop_separate(children: Sequence[services.ServiceProcess]) -> None:
    """The gateway first, so that nobody's request meets a service that is gone; then the others at once."""
    *others, gateway = children
    await gateway.stop()
    await asyncio.gather(*(child.stop() for child in others))


async def _welcomed(platform: Platform, options: Options, report: Report) -> str:
    """Signs the CLI in and sees to the sample app; its URL when it is live."""
    with report.step("Sign-in") as step:
        token = await asyncio.to_thread(welcome.signed_in, platform)
        if token is None:
            step.skipped = True
            step.note = f"this account has no token; sign in with one: shipoff login --url {platform.url} --token …"
            return ""
        step.note = platform.url
    return await _sample(platform, token, options, report)


async def _sample(platform: Platform, token: str, options: Options, report: Report) -> str:
    """Deploys the sample app where it is wanted and waits for its page; its URL. One that fails stops nothing."""
    with report.step("Sample app") as step:
        try:
            folder = welcome.sample_folder()
            if options.sample and folder and await asyncio.to_thread(welcome.sample_is_wanted, platform, token):
                await welcome.deploy_sample(platform, token, folder)
            if await asyncio.to_thread(welcome.sample_is_live, platform, token):
                await welcome.until_sample_answers(platform)
                step.note = platform.app_url(welcome.SAMPLE)
                return step.note
        except ShipoffError as error:
            log.warning("sample app not live", error=error.message)
            step.skipped, step.note = True, f"{welcome.SAMPLE} is not live:\n{explained(error)}"
            return ""
        step.skipped, step.note = True, "none"
    return ""


def _welcome(platform: Platform, app_url: str, options: Options) -> str:
    lines = [f"Live: {app_url}" if app_url else f"Live: {platform.url}"]
    lines.append("Your own: .venv/bin/shipoff deploy PATH")
    lines.append("Stop: make down" if options.detached else "Stop: Ctrl-C")
    return "\n".join(lines)
