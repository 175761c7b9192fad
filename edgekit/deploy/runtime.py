"""The site-packages tree for a device's Python, built on the workstation from wheels: no pip, no index on the board."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from edgekit.bundle import sha256_file
from edgekit.errors import DeviceUnsupported, EdgekitError, MissingLibrary
from edgekit.platforms import Platform, Runtime, is_pruned


@dataclass(frozen=True)
class Tree:
    """A runtime ready to be sent: its list of files, which names it, and where they lie here."""

    id: str  # first 16 hex digits of the list's SHA-256
    text: str  # the list, as it is sent
    requirements: tuple[str, ...]
    sizes: Mapping[str, int]  # sha256 -> bytes
    site: Path
    paths: Mapping[str, str]  # sha256 -> a file with that content, below `site`

    @cached_property
    def contents(self) -> Mapping[str, Path]:
        """sha256 -> a file with that content. Most devices have them all: 260 paths take longer than the rest of a look."""
        return {sha256: self.site / path for sha256, path in self.paths.items()}


def cache_folder() -> Path:
    """Where built trees are kept: `$XDG_CACHE_HOME/edgekit/runtimes`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "edgekit" / "runtimes"


def tree_folder(platform: Platform, runtime: Runtime, requirements: tuple[str, ...]) -> Path:
    """Where in the cache the tree for that platform lies, or will."""
    key = json.dumps([requirements, platform.python, runtime.pip_tags, runtime.prune])
    return cache_folder() / hashlib.sha256(key.encode()).hexdigest()[:16]


def build_runtime(platform: Platform, runtime: Runtime, *, with_pillow: bool = False, anew: bool = False) -> Tree:
    """The tree for that platform; from the cache if it was built before, unless `anew` (one build at a time for each).

    Its files are not read here: who sends them compares them with their hashes. Raises DeviceUnsupported if the
    registry has not the wheels, MissingLibrary without pip, EdgekitError if the cache cannot be written.
    """
    if with_pillow and not runtime.images:
        raise DeviceUnsupported(
            f"there is no Pillow wheel for Python {_dotted(platform.python)} on {platform.arch}",
            hint="leave --with-pillow out and: sudo apt install python3-pil on the device",
        )
    requirements = (*runtime.requirements, *(runtime.images if with_pillow else ()))
    folder = tree_folder(platform, runtime, requirements)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _locked(folder.with_suffix(".lock")):
            tree = None if anew else read_tree(folder)
            if tree is None:
                _build(folder, platform, runtime, requirements)
                tree = read_tree(folder)
    except OSError as error:
        raise EdgekitError(
            f"cannot keep runtimes in {folder.parent}: {error.strerror or error}",
            hint="make room or give another folder: XDG_CACHE_HOME=/some/folder edgekit deploy ...",
        ) from error
    assert tree is not None
    return tree


def read_tree(folder: Path) -> Tree | None:
    """The tree that was built into `folder`; None if there is none, or only half of one."""
    try:
        text = (folder / "runtime.json").read_text("utf-8")
        fields = json.loads(text)
        return Tree(
            id=hashlib.sha256(text.encode()).hexdigest()[:16],
            text=text,
            requirements=tuple(fields["requirements"]),
            sizes={file["sha256"]: int(file["size"]) for file in fields["files"].values()},
            site=folder / "site",
            paths={file["sha256"]: str(path) for path, file in fields["files"].items()},
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _build(folder: Path, platform: Platform, runtime: Runtime, requirements: tuple[str, ...]) -> None:
    """Unpacks the wheels aside, leaves out what a runner never opens, writes the list last and renames."""
    aside = folder.with_suffix(".building")
    shutil.rmtree(aside, ignore_errors=True)  # of a build that was killed; we hold the lock
    try:
        site = aside / "site"
        site.mkdir(parents=True)
        _pip_install(site, platform, runtime, requirements)
        files = {}
        for path in sorted(site.rglob("*")):
            name = path.relative_to(site).as_posix()
            if path.is_dir() or path.is_symlink():
                continue
            if is_pruned(name, runtime.prune):
                path.unlink()
            else:
                files[name] = {"sha256": sha256_file(path), "size": path.stat().st_size}
        fields = {"edgekit_runtime": 1, "requirements": requirements, "files": files}
        (aside / "runtime.json").write_text(json.dumps(fields, sort_keys=True), "utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        aside.rename(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _pip_install(site: Path, platform: Platform, runtime: Runtime, requirements: tuple[str, ...]) -> None:
    version = "".join(str(part) for part in platform.python)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile", "--target", str(site)]
    command += ["--only-binary=:all:", "--implementation", "cp", "--python-version", version]
    command += ["--abi", f"cp{version}", "--abi", "abi3", "--abi", "none"]
    command += [f"--platform={tag}" for tag in runtime.pip_tags]
    # a person's own pip settings name the registry; those about where to install are not meant for this
    own = {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1", "PIP_USER": "0", "PIP_REQUIRE_VIRTUALENV": "0"}
    done = subprocess.run([*command, *requirements], capture_output=True, text=True, env={**os.environ, **own})
    if done.returncode == 0:
        return
    reason = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or [done.stderr.strip()[-300:]]
    if "No module named pip" in done.stderr:
        raise MissingLibrary("this Python has no pip", hint=f"{sys.executable} -m ensurepip")
    if any("No matching distribution" in line or "find a version" in line for line in reason):
        raise DeviceUnsupported(
            f"no wheel of {', '.join(requirements)} for Python {_dotted(platform.python)} on {platform.arch}: {reason[-1]}",
            hint="can this workstation reach its package registry? pip download shows what it finds",
        )
    raise EdgekitError(f"pip failed: {reason[-1]}", hint=f"check the network and the free space under {cache_folder()}")


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _dotted(python: tuple[int, int]) -> str:
    return f"{python[0]}.{python[1]}"
