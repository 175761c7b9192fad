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
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from edgekit.bundle import sha256_file
from edgekit.deploy.platforms import Platform, Runtime, is_pruned
from edgekit.errors import DeviceUnsupported, EdgekitError, MissingLibrary


@dataclass(frozen=True)
class Tree:
    """A runtime ready to be sent: its list of files, which names it, and where they lie here."""

    id: str  # first 16 hex digits of the list's SHA-256
    text: str  # the list, as it is sent
    sizes: Mapping[str, int]  # sha256 -> bytes
    paths: Mapping[str, Path]  # sha256 -> a file with that content


def cache_folder() -> Path:
    """Where built trees are kept: `$XDG_CACHE_HOME/edgekit/runtimes`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "edgekit" / "runtimes"


def build_runtime(platform: Platform, runtime: Runtime, *, with_pillow: bool) -> Tree:
    """The tree for that platform; from the cache if it was built before (one build at a time for each).

    Raises DeviceUnsupported if the registry has not the wheels, MissingLibrary without pip.
    """
    requirements = [*runtime.requirements, *(runtime.images if with_pillow else ())]
    if with_pillow and not runtime.images:
        raise DeviceUnsupported(
            f"there is no Pillow wheel for Python {_dotted(platform.python)} on {platform.arch}",
            hint="leave --with-pillow out and: sudo apt install python3-pil on the device",
        )
    key = json.dumps([requirements, platform.python, runtime.pip_tags, runtime.prune])
    folder = cache_folder() / hashlib.sha256(key.encode()).hexdigest()[:16]
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _locked(folder.with_suffix(".lock")):
        listing = folder / "runtime.json"
        if not listing.is_file():
            _build(folder, platform, runtime, requirements)
        text = listing.read_text("utf-8")
    files = json.loads(text)["files"]
    return Tree(
        id=hashlib.sha256(text.encode()).hexdigest()[:16],
        text=text,
        sizes={file["sha256"]: file["size"] for file in files.values()},
        paths={file["sha256"]: folder / "site" / path for path, file in files.items()},
    )


def _build(folder: Path, platform: Platform, runtime: Runtime, requirements: list[str]) -> None:
    """Unpacks the wheels aside, leaves out what a runner never opens, writes the list last and renames."""
    aside = Path(tempfile.mkdtemp(prefix=".building-", dir=folder.parent))
    try:
        site = aside / "site"
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


def _pip_install(site: Path, platform: Platform, runtime: Runtime, requirements: list[str]) -> None:
    version = "".join(str(part) for part in platform.python)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile", "--target", str(site)]
    command += ["--only-binary=:all:", "--implementation", "cp", "--python-version", version]
    command += ["--abi", f"cp{version}", "--abi", "abi3", "--abi", "none"]
    command += [f"--platform={tag}" for tag in runtime.pip_tags]
    environment = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1"}
    done = subprocess.run([*command, *requirements], capture_output=True, text=True, env=environment)
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
    raise EdgekitError(f"pip failed: {reason[-1]}", hint="check the network and the free space under ~/.cache")


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _dotted(python: tuple[int, int]) -> str:
    return f"{python[0]}.{python[1]}"
