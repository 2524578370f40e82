import hashlib
import hmac
import json
from datetime import UTC, datetime

from shipoff.worker.domain import Transition, payload, signature

TRANSITION = Transition(
    event_id="e",
    deployment_id="d",
    project_id="p",
    project_name="app",
    environment="production",
    number=3,
    from_state="queued",
    to_state="building",
    reason="",
    version=2,
    time=datetime(2026, 1, 2, 3, 4, 5, 678_900, UTC),
    hosts=("app.localhost",),
    commit="",
)


def test_the_payload_tells_the_transition() -> None:
    assert json.loads(payload(TRANSITION, "id-1")) == {
        "id": "id-1",
        "type": "deployment.state_changed",
        "time": "2026-01-02T03:04:05.678Z",
        "project": {"id": "p", "name": "app"},
        "deployment": {
            "id": "d",
            "number": 3,
            "environment": "production",
            "from": "queued",
            "state": "building",
            "reason": "",
            "version": 2,
            "hosts": ["app.localhost"],
            "commit": None,
        },
    }


def test_the_signature_is_the_bodys_hmac() -> None:
    body = payload(TRANSITION, "id-1")
    assert signature(b"key", body) == "sha256=" + hmac.new(b"key", body, hashlib.sha256).hexdigest()
    assert signature(b"other", body) != signature(b"key", body)
