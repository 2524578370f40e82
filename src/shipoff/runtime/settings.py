"""What the runtime is told at its start."""

from __future__ import annotations

from pydantic import Field

from shipoff.common.config import ServiceSettings, service_config
from shipoff.common.sandbox import Mode


class RuntimeSettings(ServiceSettings):
    """SHIPOFF_RUNTIME_…; the defaults suit one machine."""

    model_config = service_config("runtime")

    # Where apps are unpacked and their output waits for the log service; empty: $SHIPOFF_HOME/apps.
    apps_folder: str = ""
    # Apps listen on a port of this range on 127.0.0.1: below what the system hands out to outgoing connections.
    first_port: int = Field(default=20000, ge=1024, le=65535)
    last_port: int = Field(default=29999, ge=1024, le=65535)
    # Leaving stops the apps too; false leaves them running for the next start (an upgrade of the platform).
    stop_on_exit: bool = True
    # A workload that says nothing about these.
    default_memory_bytes: int = 512 << 20
    default_ready_timeout_s: int = 60
    # Processes of one instance, itself included.
    max_processes: int = 256
    # Between SIGTERM and SIGKILL.
    grace_s: float = 10.0
    # Output that could not be shipped yet; beyond it the oldest is dropped and counted.
    unshipped_log_bytes: int = 64 << 20
    # Apps run inside bubblewrap: "auto" where it works, "required" or the service does not start, "off".
    sandbox: Mode = Field(default="auto", validation_alias="SHIPOFF_SANDBOX")
    # Folders of this machine that apps may write to as far as their accounts may, separated by commas; inside bubblewrap there
    # are no others but their own.
    shared_folders: str = ""
    # Where apps find interpreters: the platform's own search path, without the platform's own environment.
    search_path: str = Field(default="/usr/local/bin:/usr/bin:/bin", validation_alias="PATH")
