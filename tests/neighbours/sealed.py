"""What the controller of Sealed Secrets does, written from its format's description: the other end of the sealing."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.x509.oid import NameOID


@cache
def controller_key(number: int) -> rsa.RSAPrivateKey:
    """The private key of a controller; the same for the same number."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def certificate(number: int = 0, *, valid_for: timedelta = timedelta(days=3650)) -> bytes:
    """What `kubeseal --fetch-cert` prints."""
    key, now = controller_key(number), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "sealed-secrets")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now - timedelta(days=3650)).not_valid_after(now + valid_for)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def unsealed(document: dict[str, Any], key: rsa.RSAPrivateKey | None = None) -> dict[str, Any]:
    """The Secret of a SealedSecret. Raises ValueError when it is not sealed for this key and place."""
    key = key or controller_key(0)
    meta = document["metadata"]
    label = f"{meta['namespace']}/{meta['name']}".encode()
    values = {name: opened(base64.b64decode(value), key, label) for name, value in document["spec"]["encryptedData"].items()}
    data = {name: base64.b64encode(value).decode() for name, value in values.items()}
    return {"apiVersion": "v1", "kind": "Secret", "data": data, **document["spec"]["template"]}


def opened(sealed: bytes, key: rsa.RSAPrivateKey, label: bytes) -> bytes:
    """One value."""
    size = int.from_bytes(sealed[:2], "big")
    oaep = padding.OAEP(mgf=padding.MGF1(hashes.SHA256()), algorithm=hashes.SHA256(), label=label)
    session = key.decrypt(sealed[2 : 2 + size], oaep)
    return AESGCM(session).decrypt(bytes(12), sealed[2 + size :], None)
