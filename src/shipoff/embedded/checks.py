"""What has to be so before anything is started; each failure is one line with its remedy."""

from __future__ import annotations

import errno
import os
import pwd
import shutil
import socket
from pathlib import Path

import psutil

from shipoff.common.errors import Exhausted, PreconditionFailed
from shipoff.embedded.layout import Account, Layout

# The databases need some 100 MB, a build of a small app as much again, and PostgreSQL stops when it cannot write.
_FIRST_BYTES = 1 << 30
# A platform that has its data comes back with less, and serves; a deployment is refused where there is no room for it.
_AGAIN_BYTES = 64 << 20
_FIRST_OPEN_PORT = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")


def check_git() -> None:
    """Raises PreconditionFailed where git is missing."""
    if shutil.which("git") is None:
        raise PreconditionFailed("git is not installed", remedy="apt-get install git (macOS: xcode-select --install)")


def check_account() -> None:
    """Raises PreconditionFailed for an account that is only a number: PostgreSQL does not run as one."""
    try:
        pwd.getpwuid(os.geteuid())
    except KeyError as error:
        raise PreconditionFailed(
            f"this account, number {os.geteuid()}, has no name, and PostgreSQL wants one",
            remedy="run as an account of this machine (adduser makes one), or as root",
        ) from error


def check_disk(layout: Layout) -> None:
    """Raises Exhausted when the data folder's disk is nearly full."""
    free = shutil.disk_usage(layout.home).free
    needed_bytes = _AGAIN_BYTES if (layout.server("postgres") / "data").exists() else _FIRST_BYTES
    if free < needed_bytes:
        raise Exhausted(
            f"the disk of {layout.home} has {free >> 20} MB left, {needed_bytes >> 20} MB are needed",
            remedy="make room, or choose a folder on another disk: SHIPOFF_HOME=… make up",
        )


def check_port(port: int, account: Account | None) -> None:
    """Raises PreconditionFailed when Caddy could not listen there, naming who does."""
    elsewhere = "choose another: SHIPOFF_HTTP_PORT=8081 make up"
    if account is not None and port < _first_open_port():
        raise PreconditionFailed(
            f"port {port} is reserved, and {account.name!r} that Caddy runs as may not listen there",
            field="SHIPOFF_HTTP_PORT",
            remedy=f"sysctl net.ipv4.ip_unprivileged_port_start={port}, or {elsewhere}",
        )
    try:
        _try_to_listen(port)
    except PermissionError as error:
        raise PreconditionFailed(f"port {port} is reserved for root", field="SHIPOFF_HTTP_PORT", remedy=elsewhere) from error
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        raise PreconditionFailed(
            f"port {port} is taken{_by_whom(port)}", field="SHIPOFF_HTTP_PORT", remedy=f"stop that, or {elsewhere}"
        ) from error


def _try_to_listen(port: int) -> None:
    with _socket(socket.AF_INET) as probe:
        probe.bind(("0.0.0.0", port))
    if _has_ipv6():
        with _socket(socket.AF_INET6) as probe:
            probe.bind(("::", port))


def _has_ipv6() -> bool:
    """Whether it is there and turned on."""
    try:
        with _socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def _socket(family: socket.AddressFamily) -> socket.socket:
    probe = socket.socket(family, socket.SOCK_STREAM)
    # Connections of an earlier platform that linger are no obstacle; Caddy listens with this option too.
    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    return probe


def _first_open_port() -> int:
    try:
        return int(_FIRST_OPEN_PORT.read_text())
    except (OSError, ValueError):
        return 1024


def _by_whom(port: int) -> str:
    """The listening process, as far as this account may see it."""
    try:
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.pid and connection.laddr[1:] == (port,):
                process = psutil.Process(connection.pid)
                return f" by process {process.pid} ({process.name()})"
    except psutil.Error:
        return ""
    return ""
