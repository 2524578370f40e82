"""Repository URLs and refs."""

from __future__ import annotations

import subprocess

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shipoff.common.errors import InvalidInput
from shipoff.project.repositories import branch_of, check_ref, check_url, follow_url, repository_key


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        ("https://github.com/ada/engine", "https://github.com/ada/engine"),
        ("https://github.com/ada/engine.git", "https://github.com/ada/engine.git"),
        ("http://git.example.com:3000/a/b", "http://git.example.com:3000/a/b"),
        ("https://GitHub.com:443/Ada/Engine", "https://github.com/Ada/Engine"),
        ("https://user:secret@github.com/a/b", "https://github.com/a/b"),
        ("https://token@github.com/a/b", "https://github.com/a/b"),
        ("https://1.1.1.1/a/b", "https://1.1.1.1/a/b"),
        ("https://[2606:4700::1111]/a/b", "https://[2606:4700::1111]/a/b"),
    ],
)
def test_a_public_repository_is_taken_without_its_credentials(url: str, kept: str) -> None:
    assert check_url(url, field="url") == kept


@pytest.mark.parametrize(
    "url",
    [
        "",
        "-oProxyCommand=touch /tmp/x",
        "--upload-pack=touch",
        "ext::sh -c whoami",
        "ext::sh%20-c",
        "file:///etc",
        "/etc/passwd",
        "../repo",
        "C:\\repo",
        "ssh://git@github.com/a/b",
        "git@github.com:a/b.git",
        "git://github.com/a/b",
        "ftp://example.com/a",
        "https://",
        "https:///a/b",
        "https://github.com",
        "https://github.com/",
        "https://github.com/a?x=1",
        "https://github.com/a#x",
        "https://github.com\\@evil.example/a",
        "https://github.com:99999/a",
        "https://github.com:x/a",
        "https://-oProxyCommand=x/a",
        "https://exa mple.com/a",
        "https://example.com/a\nb",
        "https://exämple.com/a",
        "https://[::1/a",
        "https://" + "a" * 2100 + "/b",
    ],
)
def test_what_is_no_http_url_of_a_repository_is_refused(url: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        check_url(url, field="source.git.url", allowed=None)
    assert raised.value.field == "source.git.url"


PRIVATE = [
    "localhost",
    "LOCALHOST.",
    "app.localhost",
    "printer.local",
    "metadata.google.internal",
    "127.0.0.1",
    "127.0.0.1.",
    "10.1.2.3",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "0.0.0.0",
    "224.0.0.1",
    "[::1]",
    "[::]",
    "[fe80::1]",
    "[fd00::1]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[64:ff9b::7f00:1]",
    "[2002:7f00:1::]",
    "[::127.0.0.1]",
]


@pytest.mark.parametrize("host", PRIVATE)
def test_private_addresses_are_refused_unless_the_operator_allows_them(host: str) -> None:
    url = f"http://{host}/a/b"
    with pytest.raises(InvalidInput, match="private"):
        check_url(url, field="url")
    assert check_url(url, field="url", allowed=None)


@pytest.mark.parametrize("host", ["2130706433", "0x7f000001", "0x7f.1", "127.1", "0177.0.0.1", "1.2.3.4.5", "foo.0x7f"])
def test_addresses_in_unusual_forms_are_always_refused(host: str) -> None:
    with pytest.raises(InvalidInput, match="unusual"):
        check_url(f"http://{host}/a", field="url", allowed=None)


def test_an_operator_allows_a_host_or_one_port_of_it() -> None:
    for allowed in (["git.lan.local"], ["GIT.lan.local:3000"]):
        assert check_url("http://Git.lan.local:3000/a/b", field="url", allowed=allowed)
    for allowed in (["git.lan.local:80"], ["lan.local"], ["127.0.0.1"]):
        with pytest.raises(InvalidInput):
            check_url("http://git.lan.local:3000/a/b", field="url", allowed=allowed)


def test_a_message_never_repeats_a_url_with_a_password() -> None:
    with pytest.raises(InvalidInput) as raised:
        check_url("https://u:hunter2@127.0.0.1/x", field="url")
    assert "hunter2" not in raised.value.message + raised.value.remedy


@given(st.text(max_size=60) | st.from_regex(r"https?://[^\s]{0,40}", fullmatch=True))
def test_any_text_is_a_plain_http_url_or_invalid_input(text: str) -> None:
    try:
        kept = check_url(text, field="url")
    except InvalidInput:
        return
    assert kept.startswith(("http://", "https://"))
    assert "@" not in kept.split("/")[2]
    assert check_url(kept, field="url") == kept


@pytest.mark.parametrize(
    "url",
    [
        "https://github.com/ada/engine",
        "https://github.com/Ada/Engine.git",
        "https://github.com/ada/engine/",
        "http://GITHUB.com/ada/engine.git/",
        "https://u:p@github.com:443/ada/engine",
        "git@github.com:ada/engine.git",
        "ssh://git@github.com/ada/engine.git",
        "ssh://git@github.com:22/ada/engine",
    ],
)
def test_the_forms_of_one_repository_have_one_key(url: str) -> None:
    assert repository_key(url) == "github.com/ada/engine"


@pytest.mark.parametrize(
    "url",
    [
        "https://github.com/eve/engine",
        "https://evil.example/ada/engine",
        "https://github.com/ada/engine2",
        "https://github.com:8443/ada/engine",
    ],
)
def test_another_repository_has_another_key(url: str) -> None:
    assert repository_key(url) != "github.com/ada/engine"


def test_the_ssh_form_is_followed_as_https() -> None:
    assert follow_url("git@github.com:ada/engine.git", field="repository.url") == "https://github.com/ada/engine.git"
    for url in ["ext::sh -c id", "-oProxyCommand=x", "git@localhost:a/b", "git@127.0.0.1:a/b"]:
        with pytest.raises(InvalidInput):
            follow_url(url, field="repository.url")


@pytest.mark.parametrize(
    "ref",
    [
        "main",
        "feature/x",
        "main;curl${IFS}x|sh",
        "$(id)",
        "v1.0",
        "a" * 40,
        "refs/heads/main",
        "naïve",
        "x`y`",
        "'",
        "a@b",
        "{",
    ],
)
def test_legal_names_pass_however_strange(ref: str) -> None:
    assert check_ref(ref, field="ref") == ref


@pytest.mark.parametrize(
    "ref",
    [
        "",
        "-x",
        "--upload-pack=touch /tmp/x",
        "a b",
        "a..b",
        "a~1",
        "a^",
        "a:b",
        "a?",
        "a*",
        "a[",
        "a\\b",
        "/a",
        "a/",
        "a//b",
        ".a",
        "a/.b",
        "a.lock",
        "a.lock/b",
        "a.",
        "@",
        "a@{1}",
        "a\nb",
        "a\x00",
        "a\x7f",
        "x" * 256,
    ],
)
def test_names_that_git_forbids_are_refused(ref: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        check_ref(ref, field="source.git.ref")
    assert raised.value.field == "source.git.ref"


_REFS = st.text(alphabet="ab/.@{}~^:?*[\\- $;'\x7f\n", min_size=1, max_size=8) | st.text(min_size=1, max_size=6)


@settings(max_examples=150, deadline=None)
@given(_REFS)
@example("a.lock")
def test_git_itself_agrees(ref: str) -> None:
    if "\0" in ref or any(0xD800 <= ord(char) < 0xE000 for char in ref):
        return
    allowed = subprocess.run(["git", "check-ref-format", f"refs/heads/{ref}"], check=False).returncode == 0
    try:
        check_ref(ref, field="ref")
    except InvalidInput:
        # Stricter in two places: what an option or HEAD's short form looks like.
        assert not allowed or ref.startswith("-") or ref == "@"
    else:
        assert allowed


def test_a_commit_is_no_branch() -> None:
    assert branch_of("a" * 40) == ""
    assert branch_of("refs/heads/main") == "main"
    assert branch_of("v1") == "v1"
