"""Small sources written in the test itself."""

from __future__ import annotations

import json

from shipoff.detector.domain import Plan, Problem, Settings, Snapshot
from shipoff.detector.handlers import detect

FLASK = "from flask import Flask\napp = Flask(__name__)\n"
FASTAPI = "from fastapi import FastAPI\napp = FastAPI()\n"


def snapshot(files: dict[str, str]) -> Snapshot:
    """A snapshot of these files."""
    return Snapshot(tuple(sorted(files)), {path: text.encode() for path, text in files.items()})


def package(**content: object) -> str:
    """A package.json."""
    return json.dumps(content)


def planned(files: dict[str, str], **settings: str) -> Plan:
    """The plan; fails when there is a problem instead."""
    found = detect(snapshot(files), Settings(**settings))
    assert isinstance(found, Plan), found
    return found


def problem(files: dict[str, str], **settings: str) -> str:
    """The problem's message; fails when there is a plan instead."""
    found = detect(snapshot(files), Settings(**settings))
    assert isinstance(found, Problem), found
    return found.message


def web(plan: Plan) -> str:
    """The web process's command, joined."""
    return " ".join(next(process.command for process in plan.processes if process.name == "web"))


def commands(plan: Plan, step: str) -> list[str]:
    """A step's commands, joined; none when there is no such step."""
    return [" ".join(argv) for found in plan.steps if found.name == step for argv in found.commands]
