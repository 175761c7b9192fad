"""A release: what becomes of a bundle on one device. The bundle's files, our runner, and a launcher, listed by hash."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import edgekit
from edgekit.bundle import MANIFEST, Bundle

Content = bytes | Path  # of a file: itself, or where it lies here

# what of edgekit runs on a board; edgekit/runner and below comes whole
SHARED = (
    "__init__.py",
    "errors.py",
    "fields.py",
    "bundle.py",
    "manifest.py",
    "values.py",
    "digest.py",
    "delegates.py",
    *(f"preprocess/{n}.py" for n in ("__init__", "spec", "image", "audio")),
)


@dataclass(frozen=True)
class Release:
    """A release ready to be sent."""

    id: str  # first 16 hex digits of the list's SHA-256
    text: str  # the list, as it is sent
    sizes: Mapping[str, int]  # sha256 -> bytes
    contents: Mapping[str, Content]  # sha256 -> what has that hash


def plan_release(bundle: Bundle, runtime: str, python: str, requirements: list[str]) -> Release:
    """The release of `bundle` with the runtime of that id, for that Python."""
    made: dict[str, bytes | Path] = {MANIFEST: bundle.file(MANIFEST), "run": launcher_script(python).encode()}
    listed = {**_runner_files(), **{name: _listed(content) for name, content in made.items()}}
    files: dict[str, dict[str, object]] = {}
    sizes: dict[str, int] = {}
    contents: dict[str, Content] = {}
    for name, (sha256, size, content) in listed.items():
        files[name] = {"sha256": sha256, "size": size}
        sizes[sha256], contents[sha256] = size, content
    for name, file in bundle.manifest.files.items():
        path = bundle.file(name)
        size = path.stat().st_size  # its hash was verified a moment ago, and is again before it is sent
        files[name] = {"sha256": file.sha256, "size": size}
        sizes[file.sha256], contents[file.sha256] = size, path
    files["run"]["run"] = True
    fields = {
        "edgekit_release": 1,
        "edgekit": edgekit.__version__,
        "name": bundle.manifest.name,
        "bundle": bundle.digest,
        "runtime": runtime,
        "requirements": requirements,
        "files": files,
    }
    text = json.dumps(fields, sort_keys=True)
    return Release(hashlib.sha256(text.encode()).hexdigest()[:16], text, sizes, contents)


@cache
def _runner_files() -> dict[str, tuple[str, int, Content]]:
    """What of edgekit runs on a board: name -> hash, bytes, content. Hashed once: each is hashed again before it is sent."""
    package = Path(edgekit.__file__).parent
    sources = [package / name for name in SHARED] + sorted((package / "runner").rglob("*.py"))
    return {f"edgekit/{path.relative_to(package).as_posix()}": _listed(path) for path in sources}


def _listed(content: Content) -> tuple[str, int, Content]:
    data = read_content(content)
    return hashlib.sha256(data).hexdigest(), len(data), content


def read_content(content: Content) -> bytes:
    """The bytes themselves."""
    return content if isinstance(content, bytes) else content.read_bytes()


def launcher_script(python: str) -> str:
    """`run VERB ARGUMENTS` beside the release: the runner's VERB on this release. Nothing is imported from where one is."""
    main = (
        "import sys; sys.path = [p for p in sys.path if p]; from edgekit.runner.__main__ import main; sys.exit(main())"
    )
    start = f"exec {shlex.quote(python)} -s -c {shlex.quote(main)}"
    recover = f'{shlex.quote(python)} -I "$root/agent/current.py" recover'
    return f"""#!/bin/sh
# runs this release: run infer INPUT..., run check, run bench, run serve, run power
here=$(dirname "$(readlink -f "$0")")
root=${{here%/releases/*}}
if [ -z "${{EDGEKIT_RECOVERED:-}}" ] && [ -r "$root/journal.json" ] && read -r journal <"$root/journal.json"; then
    case $journal in *'"phase": "trial"'*) # what is on trial may be so no longer
        {recover} || exit
        case $0 in */current/run) here=$(readlink -f "$root/current") && exec /bin/sh "$here/run" "$@" || exit ;; esac
    esac
fi
PYTHONPATH="$here:$here/site" PYTHONDONTWRITEBYTECODE=1 # which was made when it was installed, and hashed
export PYTHONPATH PYTHONDONTWRITEBYTECODE
case "${{1:-}}" in
    "" | -*) {start} "$@" ;;
esac
verb=$1
shift
{start} "$verb" "$here" "$@"
"""
