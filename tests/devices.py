"""Small true things to test deployments with: what lies on a device, releases of any content, a wire that counts."""

from __future__ import annotations

import hashlib
import io
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from edgekit import errors
from edgekit.deploy.agent import serve
from edgekit.deploy.runtime import tree_folder
from edgekit.deploy.session import Session
from edgekit.errors import EdgekitError
from edgekit.platforms import Platform, choose_runtime

PYTHON = os.path.realpath(sys.executable)  # a device's Python for which the tests' own interpreter is the right one
HEALTHY = b"""#!/bin/sh\necho '{"variants": []}'\n"""  # the shortest runner that passes its golden check


def world(root: Path) -> dict[str, str]:
    """Everything that matters under a device's ROOT: path -> content's hash, or where a link points."""
    found = {}
    for folder, folders, names in os.walk(root):
        folders.sort()
        for name in sorted([*folders, *names]):
            path = Path(folder) / name
            if path.is_symlink():
                found[str(path.relative_to(root))] = f"-> {path.readlink()}"
            elif path.is_file() and path != root / "lock":  # which says who holds it
                found[str(path.relative_to(root))] = hashlib.sha256(path.read_bytes()).hexdigest()
            elif path.is_dir():
                found[str(path.relative_to(root))] = "folder"
    return found


def recorded(root: Path) -> dict[str, Any]:
    """A device's journal."""
    return dict(json.loads((root / "journal.json").read_text()))


def previous(root: Path) -> Path:
    """The release before the one that is good."""
    return root / "releases" / str(recorded(root)["prev"])


@contextmanager
def refused(kind: type[EdgekitError], exit_code: int) -> Iterator[pytest.ExceptionInfo[EdgekitError]]:
    """An error of that very kind: one line what is wrong, one line what to do."""
    with pytest.raises(EdgekitError) as caught:
        yield caught
    error = caught.value
    assert type(error) is kind, f"{type(error).__name__}: {error}"
    assert error.exit_code == exit_code
    assert str(error).strip()
    assert error.hint.strip()
    assert "\n" not in str(error) + error.hint


# -- releases of any content


@dataclass(frozen=True)
class Parcel:
    """A release or a runtime as a workstation sends it."""

    kind: str
    id: str
    text: str
    blobs: Mapping[str, bytes]

    @property
    def sizes(self) -> dict[str, int]:
        return {sha256: len(content) for sha256, content in self.blobs.items()}


def parcel(kind: str, files: Mapping[str, bytes], **fields: Any) -> Parcel:
    """A list of `files` by hash, and their contents."""
    blobs = {hashlib.sha256(content).hexdigest(): content for content in files.values()}
    listed = {
        name: {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)} for name, content in files.items()
    }
    if "run" in listed:
        listed["run"]["run"] = True
    return listing(kind, {f"edgekit_{kind}": 1, "files": listed, **fields}, blobs)


def listing(kind: str, fields: Any, blobs: Mapping[str, bytes]) -> Parcel:
    """A parcel with any list at all, named by its hash as it has to be."""
    text = json.dumps(fields)
    return Parcel(kind, hashlib.sha256(text.encode()).hexdigest()[:16], text, blobs)


def release(label: str, *, run: bytes = HEALTHY, runtime: str | None = None, **files: bytes) -> Parcel:
    """A release with a runner of a line of shell."""
    return parcel("release", {"run": run, "label": label.encode(), **files}, runtime=runtime, name=label)


class Here:
    """The agent in this process: a session without a wire, for what it does and not for how it is reached."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def request(self, operation: str, *, stream: bytes = b"", **arguments: Any) -> Mapping[str, Any]:
        replies: list[dict[str, Any]] = []
        requests = iter([{"op": operation, **arguments}])

        def receive() -> dict[str, Any]:
            for request in requests:
                return request
            raise SystemExit(0)

        umask = os.umask(0o022)
        try:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("edgekit.deploy.agent.packed", b"as it was sent")
                patch.setattr(os, "sync", lambda: None)  # all disks of this machine: seconds, on a busy one
                patch.setattr(os, "fsync", lambda _: None)
                patch.setattr(
                    "edgekit.deploy.service.start_process", lambda *_: None
                )  # a process; real sessions have it
                serve(str(self.root), receive, replies.append, io.BytesIO(stream))
        except SystemExit:
            pass
        finally:
            os.umask(umask)
        if replies and "error" in replies[0]:
            raise getattr(errors, replies[0]["error"])(replies[0]["message"], hint=replies[0]["hint"])
        return replies[0] if replies else {}

    def put(self, sha256: str, data: bytes, *, answer: bool) -> None:
        self.request("put", stream=data, sha256=sha256, size=len(data), stored=len(data), packed=False, answer=answer)


def send(session: Session | Here, *parcels: Parcel) -> list[str]:
    """Sends what is missing, and returns what that was."""
    sizes = {sha256: size for one in parcels for sha256, size in one.sizes.items()}
    contents = {sha256: content for one in parcels for sha256, content in one.blobs.items()}
    missing = session.request("plan", files=sizes, volatile=True)["missing"]
    for sha256 in missing:
        session.put(sha256, contents[sha256], answer=True)
    return list(missing)


def install(session: Session | Here, one: Parcel) -> Mapping[str, Any]:
    """All the steps of a deployment."""
    send(session, one)
    session.request(one.kind, id=one.id, text=one.text)
    if one.kind != "release":
        return {}
    begin(session, one)
    return session.request("confirm", id=one.id)


def begin(session: Session | Here, one: Parcel, *, window_s: float = 60, confirm: str = "workstation") -> None:
    """The release is in use, on trial."""
    session.request("trial", id=one.id, window_s=window_s, confirm=confirm, service="none")


# -- a runtime that needs no building


def this_platform() -> Platform:
    """What the probe says of PYTHON."""
    return Platform(
        (sys.version_info[0], sys.version_info[1]), os.uname().machine, os.confstr("CS_GNU_LIBC_VERSION"), None
    )


def runtime_folder(cache: Path) -> Path:
    """Where `build_runtime` looks for this machine's runtime when `cache` is XDG_CACHE_HOME."""
    runtime = choose_runtime(this_platform())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(cache))
        return tree_folder(this_platform(), runtime, runtime.requirements)


def keep_small_runtime(cache: Path, **more: bytes) -> Path:
    """Puts a tree there as if it had been built: one file that makes the tests' own numpy and interpreter importable."""
    import numpy

    site_packages = str(Path(numpy.__file__).parents[1])
    folder = runtime_folder(cache)
    contents = {"sitecustomize.py": f"import sys\nsys.path.append({site_packages!r})\n".encode(), **more}
    files = {}
    for name, content in contents.items():
        (folder / "site" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "site" / name).write_bytes(content)
        files[name] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
    fields = {
        "edgekit_runtime": 1,
        "requirements": choose_runtime(this_platform()).requirements,
        "files": dict(sorted(files.items())),
    }
    (folder / "runtime.json").write_text(json.dumps(fields, sort_keys=True), "utf-8")
    return folder


# -- a wire


def flip_a_byte(path: Path) -> None:
    """Damages a file in its middle, whether or not it may be written."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(content)


def wait_until(is_true: Callable[[], bool], timeout_s: float = 20) -> None:
    """Returns when it is; fails when it will not be."""
    deadline = time.monotonic() + timeout_s
    while not is_true():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)
