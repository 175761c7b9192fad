"""Symbolic links in every place of ROOT, put there by somebody else: nothing outside is read as ours, changed or deleted."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from devices import Here, Parcel, begin, install, parcel, release, send, wait_until

from edgekit.deploy.address import Local
from edgekit.deploy.session import open_session
from edgekit.errors import EdgekitError

OPERATIONS = ("status", "verify", "deploy", "same again", "rollback", "adopt", "remove", "enrol", "samples")


@pytest.fixture(scope="module")
def laid_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ROOT with all that can lie there."""
    root = tmp_path_factory.mktemp("device") / "root"
    here = Here(root)
    runtime = parcel("runtime", {"numpy/core.so": b"machine code", "numpy/__init__.py": b""}, requirements=["numpy==1"])
    install(here, runtime)
    for one in make_releases(runtime):
        install(here, one)
    (root / "samples").mkdir()
    (root / "samples" / "000000000001.npz").write_bytes(b"a sample")
    (root / "incoming" / ("a" * 64)).write_bytes(b"half of some")
    (root / "allowed_signers").write_text("")
    (root / "allowed_signers").unlink()
    return root


def make_releases(runtime: Parcel) -> list[Parcel]:
    files = {"models/int8.tflite": b"TFL3", "edgekit/runner/x.py": b"pass"}
    return [release(label, runtime=runtime.id, **files) for label in ("old", "new")]


def positions(root: Path) -> list[Path]:
    """Everything in ROOT, and a few names that could be there, as paths below it."""
    found = [
        Path(folder, name).relative_to(root) for folder, folders, names in os.walk(root) for name in [*folders, *names]
    ]
    more = ["allowed_signers", "revoked_keys", ".tmp-layout", ".tmp-journal.json", ".tmp-current", "run", "previous"]
    more += ["incoming/" + hashlib.sha256(b"third").hexdigest(), "blobs/" + hashlib.sha256(b"third").hexdigest()]
    more += ["releases/.tmp-mended", f"releases/.tmp-{third().id}", f"releases/{third().id}", "agent/.tmp-current.py"]
    return sorted({*found, *map(Path, more)})


def third() -> Parcel:
    return release("third", **{"models/int8.tflite": b"TFL3 another", "edgekit/runner/x.py": b"pass"})


def state(folder: Path) -> dict[str, tuple[int, int, str]]:
    """Every name below: mode, links, content or target."""
    found = {}
    for place, folders, names in os.walk(folder):
        for name in [*folders, *names, "."]:
            path = Path(place, name)
            about = path.lstat()
            if stat.S_ISLNK(about.st_mode):
                content = os.readlink(path)
            else:
                content = path.read_bytes().hex() if stat.S_ISREG(about.st_mode) else ""
            links = about.st_nlink if stat.S_ISREG(about.st_mode) else 0
            found[str(path.relative_to(folder))] = (about.st_mode, links, content)
    return found


def plants(place: Path, outside: Path) -> Iterator[str]:
    """One after the other: links from `place` to something outside, in what was there before."""
    twin, was = outside / "twin", outside.parent / "was"
    if place.is_symlink():
        place.unlink()
    elif place.exists():
        if place.is_dir():  # the nastiest: every byte is as it should be, but it lies elsewhere
            shutil.copytree(place, twin, symlinks=True)
            place.rename(was)
        else:
            twin.write_bytes(place.read_bytes())
            twin.chmod(0o640)
            place.unlink()
    else:
        twin.write_bytes(b"somebody's file")
    for target in (twin, outside / "folder", outside / "nothing there"):
        place.parent.mkdir(exist_ok=True)
        if os.path.lexists(place):
            break
        place.symlink_to(target)
        yield target.name


def act(root: Path, operation: str) -> str:
    here = Here(root)
    try:
        if operation == "deploy":
            install(here, third())
        elif operation == "same again":
            runtime = parcel(
                "runtime", {"numpy/core.so": b"machine code", "numpy/__init__.py": b""}, requirements=["numpy==1"]
            )
            install(here, runtime)
            install(here, make_releases(runtime)[1])
        elif operation == "enrol":
            key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAINbtGsFRWhP7aydK9ef2Zh3UN/X3mT5oOEPFEELGCaAj"
            text = json.dumps({"edgekit_signers": 1, "add": {"alice": key}, "revoke": []})
            here.request("change signers", text=text, signature=None, unsigned=True)
        else:
            here.request(operation)
        return "done"
    except EdgekitError as error:
        return f"{type(error).__name__}: {error}"


def check_plants(
    laid_out: Path,
    scratch: Path,
    which: list[Path],
    operations: tuple[str, ...],
    targets: tuple[str, ...] = ("twin", "folder", "nothing there"),
) -> list[str]:
    """What went wrong: place, target, operation, and what of outside had changed."""
    wrong = []
    for number, place in enumerate(which):
        for target in targets:
            for operation in operations:
                base = scratch / f"{number}"
                root, outside = base / "root", base / "outside"
                shutil.copytree(laid_out, root, symlinks=True)
                relink(laid_out, root)
                (outside / "folder").mkdir(parents=True)
                (outside / "folder" / "000000000009.npz").write_bytes(b"a secret")
                (outside / "folder" / "file").write_bytes(b"precious")
                for planted in plants(root / place, outside):
                    if planted == target:
                        break
                    (root / place).unlink()
                before = state(outside)
                said = act(root, operation)
                after = state(outside)
                if after != before:
                    changed = sorted(
                        name for name in before.keys() | after.keys() if before.get(name) != after.get(name)
                    )
                    wrong.append(f"{place} -> {target}: {operation} ({said}) changed {changed}")
                shutil.rmtree(base)
    return wrong


def relink(original: Path, copy: Path) -> None:
    """Hard links, as they were."""
    first: dict[int, Path] = {}
    for folder, _, names in os.walk(original):
        for name in names:
            path = Path(folder, name)
            about = path.lstat()
            if stat.S_ISREG(about.st_mode) and about.st_nlink > 1:
                there = copy / path.relative_to(original)
                if about.st_ino in first:
                    there.unlink()
                    os.link(first[about.st_ino], there)
                else:
                    first[about.st_ino] = there


def test_links_in_the_places_that_matter_most_lead_nowhere(laid_out: Path, tmp_path: Path) -> None:
    kinds = [
        "blobs",
        "incoming",
        "releases",
        "runtimes",
        "agent",
        "layout",
        "journal.json",
        "lock",
        "current",
        "samples",
    ]
    kinds += ["allowed_signers", f"releases/{third().id}", "incoming/" + hashlib.sha256(b"third").hexdigest()]

    assert check_plants(laid_out, tmp_path, [Path(kind) for kind in kinds], ("deploy",), ("folder",)) == []


@pytest.mark.slow
def test_links_in_every_place_lead_nowhere(laid_out: Path, tmp_path: Path) -> None:
    which = positions(laid_out)

    assert len(which) > 40
    assert check_plants(laid_out, tmp_path, which, ("same again",), ("folder",)) == []


@pytest.mark.slow
@pytest.mark.long
def test_links_in_every_place_lead_nowhere_whatever_they_point_to_and_whatever_is_done(
    laid_out: Path, tmp_path: Path
) -> None:
    assert check_plants(laid_out, tmp_path, positions(laid_out), OPERATIONS) == []


@pytest.mark.parametrize("kind", ["releases", "runtimes"])
@pytest.mark.parametrize("below", ["", "first folder"])
def test_what_lies_elsewhere_is_not_run_although_every_byte_is_as_it_was(
    laid_out: Path, tmp_path: Path, kind: str, below: str
) -> None:
    root = tmp_path / "root"
    shutil.copytree(laid_out, root, symlinks=True)
    here = Here(root)
    good = (root / "current").resolve()
    place = good if kind == "releases" else (good / "site").resolve()
    if below:
        place = min(path for path in place.iterdir() if path.is_dir() and not path.is_symlink())
    place.rename(tmp_path / "elsewhere")
    place.symlink_to(tmp_path / "elsewhere")
    before = state(tmp_path / "elsewhere")

    assert here.request("verify")["damaged"] != []
    here.request("rollback") if kind == "releases" else None
    with pytest.raises(EdgekitError):
        here.request("rollback")
    assert act(root, "same again") == "done"
    assert here.request("verify")["damaged"] == []
    assert not place.is_symlink()
    assert state(tmp_path / "elsewhere") == before


def test_a_link_among_our_folders_does_not_keep_a_guard_from_its_work(tmp_path: Path) -> None:
    device = Local(tmp_path / "device")
    install(Here(device.root), release("old"))
    before = os.readlink(device.root / "current")
    new = release("new")
    with open_session(device) as session:
        send(session, new)
        session.request("release", id=new.id, text=new.text)
        begin(session, new, window_s=1.5)
    for name in ("samples", "incoming", "agent"):
        shutil.rmtree(device.root / name, ignore_errors=True)
        (device.root / name).symlink_to(tmp_path)
    (tmp_path / ".tmp-of somebody").touch()

    wait_until(lambda: os.readlink(device.root / "current") == before)
    wait_until(lambda: json.loads((device.root / "journal.json").read_text())["phase"] == "idle")
    assert (tmp_path / ".tmp-of somebody").exists()
