"""The OpenAPI document is complete, and changes only on purpose: run this file to write the golden one anew."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from shipoff.gateway.app import create_app

GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "openapi.json"
OPEN = {"/healthz", "/v1/info", "/v1/setup", "/webhooks/github"}


def document() -> dict[str, Any]:
    """Without the version: a release is no change of the API."""
    out = create_app(None).openapi()  # type: ignore[arg-type]  # the document needs no services
    out["info"].pop("version")
    return out


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in document()["paths"].items():
        for method, operation in methods.items():
            yield method, path, operation


def test_the_document_is_the_golden_one() -> None:
    assert document() == json.loads(GOLDEN.read_text())


def test_every_operation_says_what_it_does_and_how_it_fails() -> None:
    for method, path, operation in operations():
        assert operation.get("description"), (method, path)
        assert operation["tags"], (method, path)
        problem = operation["responses"]["default"]["content"]["application/problem+json"]["schema"]
        assert problem == {"$ref": "#/components/schemas/Problem"}
        assert "422" not in operation["responses"]


def test_every_operation_but_the_open_ones_needs_a_token() -> None:
    assert {path for _, path, operation in operations() if "security" not in operation} == OPEN
    schemes = document()["components"]["securitySchemes"]
    assert list(schemes.values()) == [{"type": "http", "scheme": "bearer", "description": "An API token: `shp_…`."}]


def test_every_body_that_comes_in_refuses_unknown_fields() -> None:
    schemas = document()["components"]["schemas"]
    taken = {schema["$ref"].rpartition("/")[2] for schema in bodies()}
    assert len(taken) >= 10
    for name in taken:
        assert schemas[name]["additionalProperties"] is False, name


def bodies() -> Iterator[dict[str, Any]]:
    for _, _, operation in operations():
        content = operation.get("requestBody", {}).get("content", {})
        if "application/json" in content:
            schema = content["application/json"]["schema"]
            yield schema if "$ref" in schema else schema["allOf"][0]


def test_every_answer_has_a_schema() -> None:
    for method, path, operation in operations():
        for status, response in operation["responses"].items():
            if status in ("200", "201", "202"):
                assert "$ref" in response["content"]["application/json"]["schema"], (method, path)


def test_every_operation_has_a_name_of_its_own() -> None:
    names = [operation["operationId"] for _, _, operation in operations()]
    assert len(names) == len(set(names))


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(document(), indent=1, ensure_ascii=False, sort_keys=True) + "\n")
