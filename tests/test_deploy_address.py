"""How a device is named; nothing that a person types reaches a shell."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from devices import refused
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edgekit.deploy.address import Local, Remote, check_python, parse_address
from edgekit.deploy.transport import BOOTSTRAP
from edgekit.errors import InputError

SHELL = set("\\'\"`$;&|<>(){}*?!#~ \t\n\r\0=,^")  # what some shell would not take as it is
typed = st.text(st.characters(codec="utf-8") | st.sampled_from("@:[]-/%.;$`'\"\\\n ~*"), max_size=40)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("local:/srv/edgekit", Local(Path("/srv/edgekit"))),
        ("local:/srv/a b;c", Local(Path("/srv/a b;c"))),
        ("raspberrypi.local", Remote("raspberrypi.local", None, None)),
        ("pi@raspberrypi.local", Remote("raspberrypi.local", "pi", None)),
        ("pi@192.168.0.17:2222", Remote("192.168.0.17", "pi", 2222)),
        ("pi@[fe80::1%eth0]:22", Remote("fe80::1%eth0", "pi", 22)),
        ("[::1]", Remote("::1", None, None)),
        ("my_board", Remote("my_board", None, None)),
    ],
)
def test_an_address_is_read_as_a_person_means_it(text: str, address: Local | Remote) -> None:
    assert parse_address(text) == address


def test_a_local_folder_is_taken_from_where_one_is() -> None:
    assert parse_address("local:device") == Local(Path.cwd() / "device")


@pytest.mark.parametrize(
    "text",
    [
        "", "local:", "local:a\0b", "@board", "pi@", "board:", "board:0", "board:65536", "board:٢٢", "board:-1",
        "-oProxyCommand=x", "pi@-oProxyCommand=x", "-l@board", "a b", "board;reboot", "$(reboot)", "`reboot`", "board\n",
        "pi@board\nHost x", "pi@@board", "ssh://board", "fe80::1", "[fe80::1", "[fe80::1]22", "[]",
        "böard", "pi@board/..", "%h",
    ],
)  # fmt: skip
def test_what_is_no_address_is_refused(text: str) -> None:
    with refused(InputError, 2):
        parse_address(text)


@settings(max_examples=100, deadline=None)
@given(typed)
@example("x'; reboot #")
@example("-oProxyCommand=reboot")
def test_whatever_is_typed_is_refused_or_harmless_to_every_shell(text: str) -> None:
    try:
        address = parse_address(text)
    except InputError:
        return

    if isinstance(address, Remote):
        for word in (address.host, address.user or "x"):
            assert not SHELL & set(word)
            assert not word.startswith("-")
            assert shlex.split(word) == [word]
        assert parse_address(str(address)) == address


@settings(max_examples=100, deadline=None)
@given(typed)
@example("python3; reboot")
@example("-c")
def test_a_python_is_one_plain_word_on_the_devices_command_line_or_refused(text: str) -> None:
    try:
        python = check_python(text)
    except InputError:
        return

    assert shlex.split(f"exec {python} -I -c '{BOOTSTRAP}'") == ["exec", text, "-I", "-c", BOOTSTRAP]
    assert not SHELL & set(python)
