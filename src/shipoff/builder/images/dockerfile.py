"""From a plan to a Dockerfile: base → deps → build → production → runtime. Pure; the executor calls it.

Nothing that a user wrote can add an instruction: commands and arguments stand in JSON (exec form, which BuildKit does not
expand), paths are checked and escaped, names of variables are names. Values of secrets are in none of it: the step that may see
one mounts it (docs.docker.com/reference/dockerfile, RUN --mount=type=secret).
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from shipoff.builder.commands import shown_command
from shipoff.builder.images.quoting import (
    ADDRESS,
    ROOT,
    Refused,
    checked,
    escaped,
    exec_form,
    folder_inside,
    identifier,
    image_reference,
    shell_word,
    variable_name,
)
from shipoff.contracts.types.v1 import types_pb2

OUTPUT = "/shipoff/output"
# Of no account that a machine has: Kubernetes' runAsNonRoot takes numbers only.
USER = "10001:10001"
PORT = 8080
# An operator's file, e.g. a certificate: mounted here, under the name of the variable that points at it.
FILES = "/run/shipoff"
_CACHES = "/var/cache/shipoff"
# Instructions that BuildKit numbers.
_COUNTED = ("RUN ", "COPY ", "WORKDIR ")
_INIT = "/usr/local/bin/shipoff-init"
_PLAIN = re.compile(r"[A-Za-z0-9._@+-]+(/[A-Za-z0-9._@+-]+)*")
# BuildKit reads a Dockerfile in lines of at most 64 KiB; JSON is ASCII.
_LINE_BYTES = 60_000
_SHELLS = (("/bin/sh", "-c"), ("sh", "-c"))
# What no variable of a project's changes inside a build: where programs and files are.
PROTECTED = frozenset({"PATH", "HOME", "TMPDIR", "LD_PRELOAD", "LD_LIBRARY_PATH"})
# The image's own init where it has one, else its distribution's.
_FIND_INIT = (
    "set -e; "
    "for place in /usr/bin/tini-static /sbin/tini-static /usr/bin/tini /sbin/tini /usr/bin/docker-init; do "
    f'if [ -x "$place" ]; then cp "$place" {_INIT}; exit 0; fi; done; '
    "if command -v apt-get >/dev/null; then apt-get update; apt-get install -y --no-install-recommends tini; "
    f"cp /usr/bin/tini-static {_INIT}; "
    f"elif command -v apk >/dev/null; then apk add --no-cache tini-static; cp /sbin/tini-static {_INIT}; "
    "else echo 'the base image has no tini, and neither apt-get nor apk to install it' >&2; exit 1; fi"
)
# From "$1", the app's folder, "$3" to "$4", which lies below "$2". Where no page is in it, empty ones stand for those of other
# folders: who looks for the pages names them.
_TAKE_PAGES = (
    'set -e; mkdir -p -- "$2"; root="$(readlink -f -- "$1")"; found="$(readlink -f -- "$3" || true)"; '
    'if [ -d "$found" ]; then case "$found/" in "$root"/*) mkdir -p -- "$4"; cp -a -- "$found/." "$4/";; esac; fi; '
    'if [ ! -f "$4/index.html" ]; then cd -- "$root"; find . "(" -name .git -o -name node_modules ")" -prune -o '
    "-name index.html -type f -print | head -n 20 | "
    'while IFS= read -r page; do mkdir -p -- "$2/${page%/*}"; : >"$2/$page"; done; fi'
)
_LEFT_OUT = (".git", ".hg", ".svn", "**/.git", "**/.hg", "**/.svn", "**/node_modules", "**/.venv", "**/__pycache__")
_SERVED = (types_pb2.PLAN_MODE_STATIC, types_pb2.PLAN_MODE_SPA)


@dataclass(frozen=True)
class Bases:
    """The images to build in and to run in, each by digest."""

    build: str
    runtime: str


@dataclass(frozen=True)
class Facts:
    """What of this build, besides its plan, decides the file."""

    bases: Bases
    # Whose caches are used: team and project.
    tenant: str
    app: str
    # The project's variables by name, each with a fingerprint that changes with its value and tells nothing of it.
    variables: Mapping[str, str] = field(default_factory=dict)
    # The operator's settings of tools (package indexes, proxies), given to every step as secrets.
    operator: Sequence[str] = ()
    # Those whose value is a file, which is mounted.
    operator_files: Sequence[str] = ()
    # What every step's environment holds, and which tool's variable points at which cache.
    environment: Mapping[str, str] = field(default_factory=dict)
    caches: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Generated:
    """A Dockerfile, what of the source is not sent to it, and the last stage's name."""

    text: str
    ignore: str
    target: str
    # Stage → the plan's step that it runs.
    steps: Mapping[str, str]
    # Stage and the instruction's number in it, as BuildKit counts → the command as a person would type it.
    shown: Mapping[tuple[str, int], str]


def served(plan: types_pb2.Plan) -> bool:
    """Whether the build leaves files for the edge, and no process."""
    return plan.mode in _SERVED


def generate(plan: types_pb2.Plan, facts: Facts) -> Generated:
    """The Dockerfile of a plan. Raises Refused."""
    stages = _Stages(plan, facts)
    stages.base()
    for step in plan.steps:
        stages.step(step)
    if served(plan):
        stages.files()
    else:
        stages.production()
        source = stages.target
        stages.init()
        stages.runtime(source)
    return Generated(stages.text(), _ignore(plan, built=stages.built), stages.target, stages.steps, stages.shown())


class _Stages:
    """The file while it grows."""

    def __init__(self, plan: types_pb2.Plan, facts: Facts) -> None:
        self._plan = plan
        self._facts = facts
        self._blocks: list[list[str]] = []
        self._commands: dict[str, str] = {}
        self._folder = folder_inside(plan.app_root, "the app's folder")
        self.root = escaped(self._folder)
        self.steps: dict[str, str] = {}
        # The whole source has been copied.
        self.built = False
        self.target = ""

    def text(self) -> str:
        """The file."""
        if max(len(line) for block in self._blocks for line in block) > _LINE_BYTES:
            raise Refused("a command of the plan is too long for an image's build: put it into a script of the source")
        return "# Made by Shipoff from the build's plan.\n" + "\n".join("\n".join(block) + "\n" for block in self._blocks)

    def shown(self) -> dict[tuple[str, int], str]:
        """Where BuildKit reports which command: FROM counts unless it is an earlier stage, ENV and the like never."""
        found, stages = {}, {"scratch"}
        for block in self._blocks:
            _, image, _, stage = block[0].split(" ")
            number = 0 if image in stages else 1
            stages.add(stage)
            for line in block[1:]:
                number += line.startswith(_COUNTED)
                if line in self._commands:
                    found[stage, number] = self._commands[line]
        return found

    def _run_line(self, mounts: Iterable[str], argv: Sequence[str], shown: Sequence[str]) -> str:
        line = " ".join(["RUN", *mounts, exec_form(argv)])
        self._commands[line] = shown_command(list(shown))
        return line

    def _begin(self, image: str, name: str) -> list[str]:
        self._blocks.append([f"FROM {image_reference(image)} AS {name}"])
        self.target = name
        return self._blocks[-1]

    def base(self) -> None:
        """Where steps run: the tools' settings, which are the same in every build."""
        block = self._begin(self._facts.bases.build, "base")
        used = {cache for step in self._plan.steps for cache in step.caches}
        caches = {name: f"{_CACHES}/{folder}" for name, folder in self._facts.caches.items() if folder in used}
        files = {name: f"{FILES}/{variable_name(name)}" for name in self._facts.operator_files}
        for name, value in sorted({**self._facts.environment, **caches, **files}.items()):
            block.append(f"ENV {variable_name(name)}={json.dumps(checked(value))}".replace("$", "\\$"))
        block.append(f"WORKDIR {self.root}")

    def step(self, step: types_pb2.PlanStep) -> None:
        """A stage a step: `deps` sees the manifests and the lock file only, where these decide it."""
        name = {"install": "deps", "build": "build"}.get(step.name, f"step-{len(self.steps) + 1}")
        if name in self.steps:
            name = f"step-{len(self.steps) + 1}"
        block = self._begin(self.target, name)
        self.steps[name] = step.name
        if any(cache in self._facts.caches.values() for cache in step.caches):
            block.append("ARG TARGETARCH")
        copied = [] if self.built else _manifests(step, self._plan.app_root)
        if not self.built and not copied:
            copied = ['COPY [".", "/app/"]']
            self.built = True
        block += copied
        block.append(f"WORKDIR {escaped(folder_inside(step.folder, 'the folder of a step')) if step.folder else self.root}")
        block += [self._run(step, list(command.argv)) for command in step.commands if command.argv]

    def _run(self, step: types_pb2.PlanStep, argv: list[str]) -> str:
        mounts = [*self._cache_mounts(step), *self._secret_mounts(step)]
        if not step.network:
            mounts.append("--network=none")
        environment = [f"{variable_name(name)}={checked(value)}" for name, value in sorted(step.env.items())]
        visible = self._visible(step)
        if visible:
            # The value of a secret is no part of BuildKit's cache key: this is, and changes with it.
            environment.append("SHIPOFF_VARIABLES=" + ",".join(self._facts.variables[name] for name in visible))
        words = ["/usr/bin/env", *environment, *argv] if environment else argv
        return self._run_line(mounts, words, argv)

    def _cache_mounts(self, step: types_pb2.PlanStep) -> list[str]:
        owner = f"{identifier(self._facts.tenant)}/{identifier(self._facts.app)}"
        known = set(self._facts.caches.values())
        return [
            f"--mount=type=cache,id={owner}/{cache}/$TARGETARCH,target={_CACHES}/{cache},sharing=locked"
            for cache in sorted(set(step.caches) & known)
        ]

    def _visible(self, step: types_pb2.PlanStep) -> list[str]:
        kept = PROTECTED | self._facts.caches.keys()
        names = [name for name in sorted(self._facts.variables) if name not in kept]
        return names if "*" in step.secrets else [name for name in names if name in step.secrets]

    def _secret_mounts(self, step: types_pb2.PlanStep) -> list[str]:
        visible = [variable_name(name) for name in self._visible(step)]
        operator = [variable_name(name) for name in sorted(self._facts.operator) if name not in visible]
        files = [variable_name(name) for name in sorted(self._facts.operator_files) if name not in visible]
        return [
            *(f"--mount=type=secret,id={name},env={name}" for name in visible),
            *(f"--mount=type=secret,id={operator_id(name)},env={name}" for name in operator),
            *(f"--mount=type=secret,id={operator_id(name)},target={FILES}/{name},mode=0444" for name in files),
        ]

    def production(self) -> None:
        """What the running app needs of what was built: no development dependencies, nothing that the plan leaves out."""
        prune, folder = _pruning(self._plan, self.root)
        removed = [posixpath.join(ROOT, path) for path in self._plan.artifacts.exclude if path not in _LEFT_OUT]
        if self.target == "base" or not (prune or (removed and self.built)):
            return
        source = self.target
        block = self._begin(source, "production")
        if prune:
            block += [f"WORKDIR {folder}", self._run_line((), prune, prune)]
        if removed and self.built:
            block.append(f"RUN {exec_form(['rm', '-rf', '--', *removed])}")

    def init(self) -> None:
        """Where the runtime's init comes from."""
        block = self._begin(self._facts.bases.runtime, "init")
        block += ["USER 0:0", f"RUN {exec_form(['/bin/sh', '-c', _FIND_INIT])}"]

    def runtime(self, source: str) -> None:
        """The image, of that stage: dependencies below the source where no step has mixed them: a change moves one layer."""
        block = self._begin(self._facts.bases.runtime, "runtime")
        block.append(f"COPY --from=init {_INIT} {_INIT}")
        if source != "base":
            block.append(f"COPY --from={source} --chown={USER} {ROOT} {ROOT}")
        if not self.built:
            block.append(f'COPY --chown={USER} [".", "{ROOT}/"]')
        port = self._plan.port or PORT
        block += [
            f"ENV PATH={self.root}/.venv/bin:{self.root}/node_modules/.bin:$PATH",
            "ENV LANG=C.UTF-8 HOME=/tmp PYTHONUNBUFFERED=1 NODE_ENV=production",
            f"ENV HOST=0.0.0.0 PORT={port}",
            f"WORKDIR {self.root}",
            f"USER {USER}",
        ]
        if self._plan.mode != types_pb2.PLAN_MODE_WORKER:
            block.append(f"EXPOSE {port}")
        block += [f"ENTRYPOINT {exec_form([_INIT, '--'])}", f"CMD {exec_form(_start(self._plan))}"]

    def files(self) -> None:
        """What a build of pages left: the output directory where it stood in the source, for the edge to take from."""
        if not self.built:
            self._blocks[-1].append('COPY [".", "/app/"]')
        roots = {self._folder, folder_inside(self._plan.workspace_root, "the workspace's folder")}
        gone = sorted(f"{root}/{name}" for root in roots for name in ("node_modules", ".venv"))
        kept = OUTPUT + self._folder.removeprefix(ROOT)
        places = [posixpath.normpath(posixpath.join(base, self._plan.output_dir)) for base in (self._folder, kept)]
        block = self._begin(self.target, "pages")
        block += ["USER 0:0", f"RUN {exec_form(['rm', '-rf', '--', *gone])}"]
        block.append(f"RUN {exec_form(['/bin/sh', '-c', _TAKE_PAGES, 'sh', self._folder, kept, *places])}")
        self._begin("scratch", "files").append(f"COPY --from=pages {OUTPUT} /")


def operator_id(name: str) -> str:
    """The secret's name for a setting of the operator's: no variable of a project's can take its place."""
    return f"operator.{name}"


def _manifests(step: types_pb2.PlanStep, app_root: str) -> list[str]:
    """COPY of a step's inputs, folder by folder; none where one has a name that COPY would read as a pattern."""
    if not step.inputs or step.folder:
        return []
    prefix = "" if app_root in ("", ".") else f"{app_root}/"
    paths = [f"{prefix}{path}" for path in sorted(step.inputs)]
    if not all(_PLAIN.fullmatch(path) and ".." not in path.split("/") for path in paths):
        return []
    folders: dict[str, list[str]] = {}
    for path in paths:
        folders.setdefault(posixpath.dirname(path), []).append(path)
    return [f"COPY {json.dumps([*files, posixpath.join(ROOT, folder, '')])}" for folder, files in sorted(folders.items())]


def _pruning(plan: types_pb2.Plan, root: str) -> tuple[list[str], str]:
    """The command that removes development dependencies, and where; none where the package manager has none."""
    install = next((step for step in plan.steps if step.name == "install"), None)
    if plan.provider != "node" or install is None:
        return [], ""
    folder = escaped(folder_inside(install.folder, "the folder of a step")) if install.folder else root
    for command in install.commands:
        words = list(command.argv)
        if plan.package_manager.name == "npm" and words[:2] in (["npm", "ci"], ["npm", "install"]):
            return ["npm", "prune", "--omit=dev", "--ignore-scripts"], folder
        if plan.package_manager.name == "pnpm" and "install" in words:
            return [*words[: words.index("install")], "prune", "--prod", "--ignore-scripts"], folder
    return [], ""


def _start(plan: types_pb2.Plan) -> list[str]:
    """The command of the web process, else of the first; $PORT and $HOST in it are the container's own."""
    commands = {process.name: list(process.command.argv) for process in plan.processes}
    argv = commands.get("web") or next((commands[name] for name in sorted(commands) if name != "release"), [])
    if not argv:
        raise Refused("the plan starts no process: set a start command, or an output directory")
    if not any(ADDRESS.search(word) for word in argv):
        return argv
    if tuple(argv[:2]) in _SHELLS and len(argv) == 3:
        return argv
    return ["/bin/sh", "-c", "exec " + " ".join(shell_word(word) for word in argv)]


def _ignore(plan: types_pb2.Plan, *, built: bool) -> str:
    """What is not sent: what installs and version control leave, and what the plan leaves out where no step needs it."""
    lines = list(_LEFT_OUT)
    if not built:
        lines += [path for path in plan.artifacts.exclude if _PLAIN.fullmatch(path) and path not in lines]
    return "\n".join(lines) + "\n"
