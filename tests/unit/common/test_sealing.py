"""Envelope encryption."""

from __future__ import annotations

import base64
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shipoff.common.errors import DataLoss, InvalidInput, PreconditionFailed
from shipoff.common.sealing import Sealer


def key() -> str:
    return base64.b64encode(os.urandom(32)).decode()


@given(st.dictionaries(st.text(min_size=1), st.text()))
def test_what_was_sealed_opens(values):
    sealer = Sealer(key())
    sealed = sealer.seal_variables(sealer.new_data_key(), values, dict.fromkeys(values, 3))
    assert sealer.open_variables(sealed) == values


def test_what_is_sealed_shows_names_and_versions_only():
    sealer = Sealer(key())
    sealed = sealer.seal_variables(sealer.new_data_key(), {"TOKEN": "hunter2-hunter2"}, {"TOKEN": 3})
    assert b"TOKEN" in sealed.SerializeToString()
    assert b"hunter2" not in sealed.SerializeToString()


def test_another_master_key_opens_nothing_and_says_which_it_was():
    sealer = Sealer(key())
    sealed = sealer.seal_variables(sealer.new_data_key(), {"A": "b"}, {"A": 1})
    with pytest.raises(PreconditionFailed, match=sealer.key_id):
        Sealer(key()).open_variables(sealed)
    with pytest.raises(DataLoss):
        Sealer(key()).open(sealer.seal(b"secret"))


def test_a_changed_bit_is_noticed():
    sealer = Sealer(key())
    sealed = bytearray(sealer.seal(b"secret"))
    sealed[-1] ^= 1
    with pytest.raises(DataLoss):
        sealer.open(bytes(sealed))


@pytest.mark.parametrize("wrong", ["", "not base64!", base64.b64encode(b"short").decode()])
def test_a_wrong_master_key_names_the_setting(wrong):
    with pytest.raises(InvalidInput) as raised:
        Sealer(wrong)
    assert raised.value.field == "SHIPOFF_MASTER_KEY"
