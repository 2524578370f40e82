"""Errors to statuses, settings to URLs, keys to ids, changes to settings."""

from __future__ import annotations

import json
from http import HTTPStatus
from uuid import UUID

import pytest

from shipoff.common import errors
from shipoff.common.errors import ShipoffError
from shipoff.common.telemetry import Context, working_on
from shipoff.contracts.types.v1 import types_pb2
from shipoff.gateway.deploying import new_deployment_id
from shipoff.gateway.models.deployments import state_of
from shipoff.gateway.models.projects import BuildIn, RunIn, merged_build, merged_run
from shipoff.gateway.problems import Refused, problem_of, response_of
from shipoff.gateway.settings import GatewaySettings


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (errors.InvalidInput("m"), 400, "invalid-input"),
        (errors.Unauthenticated("m"), 401, "unauthenticated"),
        (errors.PermissionDenied("m"), 403, "permission-denied"),
        (errors.NotFound("m"), 404, "not-found"),
        (errors.AlreadyExists("m"), 409, "already-exists"),
        (errors.PreconditionFailed("m"), 409, "precondition-failed"),
        (errors.Aborted("m"), 409, "aborted"),
        (errors.Exhausted("m"), 429, "exhausted"),
        (errors.DataLoss("m"), 500, "data-loss"),
        (errors.Internal("m"), 500, "internal"),
        (errors.Unavailable("m"), 503, "unavailable"),
        (errors.DeadlineExceeded("m"), 504, "deadline-exceeded"),
        (ShipoffError("m"), 500, "shipoff-error"),
        (Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "m"), 413, "request-entity-too-large"),
    ],
)
def test_every_error_has_its_status(error: ShipoffError, status: int, kind: str) -> None:
    problem = problem_of(error)
    assert (problem.status, problem.type) == (status, f"urn:shipoff:{kind}")
    assert (problem.detail == "m") == (status < 500)


def test_what_a_person_can_help_is_told_with_its_remedy() -> None:
    problem = problem_of(errors.Unavailable("the object store's disk is full", remedy="free some room"))
    assert (problem.status, problem.detail, problem.remedy) == (503, "the object store's disk is full", "free some room")


def test_a_problem_tells_field_remedy_and_request() -> None:
    with working_on(Context(request_id="r-1")):
        response = response_of(errors.InvalidInput("too long", field="name", remedy="shorten it"))
    assert json.loads(bytes(response.body)) == {
        "type": "urn:shipoff:invalid-input",
        "title": "Bad Request",
        "status": 400,
        "detail": "too long",
        "field": "name",
        "remedy": "shorten it",
        "request_id": "r-1",
    }


@pytest.mark.parametrize(("wait_s", "header"), [(0.01, "1"), (1.0, "1"), (1.2, "2"), (30.0, "30")])
def test_a_temporary_error_says_when_to_come_back(wait_s: float, header: str) -> None:
    assert response_of(errors.Unavailable("m", wait_s)).headers["retry-after"] == header


def test_a_permanent_error_does_not() -> None:
    assert "retry-after" not in response_of(errors.NotFound("m")).headers


@pytest.mark.parametrize(
    ("scheme", "port", "url"),
    [("http", 8080, "http://a.localhost:8080"), ("http", 80, "http://a.localhost"), ("https", 443, "https://a.localhost")],
)
def test_usual_ports_are_left_out_of_urls(scheme: str, port: int, url: str) -> None:
    assert GatewaySettings(public_scheme=scheme, SHIPOFF_HTTP_PORT=port).url("a.localhost") == url


def test_a_key_gives_the_same_id_in_the_same_project_only() -> None:
    first = new_deployment_id("p1", "key")
    assert first == new_deployment_id("p1", "key")
    assert len({first, new_deployment_id("p2", "key"), new_deployment_id("p1", "other"), new_deployment_id("p1k", "ey")}) == 4
    assert UUID(first).version == 5
    assert new_deployment_id("p1", "") != new_deployment_id("p1", "")


def test_a_change_of_settings_keeps_what_it_does_not_name() -> None:
    build = types_pb2.BuildSettings(build_command="make", start_command="run")
    merged = merged_build(build, BuildIn(build_command=""))
    assert merged == types_pb2.BuildSettings(start_command="run")
    assert build.build_command == "make"
    assert merged_run(types_pb2.RunSettings(replicas=2, health_path="/up"), RunIn(replicas=0)) == types_pb2.RunSettings(
        health_path="/up"
    )
    assert merged_build(build, None) is None


def test_states_have_the_contracts_names() -> None:
    assert state_of("provisioning") == types_pb2.DEPLOYMENT_STATE_PROVISIONING
