"""A release: what becomes of a bundle on one device. Pure: the bundle's files, our runner, and a launcher, listed by hash."""

from __future__ import annotations

import hashlib
import json
import shlex
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import edgekit
from edgekit.bundle import MANIFEST, Bundle, sha256_file

# what of edgekit runs on a board; edgekit/runner and below comes whole
SHARED = (
    "__init__.py",
    "errors.py",
    "bundle.py",
    "manifest.py",
    *(f"preprocess/{n}.py" for n in ("__init__", "spec", "image", "audio")),
)


@dataclass(frozen=True)
class Release:
    """A release ready to be sent."""

    id: str  # first 16 hex digits of the list's SHA-256
    text: str  # the list, as it is sent
    sizes: Mapping[str, int]  # sha256 -> bytes
    paths: Mapping[str, Path]  # sha256 -> a file with that content


def plan_release(bundle: Bundle, runtime: str, python: str, requirements: list[str], scratch: Path) -> Release:
    """The release of `bundle` with the runtime of that id, for that Python. `scratch` takes the generated launcher."""
    launcher = scratch / "run"
    launcher.write_text(launcher_script(python), "utf-8")
    package = Path(edgekit.__file__).parent
    sources = [package / name for name in SHARED] + sorted((package / "runner").rglob("*.py"))
    places = {f"edgekit/{path.relative_to(package).as_posix()}": path for path in sources}
    places |= {name: bundle.file(name) for name in bundle.manifest.files}
    places |= {MANIFEST: bundle.file(MANIFEST), "run": launcher}
    files: dict[str, dict[str, object]] = {}
    sizes, paths = {}, {}
    for name, path in sorted(places.items()):
        sha256, size = sha256_file(path), path.stat().st_size
        files[name] = {"sha256": sha256, "size": size}
        sizes[sha256], paths[sha256] = size, path
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
    return Release(hashlib.sha256(text.encode()).hexdigest()[:16], text, sizes, paths)


def launcher_script(python: str) -> str:
    """`run VERB ARGUMENTS` beside the release: python3 -m edgekit.runner VERB <this release> ARGUMENTS."""
    return f"""#!/bin/sh
# runs this release: run infer INPUT..., run check, run bench
here=$(dirname "$(readlink -f "$0")")
PYTHONPATH="$here:$here/site"
export PYTHONPATH
case "${{1:-}}" in
    "" | -*) exec {shlex.quote(python)} -s -m edgekit.runner "$@" ;;
esac
verb=$1
shift
exec {shlex.quote(python)} -s -m edgekit.runner "$verb" "$here" "$@"
"""


def scratch_folder() -> tempfile.TemporaryDirectory[str]:
    """A folder for what is generated on the way; it goes when it is closed."""
    return tempfile.TemporaryDirectory(prefix="edgekit-")
