"""No secret in a log line: plain, encoded, or cut in two."""

from __future__ import annotations

import base64
import html
import json
import re
import shlex
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shipoff.builder.lines import LINE_BYTES, LineSplitter
from shipoff.builder.masking import Masker

SECRET = "hunter2-and-more"


def test_a_secret_is_masked_wherever_it_stands():
    assert Masker([SECRET]).mask(f"a {SECRET}b{SECRET}") == "a ***b***"


def test_short_values_are_left_alone():
    assert Masker(["true", "12345"]).mask("true 12345") == "true 12345"


def test_the_longer_of_two_secrets_goes_first():
    assert Masker(["secret", "secret-longer"]).mask("secret-longer") == "***"


@given(st.binary(max_size=8), st.binary(max_size=8), st.sampled_from([base64.b64encode, base64.urlsafe_b64encode]))
def test_base64_shows_nothing_of_it_at_any_offset(before, after, encode):
    secret = "correct horse battery"
    encoded = encode(before + secret.encode() + after).decode()
    masked = Masker([secret]).mask(encoded)
    shown = masked.replace("***", "")
    # What is left holds at most the characters that the neighbours share, three at each end.
    assert "***" in masked
    assert len(shown) <= len(encoded) - (len(secret) * 4 // 3 - 6)


@pytest.mark.parametrize(
    "write",
    [
        lambda secret: secret.encode().hex(),
        lambda secret: f"0x{secret.encode().hex().upper()}",
        lambda secret: f"https://user:{quote(secret, safe='')}@example.com/",
        lambda secret: f"?token={quote_plus(secret)}&x=1",
        lambda secret: f"?token={quote(secret, safe='').lower()}",
        lambda secret: json.dumps({"token": secret}),
        lambda secret: json.dumps({"token": secret}, ensure_ascii=False),
        lambda secret: json.dumps(secret).replace("/", "\\/"),
        lambda secret: f"<b>{html.escape(secret)}</b>",
        lambda secret: f"+ curl -H {shlex.quote(secret)}",
        lambda secret: repr({"token": secret}),
    ],
    ids=["hex", "HEX", "URL", "form", "url in small letters", "JSON", "JSON of UTF-8", "JSON of PHP", "HTML", "sh -x", "repr"],
)
@pytest.mark.parametrize("secret", ["s3cr3t/with+signs&spaces and=more", 'quo"ted\\and<b>"', "it's zürich", "plain-value-123"])
def test_a_secret_is_masked_as_tools_write_it(secret, write):
    masked = Masker([secret]).mask(write(secret))
    assert "***" in masked
    for word in re.findall("[a-z0-9]{5,}", secret):
        assert word not in masked.lower()
    assert secret.encode().hex() not in masked.lower()


@pytest.mark.parametrize("size", [1, 3, 7])
def test_an_encoded_secret_that_arrives_in_pieces_is_masked(size):
    secret = "s3cr3t/with+signs"
    written = f"a {quote(secret, safe='')} b {secret.encode().hex()} c {base64.b64encode(secret.encode()).decode()}\n".encode()
    splitter = LineSplitter(Masker([secret]))
    lines = [line for at in range(0, len(written), size) for line in splitter.feed(written[at : at + size])]
    assert re.sub(r"\*+[A-Za-z0-9=]{0,3}", "***", " ".join(lines)) == "a *** b *** c ***"


def test_each_line_of_a_key_is_masked():
    key = "-----BEGIN KEY-----\nabcdefghijkl\nmnopqrstuv\n-----END KEY-----"
    assert Masker([key]).mask("mnopqrstuv") == "***"


@pytest.mark.parametrize("at", [LINE_BYTES - 20, LINE_BYTES - 3, LINE_BYTES, LINE_BYTES + 3, 3 * LINE_BYTES - 5])
def test_a_secret_on_the_seam_of_a_long_line_is_masked(at):
    splitter = LineSplitter(Masker([SECRET]))
    lines = splitter.feed(b"x" * at + SECRET.encode() + b"y" * 4 * LINE_BYTES)
    lines += splitter.end()
    whole = "".join(lines)
    assert whole == "x" * at + "***" + "y" * 4 * LINE_BYTES
    assert all(len(line.encode()) <= LINE_BYTES for line in lines)


def test_a_secret_that_arrives_in_two_chunks_is_masked():
    splitter = LineSplitter(Masker([SECRET]))
    assert splitter.feed(b"is hunter2-") == []
    assert splitter.feed(b"and-more here\n") == ["is *** here"]


def test_bytes_that_are_no_text_are_replaced_and_ends_of_lines_are_one():
    splitter = LineSplitter(Masker(()))
    assert splitter.feed(b"a\xff\0b\r\nc\rd\n\ne\r") == ["a��b", "c", "d", ""]
    assert splitter.feed(b"\nf") == ["e"]
    assert splitter.end() == ["f"]


@given(st.lists(st.binary(max_size=40), max_size=8))
def test_chunks_make_no_difference(chunks):
    at_once = LineSplitter(Masker(["abcabc"]))
    expected = at_once.feed(b"".join(chunks)) + at_once.end()
    piecemeal = LineSplitter(Masker(["abcabc"]))
    assert [line for chunk in chunks for line in piecemeal.feed(chunk)] + piecemeal.end() == expected


def test_a_wide_line_stays_within_its_bytes():
    splitter = LineSplitter(Masker(()))
    lines = splitter.feed("é".encode() * 40_000 + b"\n")
    assert "".join(lines) == "é" * 40_000
    assert max(len(line.encode()) for line in lines) <= LINE_BYTES
