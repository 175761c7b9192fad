"""Where a bundle comes from, as its manifest says it: the hashes of what went in, the versions of what worked on it."""

from __future__ import annotations

import hashlib
from importlib import metadata
from pathlib import Path

from edgekit.bundle import sha256_file
from edgekit.convert.samples_function import source_file


def model_name(model: Path) -> str:
    """What a bundle is called unless somebody says otherwise: the file's name without its suffix."""
    whole = model.resolve().name if model.name in ("", "..") else model.name
    return whole.removesuffix(model.suffix) or whole


def digests(**paths: Path | None) -> dict[str, str]:
    """The hash of everything that went in, by file name; by role and name where two have the same name."""
    given = {role: path for role, path in paths.items() if path is not None}
    names = [path.name for path in given.values()]
    return {
        path.name if names.count(path.name) == 1 else f"{role}/{path.name}": _digest(path)
        for role, path in given.items()
    }


def _digest(path: Path) -> str:
    """SHA-256 of a file (`file.py:function`: of that file), or of a folder's files and their names."""
    path = source_file(path)
    if path.is_file():
        return sha256_file(path)
    digest = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        digest.update(f"{file.relative_to(path).as_posix()} {sha256_file(file)}\n".encode())
    return digest.hexdigest()


def litert_version() -> dict[str, str]:
    """The interpreter that measured, as the manifest's `made_by` wants it."""
    return {"ai-edge-litert": metadata.version("ai-edge-litert")}
