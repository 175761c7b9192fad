"""A device that lies: whatever it sends, the workstation ends with an error for a person, and shows no control characters."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edgekit.deploy.address import Local
from edgekit.deploy.answers import ANSWERS, fits
from edgekit.deploy.session import MAGIC, Session
from edgekit.errors import EdgekitError

HELLO = {
    "python": [3, 11, 2],
    "executable": "/usr/bin/python3",
    "arch": "aarch64",
    "libc": "glibc 2.36",
    "numpy": None,
    "system": "Debian GNU/Linux 12 (bookworm)",
    "board": "",
    "root": "/home/pi/.local/state/edgekit",
    "unsafe": "",
    "free_bytes": 1 << 30,
    "current": None,
    "phase": None,
    "good": None,
    "prev": None,
    "to": None,
    "service": None,
    "runtimes": [],
    "signers": False,
}


class Says:
    """A channel whose other end says these bytes, whatever it is told, in blocks of a few sizes."""

    def __init__(self, said: bytes, block: int = 1 << 16) -> None:
        self.left, self.block = said, block

    def send(self, data: bytes, timeout_s: float) -> None:
        pass

    def receive(self, timeout_s: float) -> bytes:
        taken, self.left = self.left[: self.block], self.left[self.block :]
        return taken

    def end(self) -> None:
        pass

    def ending(self) -> tuple[int | None, str]:
        return 0, ""


def frame(message: Any) -> bytes:
    text = message if isinstance(message, bytes) else json.dumps(message).encode()
    return struct.pack(">I", len(text)) + text


def listen(said: bytes, *operations: str, block: int = 1 << 16) -> list[Any]:
    """What a session makes of it: its hello and the answers to these requests."""
    session = Session(Says(said, block), Local(Path("/nowhere")), "python3")
    return [session.hello, *(session.request(operation) for operation in operations)]


def outcome(said: bytes, *operations: str, block: int = 1 << 16) -> EdgekitError | list[Any]:
    """The error that it ends with, or what was heard."""
    try:
        return listen(said, *operations, block=block)
    except EdgekitError as error:
        return error


def texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [text for pair in value.items() for part in pair for text in texts(part)]
    return [text for part in value for text in texts(part)] if isinstance(value, (list, tuple)) else []


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=120, deadline=None)
@given(
    st.dictionaries(st.sampled_from(sorted(HELLO)), json_values), st.sets(st.sampled_from(sorted(HELLO)), max_size=2)
)
def test_any_hello_is_understood_or_named_as_not_ours(changes: dict[str, Any], without: set[str]) -> None:
    fields = {key: value for key, value in {**HELLO, **changes}.items() if key not in without}

    found = outcome(MAGIC + frame(fields))

    if isinstance(found, EdgekitError):
        assert str(found).isprintable() and found.hint
        return
    hello = found[0]
    shown = [hello.arch, hello.libc, hello.system, hello.board, hello.root, hello.unsafe, hello.current or ""]
    assert all(text.isprintable() for text in shown)


@settings(max_examples=120, deadline=None)
@given(st.binary(max_size=300), st.booleans(), st.booleans(), st.integers(1, 64))
@example(frame(b"[" * 200_000), True, True, 1 << 16)
@example(frame(b'{"missing":' * 100_000), True, True, 1 << 16)
@example(struct.pack(">I", 0xFFFFFFFF) + b"x" * 100, True, True, 64)
@example(frame(b"\xff\xfe"), True, False, 64)
@example(frame(b"1" * 10_000), True, True, 1 << 16)
def test_any_bytes_end_in_an_error(said: bytes, with_magic: bool, with_hello: bool, block: int) -> None:
    before = (MAGIC if with_magic else b"") + (frame(HELLO) if with_hello else b"")

    found = outcome(before + said, *["status"] * 80, block=block)  # more than fit into 300 bytes

    assert isinstance(found, EdgekitError)
    assert str(found).isprintable() and found.exit_code in (1, 4)


HONEST = {
    "plan": {"missing": {"0" * 64: 0}, "warning": ""},
    "release": {"installed": "0" * 16, "check": {"variants": [
        {"variant": "int8", "count": 8, "bit_equal": 8, "largest_difference": 0.0, "tolerance": 2.0}
    ]}},
    "trial": {"before": None, "service": "none", "health": None, "signed": {"principal": "a", "key": "b", "seq": 1}},
    "confirm": {"current": "0" * 16, "previous": None},
    "status": {
        "releases": [{"id": "0" * 16, "role": "current", "name": "x", "bundle": None, "edgekit": "1"}],
        "used_bytes": 5, "good": None, "trial": {"release": "x", "left_s": 1.5, "confirm": "device"},
        "failed": [], "service": "none", "power": {"installed": True, "active": False},
    },
    "verify": {"damaged": ["a"]},
    "helper": {"changed": ["a"]},
    "points": {"place": "a", "service": "none"},
    "helper possible": {"why_not": ""},
    "remove": {"removed": "a", "left": ""},
    "signers": {"enforced": True, "signers": []},
}  # fmt: skip


def spoiled(value: Any, path: list[int], by: Any) -> Any:
    """`value` with one thing in it replaced: a child, a child of that, and so on."""
    if path and isinstance(value, dict) and value:
        key = sorted(value)[path[0] % len(value)]
        return {**value, key: spoiled(value[key], path[1:], by)}
    if path and isinstance(value, list) and value:
        return [spoiled(value[0], path[1:], by), *value[1:]]
    return by


@pytest.mark.parametrize("operation", sorted(HONEST))
def test_an_honest_answer_is_taken(operation: str) -> None:
    assert listen(MAGIC + frame(HELLO) + frame(HONEST[operation]), operation)[1] == HONEST[operation]


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(sorted(HONEST)), st.lists(st.integers(0, 9), max_size=4), json_values)
@example("plan", [0], ["0" * 64])
@example("plan", [0, 0], "many")
@example("status", [4], {})
@example("release", [0, 0, 0, 3], "\x1b")
def test_an_answer_of_another_form_is_not_ours(operation: str, path: list[int], by: Any) -> None:
    answer = spoiled(HONEST[operation], path, by)

    found = outcome(MAGIC + frame(HELLO) + frame(answer), operation)

    assert isinstance(found, EdgekitError) or fits(found[1], ANSWERS[operation])


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.text(max_size=8) | st.sampled_from(["error", "message", "hint"]), json_values, max_size=4))
@example({"error": "EdgekitError", "message": "\x1b]0;mine\x07", "hint": "\x1b[2J"})
@example({"error": "__builtins__", "message": None})
@example({"error": "annotations"})
@example({"releases": [{"name": "\x1b[2J\x1b[H", "id": "\u202e"}]})
def test_no_answer_brings_control_characters_or_another_kind_of_error(answer: dict[str, Any]) -> None:
    found = outcome(MAGIC + frame(HELLO) + frame(answer), "runtime")

    if isinstance(found, EdgekitError):
        assert (str(found) + found.hint).isprintable()
    else:
        assert all(text.isprintable() for text in texts(found[1]))
