"""Envelope encryption: values under a data key, the data key under the platform's master key (AES-256-GCM)."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import os
from collections.abc import Mapping

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from shipoff.common.errors import DataLoss, InvalidInput, PreconditionFailed
from shipoff.contracts.types.v1 import types_pb2

KEY_BYTES = 32
_NONCE_BYTES = 12


def seal(key: bytes, plain: bytes) -> bytes:
    """A random 12-byte nonce, then ciphertext and tag (NIST SP 800-38D)."""
    nonce = os.urandom(_NONCE_BYTES)
    return nonce + AESGCM(key).encrypt(nonce, plain, None)


def unseal(key: bytes, sealed: bytes) -> bytes:
    """The plain bytes. Raises DataLoss when the key or a single bit is wrong."""
    try:
        return AESGCM(key).decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], None)
    except (InvalidTag, ValueError) as error:
        raise DataLoss("a sealed value cannot be opened", remedy="is SHIPOFF_MASTER_KEY the one it was sealed with?") from error


class Sealer:
    """Seals and opens with the master key."""

    def __init__(self, master_key: str) -> None:
        """Takes 32 bytes in base64. Raises InvalidInput naming the setting otherwise."""
        try:
            key = base64.b64decode(master_key, validate=True)
        except binascii.Error as error:
            raise InvalidInput("the master key is not base64", field="SHIPOFF_MASTER_KEY") from error
        if len(key) != KEY_BYTES:
            raise InvalidInput("the master key has to be 32 bytes in base64", field="SHIPOFF_MASTER_KEY")
        self._key = key
        self.key_id = hashlib.sha256(key).hexdigest()[:16]

    def derive(self, purpose: str) -> bytes:
        """A key for this purpose alone, the same as long as the master key is (HMAC-SHA256, RFC 2104)."""
        return hmac.new(self._key, purpose.encode(), hashlib.sha256).digest()

    def new_data_key(self) -> bytes:
        """A new data key, sealed."""
        return seal(self._key, os.urandom(KEY_BYTES))

    def seal(self, plain: bytes) -> bytes:
        """Seals directly under the master key: for single secrets that have no project."""
        return seal(self._key, plain)

    def open(self, sealed: bytes) -> bytes:
        """Opens what `seal` made. Raises DataLoss."""
        return unseal(self._key, sealed)

    def seal_value(self, wrapped_data_key: bytes, plain: bytes) -> bytes:
        """Seals under a data key that is itself sealed."""
        return seal(self.open(wrapped_data_key), plain)

    def open_value(self, wrapped_data_key: bytes, sealed: bytes) -> bytes:
        """Opens what `seal_value` made. Raises DataLoss."""
        return unseal(self.open(wrapped_data_key), sealed)

    def seal_variables(
        self, wrapped_data_key: bytes, values: Mapping[str, str], versions: Mapping[str, int]
    ) -> types_pb2.SealedVariables:
        """Seals a set of environment variables with their versions in clear."""
        plain = json.dumps(dict(sorted(values.items())), separators=(",", ":")).encode()
        return types_pb2.SealedVariables(
            master_key_id=self.key_id,
            wrapped_data_key=wrapped_data_key,
            ciphertext=self.seal_value(wrapped_data_key, plain),
            versions=dict(versions),
        )

    def open_variables(self, sealed: types_pb2.SealedVariables) -> dict[str, str]:
        """The variables; none when nothing was sealed. Raises PreconditionFailed when another master key sealed them."""
        if not sealed.ciphertext:
            return {}
        if sealed.master_key_id != self.key_id:
            raise PreconditionFailed(
                f"the variables are sealed under master key {sealed.master_key_id}, this service has {self.key_id}",
                remedy="give every service the same SHIPOFF_MASTER_KEY",
            )
        values = json.loads(self.open_value(sealed.wrapped_data_key, sealed.ciphertext))
        return {str(name): str(value) for name, value in values.items()}
