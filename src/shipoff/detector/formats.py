"""Reading the other formats of manifests: JSON with comments, YAML, XML. What cannot be read is said, never raised."""

from __future__ import annotations

import json
import re
from xml.etree import ElementTree

import yaml

from shipoff.detector.domain import Snapshot
from shipoff.detector.manifests import MAX_SOURCE_BYTES, Reading, Table, text

# A string as a whole, so that what looks like a comment inside it stays; possessive, so that no input makes it try again.
_JSONC = re.compile(r'"(?:[^"\\]|\\.)*+"|//[^\n]*|/\*.*?\*/|,(?=\s*+[\]}])', re.DOTALL)
_MAX_YAML_BYTES = 64 << 10
# What makes YAML nest, on one line or in all: far above any workspace file's.
_MAX_YAML_NESTING = 40
_NESTING = re.compile(r"[\[{]|(?:^|\s)[-?](?=\s)")
Element = ElementTree.Element


def jsonc_table(snapshot: Snapshot, path: str) -> Reading:
    """JSON with comments and trailing commas (as tsconfig.json, deno.jsonc and bun.lock are written)."""
    source = text(snapshot, path)
    if not source:
        return Reading(unreadable=f"{path} was not read" if snapshot.has(path) else "")
    plain = _without_comments(source)
    try:
        value = json.loads(plain)
        json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        return Reading(unreadable=f"{path} is not valid JSON: {str(error)[:200]}")
    return Reading(table=value) if isinstance(value, dict) else Reading(unreadable=f"{path} should hold an object")


def _without_comments(source: str) -> str:
    without = _JSONC.sub(lambda match: match[0] if match[0][0] in '",' else " ", source)
    return _JSONC.sub(lambda match: match[0] if match[0][0] == '"' else " ", without)


def yaml_table(snapshot: Snapshot, path: str) -> Reading:
    """A YAML file whose top level is a mapping."""
    source = text(snapshot, path, limit=_MAX_YAML_BYTES)
    if not source:
        return Reading(unreadable=f"{path} was not read" if snapshot.contents.get(path, b"x") else "")
    if any(len(_NESTING.findall(line)) > _MAX_YAML_NESTING for line in source.splitlines()):
        return Reading(unreadable=f"{path} is nested too deeply")
    try:
        value = yaml.load(source, Loader=yaml.CSafeLoader)
    except (yaml.YAMLError, ValueError, RecursionError, TypeError) as error:
        return Reading(unreadable=f"{path} is not valid YAML: {str(error)[:200]}")
    if not isinstance(value, dict):
        return Reading(unreadable="" if value is None else f"{path} should hold a mapping")
    return Reading(table=value)


def xml_tree(snapshot: Snapshot, path: str) -> Element | None:
    """The root element of an XML file without a document type; None when it cannot be read."""
    source = text(snapshot, path, limit=MAX_SOURCE_BYTES)
    if not source or "<!DOCTYPE" in source or "<!ENTITY" in source:
        return None
    try:
        return ElementTree.fromstring(source)  # noqa: S314 - without a document type there are no entities to expand
    except (ElementTree.ParseError, ValueError):
        return None


def xml_text(element: Element | None, *names: str) -> str:
    """The stripped text of the element at these names, whatever their namespace; empty when there is none."""
    for name in names:
        element = next(iter(xml_children(element, name)), None)
    return (element.text or "").strip() if element is not None else ""


def xml_children(element: Element | None, name: str) -> list[Element]:
    """The children of this local name."""
    return [child for child in element if local_name(child) == name] if element is not None else []


def local_name(element: Element) -> str:
    """An element's name without its namespace."""
    return str(element.tag).rpartition("}")[2]


def strings(value: object) -> list[str]:
    """The texts in a list; empty when it is something else."""
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


def table(value: object) -> Table:
    """The value when it is a table, else an empty one."""
    return value if isinstance(value, dict) else {}
