"""What `ssh -G` said (recorded from OpenSSH 9.2) and what known_hosts files hold, and what we make of both."""

from __future__ import annotations

import base64
import hashlib
import hmac
import shlex
import stat
from pathlib import Path

import pytest
from devices import refused
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.deploy.address import Remote
from edgekit.deploy.known_hosts import (
    HostKey,
    own_known_hosts,
    parse_known_hosts,
    read_known_hosts,
    remember_host_key,
)
from edgekit.deploy.route import Route, expand_tokens, find_route, parse_route
from edgekit.errors import DeviceUnreachable, InputError

TRANSCRIPTS = Path(__file__).parent / "transcripts"


def recorded(alias: str) -> Route:
    return parse_route((TRANSCRIPTS / f"ssh-G-{alias}.txt").read_text(), Remote(alias, None, None))


# -- ssh -G


def test_an_alias_becomes_its_host_with_the_default_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")

    route = recorded("plain")

    assert (route.host, route.user, route.port, route.key_name) == ("192.0.2.7", "pi", 22, "192.0.2.7")
    assert Path("/home/me/.ssh/id_ed25519") in route.identities
    assert Path("/home/me/.ssh/known_hosts") in route.known_hosts
    assert Path("/etc/ssh/ssh_known_hosts") in route.known_hosts
    assert route.proxy is None
    assert not route.identities_only


def test_a_port_is_part_of_the_name_a_host_key_is_filed_under(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")

    route = recorded("odd-port")

    assert (route.port, route.key_name) == (2222, "[192.0.2.7]:2222")
    assert route.identities == (Path("/home/me/.ssh/board"),)
    assert route.identities_only


def test_a_host_key_alias_replaces_the_name_and_none_is_no_file() -> None:
    route = recorded("alias")

    assert route.key_name == "workshop-pi"
    assert [path.name for path in route.known_hosts] == ["known_hosts", "boards", "more"]


@pytest.mark.parametrize(
    ("alias", "command"),
    [
        ("jumped", "ssh -o ServerAliveInterval=15 -W 10.0.0.5:22 -- ssh://me@gate:2222"),
        ("far", "ssh -J gate -o ServerAliveInterval=15 -W '[fd00::5]:22' -- 'ssh://[fe80::1]:2200'"),
        ("piped", "nc -X 5 -x gate:1080 10.0.0.5 22 # 100% of piped for me"),
        ("not-jumped", None),
    ],
)
def test_a_jump_is_left_to_ssh_and_a_proxy_command_gets_its_tokens(alias: str, command: str | None) -> None:
    assert recorded(alias).proxy == command


def test_an_ipv6_address_with_a_zone_stays_one() -> None:
    route = recorded("ipv6")

    assert (route.host, route.port, route.user) == ("fe80::1%eth0", 2022, "me")


@settings(max_examples=60, deadline=None)
@given(st.text(st.sampled_from("hprn%x ';$"), max_size=20))
def test_tokens_are_filled_in_once_each(command: str) -> None:
    values = {"h": "%p", "p": "22", "r": "%h", "n": "%%"}

    expanded = expand_tokens(command, values)

    if "%" not in command:
        assert expanded == command
    assert expand_tokens("%%h", values) == "%h"


@pytest.mark.parametrize("jump", ["a", "u@a:1", "a,b", "a,b,c", "ssh://u@a:1", "a;reboot", "$(reboot),b"])
def test_jump_hosts_are_single_words_to_the_shell(jump: str) -> None:
    route = parse_route(f"hostname board\nport 22\nproxyjump {jump}\n", Remote("board", None, None))

    assert route.proxy is not None
    words = shlex.split(route.proxy)
    assert words[0] == "ssh"
    assert words[-1].removeprefix("ssh://") == jump.split(",")[-1].removeprefix("ssh://")


def test_without_an_ssh_client_there_is_a_hint_which_package_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")

    with refused(DeviceUnreachable, 4) as caught:
        find_route(Remote("board", None, None))

    assert "openssh-client" in caught.value.hint


def test_a_configuration_that_ssh_does_not_accept_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ssh").write_text("#!/bin/sh\necho 'config line 3: Bad configuration option: hots' >&2\nexit 255\n")
    (tmp_path / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")

    with refused(InputError, 2) as caught:
        find_route(Remote("board", None, None))

    assert "line 3" in str(caught.value)


# -- known_hosts


def key(content: bytes, kind: str = "ssh-ed25519") -> HostKey:
    return HostKey(kind, content)


def line(names: str, key: HostKey, marker: str = "") -> str:
    return f"{marker}{names} {key.type} {base64.b64encode(key.blob).decode()}"


def hashed(name: str) -> str:
    salt = hashlib.sha1(b"salt").digest()
    digest = hmac.new(salt, name.encode(), "sha1").digest()
    return f"|1|{base64.b64encode(salt).decode()}|{base64.b64encode(digest).decode()}"


RIGHT, WRONG = key(b"right"), key(b"wrong")


@pytest.mark.parametrize(
    "names",
    [
        "board",
        "other,board",
        "BOARD",
        "*",
        "bo?rd",
        "b*d,!bread",
        hashed("board"),
        f"{hashed('other')},{hashed('board')}",
    ],
)
def test_a_name_may_be_plain_hashed_or_a_pattern(names: str) -> None:
    assert parse_known_hosts([line(names, RIGHT)], "board").trusted == (RIGHT,)


@pytest.mark.parametrize(
    "names", ["boards", "b", "*,!board", "!board", hashed("other"), "[board]:22", "|1|junk", "|1||", "[b]oard"]
)
def test_another_name_vouches_for_nothing(names: str) -> None:
    assert parse_known_hosts([line(names, RIGHT)], "board").trusted == ()


def test_a_port_is_compared_with_the_name() -> None:
    lines = [line("[board]:2222", RIGHT), line("board", WRONG)]

    assert parse_known_hosts(lines, "[board]:2222").trusted == (RIGHT,)


@pytest.mark.parametrize("marker", ["@revoked ", "@revoked\t"])
def test_a_revoked_key_is_known_as_such_whatever_name_it_had(marker: str) -> None:
    found = parse_known_hosts([line("elsewhere", WRONG, marker), line("board", RIGHT)], "board")

    assert (found.trusted, found.revoked) == ((RIGHT,), (WRONG,))


def test_a_certificate_authority_is_not_a_host_key() -> None:
    assert parse_known_hosts([line("*", RIGHT, "@cert-authority ")], "board").trusted == ()


def test_junk_between_the_lines_does_not_hide_the_key() -> None:
    junk = [
        "",
        "# board",
        "board",
        "board ssh-ed25519",
        "board ssh-ed25519 not*base64",
        "\0\0",
        "@",
        "@revoked",
        "a b c d e",
    ]
    strange = line("board", key(b"strange", "ssh-of-the-future"))

    found = parse_known_hosts([*junk, strange, line("board", RIGHT) + " a comment"], "board")

    assert RIGHT in found.trusted
    assert found.trusted[0].type == "ssh-of-the-future"


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=60), max_size=5))
def test_no_content_of_the_file_is_too_strange_to_be_read(lines: list[str]) -> None:
    assert parse_known_hosts([*lines, line("board", RIGHT)], "board").trusted[-1:] == (RIGHT,)


def test_files_that_are_not_there_vouch_for_nothing(tmp_path: Path) -> None:
    (tmp_path / "here").write_bytes(b"\xff\xfe\n" + line("board", RIGHT).encode())

    assert read_known_hosts([tmp_path / "not-here", tmp_path, tmp_path / "here"], "board").trusted == (RIGHT,)


def test_a_key_that_a_person_vouched_for_is_remembered_after_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    remember_host_key("board", RIGHT)
    with own_known_hosts().open("a") as stream:
        stream.write(line("third", WRONG))  # and no newline

    remember_host_key("[other]:2222", WRONG)

    assert read_known_hosts([own_known_hosts()], "board").trusted == (RIGHT,)
    assert read_known_hosts([own_known_hosts()], "[other]:2222").trusted == (WRONG,)
    assert read_known_hosts([own_known_hosts()], "third").trusted == (WRONG,)
    assert stat.S_IMODE(own_known_hosts().stat().st_mode) == 0o600


def test_a_key_that_cannot_be_remembered_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "file"))

    with refused(InputError, 2):
        remember_host_key("board", RIGHT)


def test_a_fingerprint_is_what_ssh_keygen_shows() -> None:
    blob = "AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl"  # github.com's, as published

    assert key(base64.b64decode(blob)).fingerprint == "SHA256:+DiY3wvvV6TuJJhbpZisF/zLDA0zPMSvHdkr4UvCOqU"
