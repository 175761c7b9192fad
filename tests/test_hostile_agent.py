"""A workstation that lies: the agent refuses in words, changes nothing, stays alive, and serves the next honest one."""

from __future__ import annotations

import hashlib
import json
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from devices import Here, begin, install, listing, parcel, refused, release, send, wait_until, world
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from edgekit.deploy.address import Local
from edgekit.deploy.agent import CHANGES, LOOKS
from edgekit.deploy.parts import packed_agent, packed_probe
from edgekit.deploy.session import open_session
from edgekit.deploy.transport import BOOTSTRAP
from edgekit.errors import DeviceDamaged, DeviceError, EdgekitError, ReleaseUnhealthy

NAMES = (
    "a;reboot", "$(reboot)", "`reboot`", "a\nb", "a b", "-rf", "--", "../x", "a/../../x", "/etc/passwd", "", ".", "..", "a//b",
    "a/", "~", "*", "a\0b", "a\\b", "é", "a\u202eb", "\u212a", "a" * 129, "a/" * 16 + "a", "'", '"', "a|b", "a&b", "con:",
    "\x1b[2J", ".hidden",
)  # fmt: skip


@pytest.fixture
def installed(device: Local) -> Local:
    """A device with two releases and a runtime."""
    here = Here(device.root)
    runtime = parcel("runtime", {"numpy/core.so": b"machine code"}, requirements=["numpy==1"])
    install(here, runtime)
    for label in ("old", "new"):
        install(here, release(label, runtime=runtime.id))
    return device


def works(device: Local) -> bool:
    """Whether an honest workstation gets what it wants there."""
    install(Here(device.root), release("honest"))
    return os.path.basename(os.readlink(device.root / "current")) == release("honest").id


# -- names


def test_no_list_brings_a_name_that_means_something_to_a_shell_or_a_path(installed: Local) -> None:
    content = b"content"
    file = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
    before = world(installed.root)
    for name in NAMES:
        for kind in ("release", "runtime"):
            bad = listing(kind, {f"edgekit_{kind}": 1, "files": {"run": file, name: file}, "runtime": None}, {})
            Here(installed.root).put(file["sha256"], content, answer=True)

            with refused(DeviceError, 4):
                Here(installed.root).request(kind, id=bad.id, text=bad.text)

    assert world(installed.root) == before
    assert works(installed)


def test_no_request_takes_such_a_name_for_an_id_or_a_blob(installed: Local) -> None:
    before = world(installed.root)
    for name in NAMES:
        for operation, arguments in {
            "plan": {"files": {name: 1}, "volatile": True},
            "trial": {"id": name, "window_s": 60, "confirm": "device"},
            "confirm": {"id": name},
            "release": {"id": name, "text": "{}"},
            "put": {"sha256": name, "size": 1, "stored": 1, "packed": False, "answer": True},
            "sample": {"name": name},
        }.items():
            with pytest.raises(EdgekitError):
                Here(installed.root).request(operation, stream=b"x", **arguments)

    assert world(installed.root) == before


@pytest.mark.parametrize(
    "files",
    [
        ["a", "a/b"],  # a file and a folder
        ["run/x"],
        ["site"],
        ["site/numpy.py"],
        ["release.json"],
        ["signed.json"],
        ["signed.json.sig"],
    ],
)
def test_a_list_whose_names_collide_with_one_another_or_with_ours_is_refused(
    installed: Local, files: list[str]
) -> None:
    runtime = os.path.basename(os.readlink(installed.root / "current" / "site"))
    bad = parcel("release", dict.fromkeys(["run", *files], b"x"), runtime=runtime)
    here = Here(installed.root)
    before = world(installed.root)
    for sha256, data in bad.blobs.items():
        here.put(sha256, data, answer=True)

    with pytest.raises(EdgekitError):
        here.request("release", id=bad.id, text=bad.text, signed={"statement": "{}", "signature": ""})

    assert world(installed.root) == before
    assert works(installed)


# -- blobs


def put(device: Local, body: bytes, **changes: Any) -> None:
    """One that is announced as it should be but for `changes`."""
    content = changes.pop("content", body)
    about = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "stored": len(body)}
    Here(device.root).request("put", stream=body, **{**about, "packed": False, "answer": True, **changes})


@pytest.mark.parametrize(
    ("body", "changes"),
    [
        (b"another", {"content": b"content"}),  # of the right size
        (b"content and more", {"content": b"content"}),
        (b"cont", {"content": b"content"}),
        (b"content", {"size": 6}),
        (b"content", {"size": 8}),
        (b"content", {"size": 0}),
        (b"content", {"packed": True}),
        (b"content", {"offset": 3}),
        (b"content", {"offset": 8}),
        (zlib.compress(b"content") + b"trailing" * 10_000, {"content": b"content", "packed": True, "size": 8}),
        (zlib.compress(b"content")[:-3], {"content": b"contents", "packed": True}),
    ],
)
def test_a_blob_that_is_not_what_was_announced_is_refused(
    installed: Local, body: bytes, changes: dict[str, Any]
) -> None:
    before = world(installed.root)

    with pytest.raises((DeviceDamaged, DeviceError)):
        put(installed, body, **changes)

    assert world(installed.root) == before
    assert works(installed)


@pytest.mark.parametrize("offset", [0, 7, 8, 100])
def test_a_packed_bomb_takes_no_more_memory_and_disk_than_it_announced(installed: Local, offset: int) -> None:
    """A thousandth of what it unpacks to, also where a beginning is said to be there already."""
    import tracemalloc

    bomb = zlib.compress(bytes(64 << 20), 9)
    sha256 = hashlib.sha256(b"7 bytes").hexdigest()
    (installed.root / "incoming" / sha256).write_bytes(b"x" * offset)
    tracemalloc.start()
    with pytest.raises(EdgekitError):
        put(installed, bomb, sha256=sha256, size=7, packed=True, offset=offset)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak < 2 << 20
    assert not (installed.root / "blobs" / sha256).exists()
    assert works(installed)


def test_sizes_that_are_none_are_refused(installed: Local) -> None:
    for key in ("size", "stored", "offset"):
        for value in (-1, 1.5, "7", None, True, [], 1 << 70):
            if (key, value) != ("stored", 1 << 70):  # which is waited for, as long as anybody sends
                with pytest.raises(EdgekitError):
                    put(installed, b"", content=b"content", **{key: value})

    assert works(installed)


# -- requests

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.sampled_from(["0" * 16, "f" * 64, "idle"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)
KEYS = [
    "id",
    "text",
    "files",
    "sha256",
    "size",
    "stored",
    "packed",
    "answer",
    "offset",
    "window_s",
    "confirm",
    "service",
    "signed",
]
KEYS += ["text", "files", "sha256", "size", "stored", "packed", "answer", "offset", "window_s", "confirm", "service"]


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(sorted({*LOOKS, *CHANGES} - {"remove", "rollback"})),
    st.dictionaries(st.sampled_from(KEYS), json_values),
)
@example("plan", {})
@example("plan", {"files": 5, "volatile": True})
@example("put", {})
@example("release", {"id": "0" * 16, "text": "[" * 5000})
@example("trial", {"id": [], "window_s": "soon"})
def test_any_request_is_answered_or_refused_in_words(
    installed: Local, operation: str, arguments: Mapping[str, Any]
) -> None:
    before = world(installed.root)

    said = answer(installed, operation, arguments)

    after = world(installed.root)
    changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    assert not isinstance(said, EdgekitError) or (str(said) and said.hint)
    assert not {name for name in changed if name.startswith(("releases", "runtimes", "current", "journal", "blobs"))}


def answer(device: Local, operation: str, arguments: Mapping[str, Any]) -> Any:
    try:
        return Here(device.root).request(operation, stream=b"some bytes", **arguments)
    except EdgekitError as error:
        return error


# -- frames


def talk(device: Local, *said: bytes) -> subprocess.CompletedProcess[bytes]:
    """What a real agent process makes of these bytes after its own source."""
    hello, packed = json.dumps({"root": str(device.root)}).encode(), packed_agent()
    start = b"%d\n%s%s" % (len(packed_probe()), packed_probe(), struct.pack(">I", len(hello)) + hello)
    agent = json.dumps({"agent": len(packed)}).encode()
    start += struct.pack(">I", len(agent)) + agent + packed
    return subprocess.run(
        [sys.executable, "-I", "-c", BOOTSTRAP], input=start + b"".join(said), capture_output=True, timeout=60
    )


@pytest.mark.parametrize(
    "said",
    [
        struct.pack(">I", 0xFFFFFFFF) + b"x" * 100,  # four gigabytes are announced
        struct.pack(">I", (64 << 20) + 1) + b"x" * 100,
        struct.pack(">I", 100_000) + b"[" * 100_000,
        struct.pack(">I", 4) + b"\xff\xfe\x00\x00",
        struct.pack(">I", 2) + b"[]",
        struct.pack(">I", 4) + b"null",
        struct.pack(">I", 0),
        b"\0\0",
    ],
    ids=["4 GiB", "64 MiB", "nested", "no text", "a list", "null", "empty", "cut"],
)
def test_a_frame_that_is_none_ends_the_agent_and_nothing_else(installed: Local, said: bytes) -> None:
    before = world(installed.root)

    done = talk(installed, said)

    assert b"MemoryError" not in done.stderr
    assert b"Traceback" not in done.stderr
    assert world(installed.root) == before
    assert works(installed)


# -- what a release says of itself

NESTED = b"""#!/bin/sh
test -e %s && { head -c 200000 /dev/zero | tr "\\0" "["; exit 0; }
echo '{"variants": []}'
"""


def test_a_report_nested_too_deep_is_a_finding(installed: Local, tmp_path: Path) -> None:
    (tmp_path / "now").touch()
    before = world(installed.root)

    with refused(ReleaseUnhealthy, 5):
        install(Here(installed.root), release("nested", run=NESTED % str(tmp_path / "now").encode()))

    assert world(installed.root) == before


def test_a_guard_gives_up_a_release_whatever_its_check_ends_with(installed: Local, tmp_path: Path) -> None:
    """A real guard, from the agent's own file, over a release that turns bad after it was let in."""
    one = release("nested", run=NESTED % str(tmp_path / "now").encode())
    before = os.readlink(installed.root / "current")
    with open_session(installed) as session:
        send(session, one)
        session.request("release", id=one.id, text=one.text)
        begin(session, one, window_s=1.0, confirm="device")
    assert os.readlink(installed.root / "current") != before
    (tmp_path / "now").touch()

    wait_until(lambda: os.readlink(installed.root / "current") == before)
    wait_until(lambda: json.loads((installed.root / "journal.json").read_text())["phase"] == "idle")
    assert json.loads((installed.root / "journal.json").read_text())["failed"] == [one.id]
