"""Secrets are opened by the cluster they were sealed for, under their own name, and by nobody else."""

from __future__ import annotations

import base64
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from neighbours.gitops import seal
from neighbours.sealed import certificate, controller_key, unsealed

from shipoff.common.errors import InvalidInput
from shipoff.runtime.adapters.gitops import opened
from shipoff.runtime.adapters.gitops.sealing import Seal
from shipoff.runtime.gitops_settings import GitOpsSettings

CLEAR = {"EMPTY": b"", "PASSWORD": "hünter2\n".encode(), "LONG": b"x" * 100_000}


def secret(**meta: Any) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "s", "namespace": "app-shop", "labels": {"a": "b"}, "annotations": {"c": "d"}, **meta},
        "data": {name: base64.b64encode(value).decode() for name, value in CLEAR.items()},
        "immutable": True,
        "type": "Opaque",
    }


def test_the_cluster_s_controller_makes_the_same_secret_of_it() -> None:
    assert unsealed(seal().sealed(secret())) == secret()


def test_nothing_of_it_is_in_clear() -> None:
    text = str(seal().sealed(secret()))
    assert not [name for name, value in secret()["data"].items() if value and value in text]
    assert "hünter2" not in text


def test_another_cluster_cannot_open_it() -> None:
    with pytest.raises(ValueError, match="Decryption failed"):
        unsealed(seal().sealed(secret()), controller_key(1))


@pytest.mark.parametrize("moved", [{"name": "other"}, {"namespace": "other"}])
def test_under_another_name_it_cannot_be_opened(moved: dict[str, str]) -> None:
    sealed = seal().sealed(secret())
    sealed["metadata"] |= moved
    with pytest.raises(ValueError, match="Decryption failed"):
        unsealed(sealed)


def test_a_secret_without_values_stays_one() -> None:
    empty = {**secret(), "data": {}}
    assert unsealed(seal().sealed(empty)) == empty


def elliptic() -> bytes:
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(x509.Name([])).issuer_name(x509.Name([])).serial_number(1)
    builder = builder.public_key(key.public_key()).not_valid_before(now).not_valid_after(now + timedelta(days=1))
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (lambda: b"hello", "no certificate"),
        (elliptic, "no RSA key"),
        (lambda: certificate(valid_for=-timedelta(days=1)), "was valid until"),
    ],
    ids=["text", "elliptic", "over"],
)
def test_what_cannot_be_sealed_for_is_refused_at_the_start(tmp_path: Path, made: Callable[[], bytes], words: str) -> None:
    (tmp_path / "cert.pem").write_bytes(made())
    chosen = GitOpsSettings(repository=str(tmp_path / "r.git"), sealing_certificate=str(tmp_path / "cert.pem"))
    with pytest.raises(InvalidInput, match=words) as refused:
        opened(chosen, copies=tmp_path)
    assert refused.value.field == "SHIPOFF_GITOPS_SEALING_CERTIFICATE"


def test_a_certificate_with_the_same_key_is_the_same_seal() -> None:
    assert Seal(certificate(), now=datetime.now(UTC)).id == seal().id != seal(1).id
