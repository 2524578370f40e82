"""What builders are told about images: the settings, with the program and the files found on this machine."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from shipoff.build.adapters.assignment import Images
from shipoff.build.settings import BuildSettings
from shipoff.common.config import listed

_PROGRAM = "docker-buildx"
# Where Docker's command line looks for plugins (docs.docker.com, cli-plugins).
_PLUGINS = (
    "/usr/local/lib/docker/cli-plugins",
    "/usr/local/libexec/docker/cli-plugins",
    "/usr/lib/docker/cli-plugins",
    "/usr/libexec/docker/cli-plugins",
)


def images(settings: BuildSettings) -> Images | None:
    """None where builds are native. Without buildx its place is empty, and builders say so."""
    if not settings.builds_images:
        return None
    home = Path.home() / ".docker"
    logins = settings.registry_logins or str(home / "config.json")
    return Images(
        buildx=settings.buildx or _found(home),
        registry=settings.registry,
        builder=settings.buildx_builder,
        builders_folder=str(home / "buildx"),
        address=settings.buildkit_address,
        tls_folder=settings.buildkit_tls_folder,
        docker_host=settings.docker_host,
        logins=logins if settings.registry_logins or Path(logins).is_file() else "",
        base_images=_mapping(settings.base_images),
        mirrors=_mapping(settings.registry_mirrors),
        network=settings.image_network,
        platforms=tuple(listed(settings.platforms)),
        provenance=settings.provenance,
        sbom_generator="" if settings.sbom_generator == "off" else settings.sbom_generator,
    )


def _found(home: Path) -> str:
    places = (os.environ.get("PATH", ""), str(home / "cli-plugins"), *_PLUGINS)
    return shutil.which(_PROGRAM, path=os.pathsep.join(places)) or ""


def _mapping(text: str) -> dict[str, str]:
    split = (pair.partition("=") for pair in listed(text))
    return {name.strip(): value.strip() for name, _, value in split}
