"""Bytecode on a device: made when something is installed, hashed, shared, verified; Python writes none of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from compiled import runs
from devices import HEALTHY, PYTHON, Here, flip_a_byte, install, parcel, recorded, refused, send, world

from edgekit.deploy.address import Local
from edgekit.deploy.bytecode import LIST
from edgekit.deploy.install import deploy, status
from edgekit.deploy.session import open_session
from edgekit.errors import DeviceDamaged

if TYPE_CHECKING:
    from edgekit.bundle import Bundle

TAG = sys.implementation.cache_tag
ANSWER = b"def answer():\n    return 42\n"


def release(label: str, files: Mapping[str, bytes]) -> Any:
    return parcel("release", {"run": HEALTHY, "label": label.encode(), **files}, runtime=None, name=label)


def put(root: Path, label: str, files: Mapping[str, bytes]) -> Path:
    """A release with these files, in use."""
    one = release(label, files)
    install(Here(root), one)
    return root / "releases" / one.id


def test_a_source_has_its_bytecode_which_python_takes(device: Local) -> None:
    folder = put(device.root, "one", {"package/answers.py": ANSWER, "package/data.txt": b"x", "top.py": b"x = 1"})

    made = {str(path.relative_to(folder)) for path in folder.rglob("*.pyc")}
    assert made == {f"package/__pycache__/answers.{TAG}.pyc", f"__pycache__/top.{TAG}.pyc"}
    (folder / "package" / "answers.py").chmod(0o644)
    (folder / "package" / "answers.py").write_text("this is not looked at any more")
    script = "from package.answers import answer; print(answer(), answer.__code__.co_filename)"
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert done.stdout.split() == ["42", str(folder / "package" / "answers.py")], done.stderr


def test_what_is_no_source_for_this_python_is_installed_as_it_is(device: Local) -> None:
    deep = {
        "deep.py": b"(" * 9000,
        "lambdas.py": b"lambda: " * 1100 + b"0",
        "a" * 125 + ".py": b"",
        "b/" * 15 + "b.py": b"",
    }
    folder = put(device.root, "one", {"newer.py": b"match = = 3", "binary.py": b"\0", **deep})

    assert list(folder.rglob("*.pyc")) == []
    assert (folder / "newer.py").read_bytes() == b"match = = 3"
    assert status(device, verify=True)["damaged"] == []


def test_the_next_release_shares_the_bytecode_of_what_stayed(device: Local) -> None:
    first = put(device.root, "one", {"same.py": ANSWER, "other.py": b"x = 1"})
    second = put(device.root, "two", {"same.py": ANSWER, "other.py": b"x = 2"})

    def number(folder: Path, name: str) -> int:
        return (folder / "__pycache__" / f"{name}.{TAG}.pyc").stat().st_ino

    assert number(first, "same") == number(second, "same")
    assert number(first, "other") != number(second, "other")


def test_two_files_with_one_content_share_it_and_keep_their_own_names(device: Local) -> None:
    put(device.root, "one", {"a.py": ANSWER, "b/c.py": ANSWER})
    folder = put(device.root, "two", {"a.py": ANSWER, "b/c.py": ANSWER, "d.py": ANSWER})

    assert {path.name for path in folder.rglob("*.pyc")} == {f"{name}.{TAG}.pyc" for name in "acd"}
    assert len({path.stat().st_ino for path in folder.rglob("*.pyc")}) == 1


def test_what_nobody_needs_any_more_goes_with_its_release(device: Local) -> None:
    for label in ("one", "two", "three"):
        put(device.root, label, {"own.py": f"name = {label!r}".encode()})

    blobs = {path.name for path in (device.root / "blobs").iterdir()}
    kept = [json.loads(path.read_text())["files"] for path in (device.root / "releases").glob(f"*/{LIST}")]
    assert len(kept) == 2
    assert {entry["sha256"] for files in kept for entry in files.values()} <= blobs
    assert len(blobs) == len({path.stat().st_ino for path in (device.root / "releases").rglob("*") if in_blobs(path)})


def in_blobs(path: Path) -> bool:
    return path.is_file() and not path.is_symlink() and path.stat().st_nlink > 1


@pytest.mark.parametrize("damage", ["half", "a byte", "gone", "a link"])
def test_damaged_bytecode_is_found_and_made_anew(device: Local, damage: str) -> None:
    one = release("one", {"answers.py": ANSWER})
    install(Here(device.root), one)
    path = device.root / "releases" / one.id / "__pycache__" / f"answers.{TAG}.pyc"
    before = path.read_bytes()
    path.chmod(0o644)
    if damage == "half":
        path.write_bytes(before[: len(before) // 2])
    elif damage == "a byte":
        flip_a_byte(path)
    else:
        path.unlink()
    if damage == "a link":
        path.symlink_to("/dev/null")

    assert status(device, verify=True)["damaged"] == [f"releases/{one.id}/__pycache__/{path.name}"]
    with refused(DeviceDamaged, 4):
        install_again(device, one, trial_only=True)

    install_again(device, one)
    assert status(device, verify=True)["damaged"] == []
    assert runs(path.read_bytes(), ANSWER)


def install_again(device: Local, one: Any, *, trial_only: bool = False) -> None:
    """As a deployment does: files, release, trial; or, as one that does not look, only the trial."""
    here = Here(device.root)
    if not trial_only:
        here.request("plan", files=one.sizes, volatile=True)
        here.request("release", id=one.id, text=one.text)
    here.request("trial", id=one.id, window_s=60, confirm="workstation", service="none")


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"[]", b'{"edgekit_bytecode": 2, "files": {}}', b'{"edgekit_bytecode": 1, "files": 3}', b"[" * 5000]
    + [
        json.dumps({"edgekit_bytecode": 1, "files": files}).encode()
        for files in ({"../x": {}}, {"x": 3}, {"x": {"sha256": "0" * 64, "size": 1}}, {"x": {"sha256": 1, "size": 1}})
    ],
)
def test_a_list_of_bytecode_that_is_none_is_damage_and_mended(device: Local, text: bytes) -> None:
    one = release("one", {"answers.py": ANSWER})
    install(Here(device.root), one)
    before = world(device.root / "releases")
    (device.root / "releases" / one.id / LIST).write_bytes(text)

    assert status(device, verify=True)["damaged"] == [f"releases/{one.id}/{LIST}"]
    put(device.root, "two", {"answers.py": ANSWER})
    install_again(device, one)
    assert status(device, verify=True)["damaged"] == []
    assert before.items() <= world(device.root / "releases").items()


def test_a_damaged_blob_is_not_taken_for_the_bytecode_that_it_was(device: Local) -> None:
    first = put(device.root, "one", {"answers.py": ANSWER})
    [path] = first.rglob("*.pyc")
    path.chmod(0o644)
    flip_a_byte(path)  # and so the blob, which is the same file

    second = put(device.root, "two", {"answers.py": ANSWER})

    assert runs(next(second.rglob("*.pyc")).read_bytes(), ANSWER)
    assert status(device, verify=True)["damaged"] == [f"releases/{first.name}/__pycache__/{path.name}"]


def test_the_list_of_bytecode_vouches_for_nothing_that_was_sent(device: Local) -> None:
    folder = put(device.root, "one", {"answers.py": ANSWER})
    other = b"def answer():\n    return 43\n"
    listed = json.loads((folder / LIST).read_text())
    listed["files"]["answers.py"] = {"sha256": sha256(other).hexdigest(), "size": len(other), "source": "0" * 64}
    (folder / LIST).write_text(json.dumps(listed))
    (folder / "answers.py").chmod(0o644)
    (folder / "answers.py").write_bytes(other)

    assert status(device, verify=True)["damaged"] == [f"releases/{folder.name}/answers.py"]


def runtimes(device: Local) -> list[str]:
    """Those that a deployment would not send again."""
    with open_session(device, python=PYTHON) as session:
        return list(session.hello.runtimes)


def test_a_runtime_from_before_bytecode_was_listed_is_installed_once_more(device: Local) -> None:
    here, runtime = Here(device.root), parcel("runtime", {"answers.py": ANSWER})
    send(here, runtime)
    here.request("runtime", id=runtime.id, text=runtime.text)
    assert runtimes(device) == [runtime.id]
    folder = device.root / "runtimes" / runtime.id
    (folder / LIST).unlink()
    (path,) = folder.rglob("*.pyc")
    path.unlink()
    path.write_bytes(b"as Python left it, and a power cut")

    assert runtimes(device) == []
    here.request("runtime", id=runtime.id, text=runtime.text)

    assert runtimes(device) == [runtime.id]
    assert runs(path.read_bytes(), ANSWER)


# -- with a runtime and a runner


@pytest.mark.slow
def test_all_of_a_real_deployment_runs_from_bytecode_and_leaves_none(
    device: Local, tiny_bundle: Bundle, other_bundle: Bundle, real_runtime: Path
) -> None:
    deploy(tiny_bundle, device)
    deploy(other_bundle, device)  # its check runs in a process that had its libraries before
    before = world(device.root)

    environment = {**os.environ, "PYTHONVERBOSE": "1"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    command = [device.root / "current" / "run", "check"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)

    assert done.returncode == 0
    told = [line.split(" from ", 1)[1] for line in done.stderr.splitlines() if line.startswith("# code object from ")]
    ours = [line for line in told if str(device.root.resolve()) in line]
    assert len(ours) > 80
    assert [line for line in ours if ".pyc" not in line] == []
    assert world(device.root) == before


@pytest.mark.slow
def test_half_of_the_runners_bytecode_would_end_it_and_is_mended(
    device: Local, tiny_bundle: Bundle, real_runtime: Path
) -> None:
    deploy(tiny_bundle, device)
    good = str(recorded(device.root)["good"])
    path = device.root / "releases" / good / "edgekit" / "runner" / "__pycache__" / f"check.{TAG}.pyc"
    path.chmod(0o644)
    os.truncate(path, path.stat().st_size // 2)

    def run() -> int:
        return subprocess.run([device.root / "current" / "run", "check"], capture_output=True).returncode

    assert run() != 0  # this is what it is hashed and synced for
    assert status(device, verify=True)["damaged"] == [str(path.relative_to(device.root))]
    deploy(tiny_bundle, device, verify=True)
    assert status(device, verify=True)["damaged"] == []
    assert run() == 0
