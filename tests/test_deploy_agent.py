"""The agent against a real folder in a real process: what it stores, refuses, installs, switches, and leaves behind."""

from __future__ import annotations

import ast
import glob
import hashlib
import json
import os
import shutil
import stat
import sys
import time
import zlib
from pathlib import Path

import pytest
from devices import (
    HEALTHY,
    PYTHON,
    Here,
    flip_a_byte,
    install,
    listing,
    parcel,
    previous,
    recorded,
    refused,
    release,
    send,
    wait_until,
    world,
)
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edgekit.deploy import answers, disk, folder, transport
from edgekit.deploy import session as session_module
from edgekit.deploy.address import Local
from edgekit.deploy.parts import AGENT
from edgekit.deploy.session import open_session
from edgekit.errors import (
    DeviceBusy,
    DeviceDamaged,
    DeviceError,
    DeviceRefused,
    DeviceUnreachable,
    DeviceUnsupported,
    GoldenMismatch,
    NotInstalled,
    ReleaseUnhealthy,
)

DEPLOY = Path(session_module.__file__).parent


def pythons(*versions: str) -> list[str]:
    """Interpreters of these versions that this machine happens to have."""
    found = [shutil.which(f"python{version}") or "" for version in versions]
    found += sorted(glob.glob(os.path.expanduser("~/.pyenv/versions/*/bin/python3")))
    # a shim of pyenv only starts what the folder it is in asks for
    return [
        path for path in found if "/shims/" not in path and any(f"/{v}." in path or path.endswith(v) for v in versions)
    ]


@pytest.fixture
def installed(device: Local) -> Local:
    """A device with a current and a previous release and a runtime."""
    here = Here(device.root)
    runtime = parcel("runtime", {"numpy/core.so": b"machine code"}, requirements=["numpy==1"])
    install(here, runtime)
    install(here, release("old", runtime=runtime.id))
    install(here, release("new", runtime=runtime.id))
    return device


# -- what should work


def test_releases_take_turns_and_share_what_they_have_in_common(device: Local) -> None:
    first, second = (release(label, common=b"x" * 5000) for label in ("first", "second"))
    install(Here(device.root), first)
    sent = send(Here(device.root), second)
    install(Here(device.root), second)

    assert sent == [hashlib.sha256(b"second").hexdigest()]
    assert os.path.realpath(device.root / "current") == str(device.root / "releases" / second.id)
    assert (recorded(device.root)["good"], recorded(device.root)["prev"]) == (second.id, first.id)
    assert (device.root / "current" / "common").read_bytes() == b"x" * 5000


def test_a_third_release_pushes_the_first_one_off_the_disk(device: Local) -> None:
    first, second, third = (release(label) for label in ("first", "second", "third"))
    for one in (first, second, third):
        install(Here(device.root), one)

    assert sorted(os.listdir(device.root / "releases")) == sorted([second.id, third.id])
    assert hashlib.sha256(b"first").hexdigest() not in os.listdir(device.root / "blobs")


def test_rollback_goes_back_and_forth(installed: Local) -> None:
    before = world(installed.root)

    with open_session(installed) as session:
        session.request("rollback")
        between = world(installed.root)
        session.request("rollback")

    assert between["current"] != before["current"]
    assert world(installed.root) == before


def test_rollback_on_an_empty_device_leaves_it_empty(device: Local) -> None:
    with refused(NotInstalled, 4):
        Here(device.root).request("rollback")

    assert not device.root.exists()


def test_rollback_after_a_single_release_changes_nothing(device: Local) -> None:
    install(Here(device.root), release("only"))
    before = world(device.root)

    with refused(NotInstalled, 4):
        Here(device.root).request("rollback")

    assert world(device.root) == before


@pytest.mark.parametrize("kind", ["releases", "runtimes"])
def test_rollback_to_something_damaged_is_refused(installed: Local, kind: str) -> None:
    old = previous(installed.root)
    flip_a_byte(old / "label" if kind == "releases" else old / "site" / "numpy" / "core.so")
    before = world(installed.root)

    with refused(DeviceDamaged, 4):
        Here(installed.root).request("rollback")

    assert world(installed.root) == before


def test_remove_takes_what_is_ours_and_leaves_what_is_not(installed: Local) -> None:
    (installed.root / "notes.txt").write_text("mine")

    Here(installed.root).request("remove")

    assert os.listdir(installed.root) == ["notes.txt"]


def test_remove_leaves_no_empty_folder_and_may_be_repeated(installed: Local) -> None:
    for _ in range(2):
        Here(installed.root).request("remove")

    assert not installed.root.exists()


def test_status_of_an_empty_device_makes_nothing_there(device: Local) -> None:
    found = Here(device.root).request("status")

    assert (found["releases"], found["used_bytes"], found["trial"]) == ([], 0, None)
    assert not device.root.exists()


@pytest.mark.parametrize(
    "name", ["current/label", "previous/label", "current/site/numpy/core.so", "current/release.json"]
)
def test_verify_finds_a_flipped_byte(installed: Local, name: str) -> None:
    flip_a_byte(installed.root / name if "current" in name else previous(installed.root) / name.split("/")[1])

    damaged = Here(installed.root).request("verify")["damaged"]

    assert len(damaged) == 1
    assert damaged[0].endswith(name.split("/")[-1]) or damaged[0].endswith("the list of its files")


def test_a_damaged_list_of_a_release_does_not_cost_it_its_runtime(installed: Local) -> None:
    flip_a_byte(installed.root / "current" / "release.json")
    flip_a_byte(previous(installed.root) / "release.json")

    install(Here(installed.root), release("next"))

    assert (previous(installed.root) / "site" / "numpy" / "core.so").exists()


def test_modes_do_not_depend_on_the_umask_of_whoever_logs_in(device: Local) -> None:
    for umask in (0o000, 0o077):
        before = os.umask(umask)
        try:
            install(Here(device.root), parcel("runtime", {"a/b.so": b"%d" % umask}))
            one = release(f"{umask}", **{"edgekit/x.py": b"x"})
            install(Here(device.root), one)
        finally:
            os.umask(before)

        folder = device.root / "releases" / one.id
        modes = {n: stat.S_IMODE((folder / n).stat().st_mode) for n in ("", "edgekit", "run", "label", "release.json")}
        assert modes == {"": 0o755, "edgekit": 0o755, "run": 0o555, "label": 0o444, "release.json": 0o644}
        assert stat.S_IMODE(device.root.stat().st_mode) == 0o700


def test_the_runner_of_the_release_is_asked_without_anybodys_python_settings(
    device: Local, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setenv("PYTHONHOME", "/nowhere")

    with open_session(device) as session:
        one = release(
            "env", run=b"""#!/bin/sh\nenv | grep -q ^PYTHON && exit 1\necho '{"variants": [], "seen": 1}'\n"""
        )
        send(session, one)
        answer = session.request("release", id=one.id, text=one.text)

    assert answer["check"]["seen"] == 1


# -- what must be refused


NAME = hashlib.sha256(b"as announced").hexdigest()


LIES = {
    "short": (b"something els", 12, False),
    "wrong": (b"as announces", 12, False),
    "long by one": (b"as announced", 11, False),
    "long": (b"as announced" + b"!" * 100_000, 12, False),
    "empty": (b"", 12, False),
    "bomb": (zlib.compress(b"as announced" + b"\0" * (64 << 20)), 12, True),
    "cut": (zlib.compress(b"as announced")[:-6], 12, True),
    "junk": (b"not packed at all", 12, True),
    "wrong inside": (zlib.compress(b"as announces"), 12, True),
}


def test_a_blob_that_is_not_what_its_name_says_is_not_kept(installed: Local) -> None:
    before = world(installed.root)

    for lie, (body, size, packed) in LIES.items():
        with refused(DeviceDamaged, 4):
            Here(installed.root).request(
                "put", stream=body, sha256=NAME, size=size, stored=len(body), packed=packed, answer=True
            )
        assert world(installed.root) == before, lie


def test_a_blob_that_arrived_well_is_not_sent_again_but_a_damaged_one_is(device: Local) -> None:
    one = release("one", big=os.urandom(1000))
    send(Here(device.root), one)
    (blob,) = (path for path in (device.root / "blobs").iterdir() if path.stat().st_size == 1000)
    flip_a_byte(blob)

    assert send(Here(device.root), one) == [blob.name]
    install(Here(device.root), one)


BAD_NAMES = [
    "../x", "/etc/passwd", "a/../../x", "a//b", "", ".", "..", "a/.", ".hidden", "a\nb", "a\0b", "a b", "ä", "a\\b", "x" * 129,
    "-x", "/".join("a" * 17), "a/", "\u202egpj.exe", "site", "site/x", "release.json",
]  # fmt: skip


def test_a_list_with_a_name_that_is_not_plain_is_refused(installed: Local) -> None:
    before = world(installed.root)
    runtime = os.listdir(installed.root / "runtimes")[0].split(".")[0]

    for name in BAD_NAMES:
        evil = parcel("release", {"run": HEALTHY, name: b"evil"}, runtime=runtime)
        send(Here(installed.root), evil)
        with refused(DeviceError, 4):
            Here(installed.root).request("release", id=evil.id, text=evil.text)
        assert world(installed.root) == before, name
        assert not (installed.root.parent / "x").exists()


def test_an_id_that_is_not_one_is_refused(installed: Local) -> None:
    before = world(installed.root)
    good = release("good")

    for bad in ("../../x", "x", "", "ABCDEF0123456789", "0123456789abcdef\n", "é" * 16, 7, None, ["a"]):
        for operation in ("trial", "confirm", "release", "runtime"):
            with refused(DeviceError, 4):
                Here(installed.root).request(operation, id=bad, text=good.text)
        for operation in ("plan", "missing"):
            with refused(DeviceError, 4):
                Here(installed.root).request(operation, files={str(bad): 1}, volatile=True)
        assert world(installed.root) == before, bad


BAD_LISTS = [
    [], 7, "x", {}, {"edgekit_release": 1}, {"edgekit_release": 2, "files": {}}, {"edgekit_release": 1, "files": []},
    {"edgekit_release": 1, "files": {"run": []}},
    {"edgekit_release": 1, "files": {"run": {"sha256": NAME}}},
    {"edgekit_release": 1, "files": {"run": {"sha256": "x", "size": 1}}},
    {"edgekit_release": 1, "files": {"run": {"sha256": NAME, "size": -1}}},
    {"edgekit_release": 1, "files": {"run": {"sha256": NAME, "size": True}}},
    {"edgekit_release": 1, "files": {}, "runtime": "../x"},
    {"edgekit_release": 1, "files": {"a": {"sha256": NAME, "size": 1}, "a/b": {"sha256": NAME, "size": 1}}},
]  # fmt: skip


def test_a_list_that_is_not_one_is_refused(installed: Local) -> None:
    before = world(installed.root)

    for fields in BAD_LISTS:
        evil = listing("release", fields, {})
        with refused(DeviceError, 4):
            Here(installed.root).request("release", id=evil.id, text=evil.text)
        assert world(installed.root) == before, fields


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=30) | st.lists(st.sampled_from(["a", "..", ".", "", "-", "/"]), max_size=6).map("/".join))
@example("a\n")
def test_a_name_that_a_list_may_hold_stays_below_its_folder(name: str) -> None:
    one = parcel("release", {name: b""})
    try:
        disk.read_listing(one.id, one.text, "edgekit_release")
    except disk.Refused:
        return

    place = os.path.normpath(os.path.join("/root/releases/id", name))
    assert place == f"/root/releases/id/{name}"
    assert name.isascii()
    assert name.isprintable()


def test_a_list_that_arrived_damaged_is_refused(installed: Local) -> None:
    before = world(installed.root)
    one = release("one")

    with refused(DeviceDamaged, 4):
        send(Here(installed.root), one)
        Here(installed.root).request("release", id=one.id, text=one.text.replace("one", "two"))

    assert world(installed.root) == before


def test_a_release_whose_runtime_is_not_there_is_refused(installed: Local) -> None:
    before = world(installed.root)
    one = release("one", runtime="0" * 16)

    with refused(DeviceDamaged, 4):
        send(Here(installed.root), one)
        Here(installed.root).request("release", id=one.id, text=one.text)

    assert world(installed.root) == before


@pytest.mark.parametrize(
    ("run", "kind", "code", "said"),
    [
        (b"echo 'edgekit.runner: 3 away' >&2; echo '  do not' >&2; exit 5", GoldenMismatch, 5, "3 away"),
        (b"echo 'edgekit.runner: too new' >&2; echo '  update' >&2; exit 3", ReleaseUnhealthy, 5, "too new"),
        (b"echo Traceback >&2; echo 'ImportError: no numpy' >&2; exit 1", ReleaseUnhealthy, 5, "no numpy"),
        (b"kill -SEGV $$", ReleaseUnhealthy, 5, "signal 11"),
        (b"exit 1", ReleaseUnhealthy, 5, "it said nothing"),
        (b"echo not JSON", ReleaseUnhealthy, 5, "not JSON"),
        (b"echo 7", ReleaseUnhealthy, 5, "not JSON"),
    ],
)
def test_a_runner_that_fails_leaves_everything_as_it_was(
    installed: Local, run: bytes, kind: type[ReleaseUnhealthy], code: int, said: str
) -> None:
    before = world(installed.root)
    one = release("bad", run=b"#!/bin/sh\n" + run + b"\n")

    with refused(kind, code) as caught:
        install(Here(installed.root), one)

    assert said in str(caught.value)
    assert world(installed.root) == before


def test_a_check_that_fails_because_the_runtime_is_damaged_says_so(installed: Local) -> None:
    runtime = os.path.basename(os.readlink(installed.root / "current" / "site"))
    flip_a_byte(installed.root / "runtimes" / runtime / "numpy" / "core.so")
    before = world(installed.root)

    with refused(DeviceDamaged, 4) as caught:
        install(Here(installed.root), release("bad", run=b"#!/bin/sh\nexit 1\n", runtime=runtime))

    assert "--verify" in caught.value.hint
    assert world(installed.root) == before


# -- whose folder it is


@pytest.mark.parametrize("operation", ["status", "remove"])
def test_a_root_that_is_a_link_is_refused(device: Local, tmp_path: Path, operation: str) -> None:
    (tmp_path / "elsewhere").mkdir()
    device.root.symlink_to(tmp_path / "elsewhere")

    with refused(DeviceRefused, 4), open_session(device) as session:
        session.request(operation, files={}, volatile=True)

    assert os.listdir(tmp_path / "elsewhere") == []


@pytest.mark.parametrize("mode", [0o775, 0o1702])
def test_a_root_that_others_can_write_is_refused(device: Local, mode: int) -> None:
    device.root.mkdir()
    device.root.chmod(mode)

    with refused(DeviceRefused, 4), open_session(device) as session:
        session.request("plan", files={}, volatile=True)

    assert os.listdir(device.root) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_root_of_somebody_else_is_refused(device: Local) -> None:
    device.root.mkdir()
    os.chown(device.root, 12345, 12345)

    with refused(DeviceRefused, 4) as caught, open_session(device) as session:
        session.request("plan", files={}, volatile=True)

    assert "12345" in str(caught.value)


@pytest.mark.parametrize("operation", ["plan", "remove"])
def test_a_folder_that_holds_something_else_is_not_touched(device: Local, operation: str) -> None:
    (device.root / "releases").mkdir(parents=True)
    (device.root / "releases" / "v1.tar").write_text("somebody's work")
    before = world(device.root)

    with refused(DeviceRefused, 4):
        Here(device.root).request(operation, files={}, volatile=True)

    assert world(device.root) == before


def test_a_folder_of_another_version_is_not_touched(installed: Local) -> None:
    (installed.root / "layout").write_text("edgekit 3\n")
    before = world(installed.root)

    for operation in ("plan", "remove", "rollback"):
        with refused(DeviceError, 4):
            Here(installed.root).request(operation, files={}, volatile=True)

    assert world(installed.root) == before


def test_a_root_that_is_a_file_is_refused(device: Local) -> None:
    device.root.write_text("a file")

    with refused(DeviceRefused, 4), open_session(device) as session:
        session.request("plan", files={}, volatile=True)

    assert device.root.read_text() == "a file"


# -- two at once, and death


def test_a_second_deployment_is_told_to_wait(installed: Local, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder, "PATIENCE_S", 0.1)
    with open_session(installed) as first:
        first.request("plan", files={}, volatile=True)
        before = world(installed.root)

        with refused(DeviceBusy, 4) as caught:
            Here(installed.root).request("plan", files={}, volatile=True)

        assert "process" in str(caught.value)
        assert world(installed.root) == before
        install(first, release("next"))


@pytest.mark.slow
def test_status_does_not_wait_for_a_deployment(installed: Local) -> None:
    with open_session(installed) as first:
        first.request("plan", files={}, volatile=True)

        with open_session(installed) as second:
            assert len(second.request("status")["releases"]) == 2


def test_what_an_earlier_death_left_behind_is_swept(installed: Local) -> None:
    before = world(installed.root)
    (installed.root / "releases" / ".tmp-0123456789abcdef").mkdir()
    (installed.root / ".tmp-current").symlink_to("releases/nowhere")

    Here(installed.root).request("plan", files={}, volatile=True)

    assert world(installed.root) == before


def test_a_death_between_the_two_renames_of_a_repair_is_healed(installed: Local) -> None:
    before = world(installed.root)
    current = (installed.root / "current").resolve()
    current.rename(current.with_name(f".tmp-{current.name}-old"))

    Here(installed.root).request("plan", files={}, volatile=True)

    assert world(installed.root) == before


def test_a_workstation_that_goes_in_the_middle_of_a_blob_need_not_send_its_beginning_again(installed: Local) -> None:
    with open_session(installed) as session:
        session._send_request("put", sha256=NAME, size=12, stored=12, packed=False, answer=True)
        session._write(b"as an")

    with open_session(installed) as session:
        assert session.request("plan", files={NAME: 12}, volatile=True)["missing"] == {NAME: 5}
        assert session.put(NAME, b"as announced", answer=True, offset=5) == []
        assert session.request("missing", files={NAME: 12}, volatile=True)["missing"] == {}


def test_a_beginning_that_is_not_the_blobs_is_asked_for_again_from_zero(installed: Local) -> None:
    (installed.root / "incoming" / NAME).write_bytes(b"\0\0\0\0\0")  # as a power cut leaves it

    with open_session(installed) as session:
        assert session.request("plan", files={NAME: 12}, volatile=True)["missing"] == {NAME: 5}
        assert session.put(NAME, b"as announced", answer=True, offset=5) == [NAME]
        assert session.put(NAME, b"as announced", answer=True) == []

    assert (installed.root / "blobs" / NAME).read_bytes() == b"as announced"


@pytest.mark.slow
def test_a_workstation_that_goes_in_the_middle_of_a_frame_leaves_a_free_lock(installed: Local) -> None:
    with open_session(installed) as session:
        session.request("plan", files={}, volatile=True)
        session._write(b"\0\0\1\0{")

    with open_session(installed) as session:
        session.request("plan", files={}, volatile=True)


@pytest.mark.slow
def test_a_workstation_that_goes_during_the_check_takes_the_runner_with_it(device: Local, tmp_path: Path) -> None:
    slow = release("slow", run=f"#!/bin/sh\necho $$ > {tmp_path}/pid\nexec sleep 60\n".encode())
    with open_session(device) as session:
        send(session, slow)
        session._send_request("release", id=slow.id, text=slow.text)
        wait_until((tmp_path / "pid").exists)
        started = time.monotonic()

    assert time.monotonic() - started < 3
    pid = int((tmp_path / "pid").read_text())
    wait_until(lambda: not os.path.isdir(f"/proc/{pid}"))
    with open_session(device) as session:
        session.request("plan", files={}, volatile=True)


def test_an_agent_that_is_killed_is_an_error_and_a_new_attempt_works(installed: Local, tmp_path: Path) -> None:
    before = world(installed.root)
    killer = release("killer", run=b"#!/bin/sh\nkill -9 $PPID\nsleep 5\n")

    with refused(DeviceError, 4) as caught, open_session(installed) as session:
        install(session, killer)

    assert "killed" in str(caught.value)
    with open_session(installed) as session:
        session.request("plan", files={}, volatile=True)
        session.request("confirm", id=recorded(installed.root)["good"])
    assert world(installed.root) == before


# -- who answers at the other end


def script(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_a_shell_that_greets_is_heard_out(device: Local, tmp_path: Path) -> None:
    python = script(tmp_path / "python", f'echo Welcome; echo EDGEKIT 2; head -c 100000 /dev/zero; exec {PYTHON} "$@"')

    with open_session(device, python=python) as session:
        install(session, release("one"))

    assert (device.root / "current" / "label").read_text() == "one"


def test_a_python_that_is_not_there_is_an_error(device: Local) -> None:
    with refused(DeviceUnreachable, 4), open_session(device, python="/nowhere/python3"):
        pass


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("exit 0", DeviceUnreachable),
        ("echo 'This account is currently not available.'; exit 1", DeviceUnsupported),
        ("echo 'sh: exec: python3: not found' >&2; exit 127", DeviceUnsupported),
        ("echo 'Unknown option: -I' >&2; exit 2", DeviceUnsupported),
        (f"exec {sys.executable} -c 'print(\"\\nEDGEKIT 1\\n\" + \"x\" * 100)'", DeviceError),
        ("printf '\\nEDGEKIT 1\\n\\0\\0\\0\\2{}'; cat >/dev/null", DeviceError),
        ("printf '\\nEDGEKIT 1\\n\\0\\0\\0\\2[]'; cat >/dev/null", DeviceError),
        ("printf '\\nEDGEKIT 1\\n\\0\\0'", DeviceUnreachable),
    ],
)  # fmt: skip
def test_something_else_that_answers_is_an_error(
    device: Local, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, kind: type[DeviceError]
) -> None:
    monkeypatch.setattr(transport, "ENDING_S", 0.05)

    python = script(tmp_path / "python", f"head -c 1 >/dev/null; {text}")

    with refused(kind, 4), open_session(device, python=python):
        pass

    assert not device.root.exists()


@pytest.mark.slow
def test_a_device_that_never_stops_talking_is_given_up(
    device: Local, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "ENDING_S", 0.05)

    with refused(DeviceUnreachable, 4), open_session(device, python=script(tmp_path / "python", "yes")):
        pass


def test_a_device_that_hangs_before_it_speaks_is_given_up(
    device: Local, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "HELLO_S", 0.05)
    monkeypatch.setattr(transport, "ENDING_S", 0.05)

    with (
        refused(DeviceUnreachable, 4) as caught,
        open_session(device, python=script(tmp_path / "python", "exec sleep 60")),
    ):
        pass

    assert "nothing was heard" in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("is_sending", [True, False])
def test_a_device_that_hangs_later_is_given_up(
    installed: Local, monkeypatch: pytest.MonkeyPatch, is_sending: bool
) -> None:
    monkeypatch.setattr(session_module, "ANSWER_S", 0.1)
    monkeypatch.setattr(transport, "ENDING_S", 0.05)

    with refused(DeviceUnreachable, 4), open_session(installed) as session:
        session.request("plan", files={}, volatile=True)
        os.kill(session._channel._process.pid, 19)  # SIGSTOP
        if is_sending:
            session.put(NAME, os.urandom(1 << 20), answer=True)
        else:
            session.request("status")


@pytest.mark.parametrize("python", pythons("3.6", "3.7", "3.8") or [None])
def test_an_old_python_is_named_with_its_version(device: Local, python: str | None) -> None:
    if python is None:
        pytest.skip("no Python older than 3.9 on this machine")

    with refused(DeviceUnsupported, 4) as caught, open_session(device, python=python):
        pass

    assert "is Python 3." in str(caught.value)
    assert "--python" in caught.value.hint


@pytest.mark.slow
@pytest.mark.parametrize("python", pythons("3.9", "3.10", "3.13", "3.14") or [None])
def test_the_agent_runs_on_every_python_from_3_9(device: Local, python: str | None) -> None:
    if python is None:
        pytest.skip("no other Python on this machine")

    with open_session(device, python=python) as session:
        install(session, release("one"))
        install(session, release("two"))
        assert session.request("verify") == {"damaged": []}
        session.request("rollback")

    assert (device.root / "current" / "label").read_text() == "one"


def test_the_probe_says_no_more_than_any_python_3_can_read() -> None:
    tree = ast.parse((DEPLOY / "probe.py").read_text(), feature_version=(3, 4))

    assert not [node for node in ast.walk(tree) if isinstance(node, (ast.JoinedStr, ast.AnnAssign, ast.NamedExpr))]


def test_what_is_sent_to_the_device_imports_only_the_standard_library_and_itself() -> None:
    ours = {f"edgekit.deploy.{name}" for name in AGENT}
    for name in (*AGENT, "probe"):
        for node in ast.walk(ast.parse((DEPLOY / f"{name}.py").read_text())):
            modules = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            modules += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            for module in modules:
                assert module in ours or module.split(".")[0] in {*sys.stdlib_module_names, "numpy"}, (name, module)


def test_an_error_of_the_device_is_shown_as_one_harmless_line(device: Local) -> None:
    rude = release("rude", run=b"#!/bin/sh\nprintf 'edgekit.runner: \\033[31mred\\n' >&2\nexit 5\n")

    with refused(GoldenMismatch, 5) as caught, open_session(device) as session:
        install(session, rude)

    assert str(caught.value).endswith(": ?[31mred")


def test_words_of_a_device_reach_the_terminal_without_control_characters() -> None:
    assert answers.plain("Pi \x1b]0;x\x07\u202e\udce9\n") == "Pi ?]0;x???" + "?"
    assert json.dumps(answers.plain_lines("\n a \n\nb\x00\n")) == '["a", "b?"]'


@pytest.mark.slow
def test_the_protocol_needs_nothing_from_the_environment(device: Local, tmp_path: Path) -> None:
    python = script(tmp_path / "python", f'exec env -i {PYTHON} "$@"')

    with open_session(device, python=python) as session:
        install(session, release("one"))

    assert (device.root / "current" / "label").read_text() == "one"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_folder_that_the_login_user_cannot_write_is_named(tmp_path: Path) -> None:
    python = next((path for path in ("/usr/bin/python3", "/usr/local/bin/python3") if os.path.exists(path)), None)
    if python is None or shutil.which("setpriv") is None:
        pytest.skip("needs setpriv and a Python that everybody may run")
    nobody = script(tmp_path / "python", f'exec setpriv --reuid=65534 --regid=65534 --clear-groups {python} "$@"')
    tmp_path.chmod(0o755)

    with refused(DeviceRefused, 4), open_session(Local(Path("/usr/edgekit-device")), python=nobody) as session:
        session.request("plan", files={}, volatile=True)
    assert not Path("/usr/edgekit-device").exists()


def test_no_process_is_left_when_a_session_ends(device: Local) -> None:
    with open_session(device) as session:
        session.request("status")
        pid = session._channel._process.pid

    assert not os.path.isdir(f"/proc/{pid}")
