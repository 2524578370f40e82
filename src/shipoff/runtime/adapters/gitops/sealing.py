"""Secrets sealed for one cluster, as Sealed Secrets reads them: only its controller can open them.

The format is that of kubeseal (https://github.com/bitnami-labs/sealed-secrets/blob/main/docs/developer/crypto.md): each value
under an AES-256-GCM key of its own, which is encrypted to the controller's certificate by RSA-OAEP with SHA-256; the label
"namespace/name" ties it to the one Secret that it is for.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
from datetime import datetime
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from shipoff.runtime.manifests.folder import SEALED_FOR

_KEY_BYTES = 32
# Each key is used once.
_NONCE = bytes(12)


class Seal:
    """One cluster's public key."""

    def __init__(self, certificate_pem: bytes, *, now: datetime) -> None:
        """Raises ValueError for what is no certificate with an RSA key, or one that is over."""
        certificate = x509.load_pem_x509_certificate(certificate_pem)
        key = certificate.public_key()
        if not isinstance(key, RSAPublicKey):
            raise ValueError("its key is no RSA key")
        if certificate.not_valid_after_utc < now:
            raise ValueError(f"it was valid until {certificate.not_valid_after_utc:%Y-%m-%d}: fetch the current one")
        self._key = key
        der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        # Tells what was sealed for this key from what was sealed for another.
        self.id = hashlib.sha256(der).hexdigest()[:16]

    def sealed(self, secret: dict[str, Any]) -> dict[str, Any]:
        """The SealedSecret of a Secret's manifest: the same names and labels, no value in clear."""
        meta = secret["metadata"]
        label = f"{meta['namespace']}/{meta['name']}".encode()
        values = {name: self._value(base64.b64decode(value), label) for name, value in (secret.get("data") or {}).items()}
        template = {"metadata": meta, "type": secret.get("type", "Opaque"), "immutable": bool(secret.get("immutable"))}
        return {
            "apiVersion": "bitnami.com/v1alpha1",
            "kind": "SealedSecret",
            "metadata": {**meta, "annotations": {**meta.get("annotations", {}), SEALED_FOR: self.id}},
            "spec": {"encryptedData": values, "template": template},
        }

    def _value(self, clear: bytes, label: bytes) -> str:
        session = secrets.token_bytes(_KEY_BYTES)
        oaep = padding.OAEP(mgf=padding.MGF1(hashes.SHA256()), algorithm=hashes.SHA256(), label=label)
        wrapped = self._key.encrypt(session, oaep)
        sealed = len(wrapped).to_bytes(2, "big") + wrapped + AESGCM(session).encrypt(_NONCE, clear, None)
        return base64.b64encode(sealed).decode()
