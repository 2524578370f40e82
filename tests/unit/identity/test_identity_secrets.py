"""The form of a token's secret, and how it is compared."""

from __future__ import annotations

import re
import zlib

from hypothesis import given
from hypothesis import strategies as st

from shipoff.identity.domain import SECRET_BYTES, format_secret, hash_secret, same_secret


@given(st.binary(min_size=SECRET_BYTES, max_size=SECRET_BYTES))
def test_every_secret_has_the_recognisable_form(random: bytes) -> None:
    assert re.fullmatch(r"shp_[0-9A-Za-z]{49}", format_secret(random))


@given(st.binary(min_size=SECRET_BYTES, max_size=SECRET_BYTES), st.binary(min_size=SECRET_BYTES, max_size=SECRET_BYTES))
def test_different_randomness_gives_different_secrets(one: bytes, other: bytes) -> None:
    assert (format_secret(one) == format_secret(other)) == (one == other)


def test_the_checksum_lets_a_scanner_tell_a_secret_from_a_lookalike() -> None:
    body, checksum = format_secret(bytes(range(SECRET_BYTES)))[4:47], format_secret(bytes(range(SECRET_BYTES)))[47:]
    number = 0
    for digit in checksum:
        number = number * 62 + "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz".index(digit)
    assert number == zlib.crc32(body.encode())


def test_the_hash_does_not_contain_the_secret() -> None:
    secret = format_secret(b"\x07" * SECRET_BYTES)
    assert len(hash_secret(secret)) == 32
    assert secret.encode() not in hash_secret(secret)


def test_secrets_are_the_same_only_when_every_character_is() -> None:
    assert same_secret("abc", "abc")
    assert not same_secret("abc", "abd")
    assert not same_secret("ab", "abc")
    assert not same_secret("", "abc")
