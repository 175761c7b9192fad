"""Every system call of the real agent fails once, or is its last: afterwards old or new, complete, and a re-run ends well.

strace lets a call of the agent's process fail (ENOSPC, EIO) or kills it there (SIGKILL), on a real file system.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from devices import PYTHON, begin, install, parcel, recorded, release, send

from edgekit.deploy.address import Local
from edgekit.deploy.session import Session, open_session
from edgekit.errors import EdgekitError

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace"),
]
CALLS = ("write", "fsync", "rename", "link", "symlink", "mkdir", "ftruncate", "unlink", "rmdir")
FAULTS = ("signal=SIGKILL", "error=ENOSPC", "error=EIO")
# strace calls the same call by the name that the processor has for it
NAMES = {call: f"/^{call}(at2?)?$" if call == "rename" else f"/^{call}(at)?$" for call in CALLS}

RUNTIME = parcel("runtime", {"numpy/core.so": b"machine code"})
OLD, NEW = (release(label, runtime=RUNTIME.id, big=label.encode() * 5000) for label in ("old", "new"))


def try_new(session: Session) -> None:
    """All of a deployment but its end."""
    send(session, NEW)
    session.request("release", id=NEW.id, text=NEW.text)
    begin(session, NEW, window_s=86400)


def confirm(session: Session) -> None:
    session.request("confirm", id=NEW.id)


def roll_back(session: Session) -> None:
    session.request("rollback")


ACTS: dict[str, Callable[[Session], None]] = {"trial": try_new, "confirm": confirm, "rollback": roll_back}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """Devices as they are before each act."""
    folder = tmp_path_factory.mktemp("prepared")
    first = folder / "trial"
    with open_session(Local(first)) as session:
        install(session, RUNTIME)
        install(session, release("oldest", runtime=RUNTIME.id))
        install(session, OLD)
    second = copy(first, folder / "confirm")
    with open_session(Local(second)) as session:
        try_new(session)
    third = copy(first, folder / "rollback")
    yield {"trial": first, "confirm": second, "rollback": third}
    end(second)


def copy(source: Path, target: Path) -> Path:
    """With its hard links, which say what is still needed."""
    subprocess.run(["cp", "-a", source, target], check=True)
    return target


def python_under(folder: Path, *options: str) -> str:
    """A Python whose system calls strace looks at."""
    folder.mkdir(exist_ok=True)
    script = folder / "python"
    line = " ".join(f"'{option}'" for option in options)
    script.write_text(f'#!/bin/sh\nexec strace -qq -o {folder}/log {line} {PYTHON} "$@"\n')
    script.chmod(0o755)
    return str(script)


def calls_of(act: str, prepared: dict[str, Path], folder: Path) -> Counter[str]:
    """How often the agent makes each call in that act."""
    folder.mkdir(exist_ok=True)
    root = copy(prepared[act], folder / "device")
    trace = "trace=" + ",".join(NAMES.values())
    with open_session(Local(root), python=python_under(folder, "-e", trace)) as session:
        ACTS[act](session)
    end(root)
    found = re.findall(r"^(\w+)\(", (folder / "log").read_text(), re.MULTILINE)
    return Counter(next(call for call in CALLS if re.match(NAMES[call][1:], name)) for name in found)


def end(root: Path) -> None:
    """No guard stays behind."""
    with open_session(Local(root)) as session:
        session.request("plan", files={}, volatile=True)


def cases(counts: Counter[str]) -> Iterator[tuple[str, int, str]]:
    for call in CALLS:
        for number in range(1, counts[call] + 1):
            for fault in FAULTS:
                yield call, number, fault


def check(act: str, call: str, number: int, fault: str, prepared: dict[str, Path], folder: Path) -> None:
    """One fault, and what is there afterwards."""
    folder.mkdir(exist_ok=True)
    root = copy(prepared[act], folder / "device")
    inject = f"inject={NAMES[call]}:{fault}:when={number}"
    python = python_under(folder, "-e", f"trace={NAMES[call]}", "-e", inject)
    # the workstation is told, unless the fault was in what does not matter
    with contextlib.suppress(EdgekitError), open_session(Local(root), python=python) as session:
        ACTS[act](session)

    what = f"{act}: {call} {number} {fault}"
    now = os.path.basename(os.readlink(root / "current"))
    journal = recorded(root)
    with open_session(Local(root)) as session:
        oldest = {journal["prev"]} if act == "rollback" else set()
        assert now in {OLD.id, NEW.id, journal["good"], *oldest}, what
        assert session.request("verify")["damaged"] == [], what
        assert journal["good"] != NEW.id or act == "confirm", what
    with open_session(Local(root)) as session:
        install(session, RUNTIME)
        install(session, NEW)
        assert session.request("verify")["damaged"] == [], what
    assert os.readlink(root / "current") == f"releases/{NEW.id}", what
    assert recorded(root)["phase"] == "idle", what
    assert not [name for name in os.listdir(root / "releases") if name.startswith(".tmp-")], what
    shutil.rmtree(folder)


@pytest.mark.parametrize("act", ACTS)
def test_some_system_calls_fail(act: str, prepared: dict[str, Path], tmp_path: Path) -> None:
    found = list(cases(calls_of(act, prepared, tmp_path / "count")))

    assert len(found) > 30
    for case in found[5 :: len(found) // 3]:
        check(act, *case, prepared, tmp_path / "case")


@pytest.mark.long
@pytest.mark.parametrize("act", ACTS)
def test_every_system_call_fails(act: str, prepared: dict[str, Path], tmp_path: Path) -> None:
    counts = calls_of(act, prepared, tmp_path / "count")

    print(dict(counts))
    for case in cases(counts):
        check(act, *case, prepared, tmp_path / "case")
