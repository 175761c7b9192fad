"""Where a bundle comes from, as its manifest says it: the hashes of what went in, the versions of what worked on it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

import numpy as np

from edgekit.bundle import sha256_file
from edgekit.convert.revision import revision
from edgekit.convert.samples import LABELS, Samples
from edgekit.convert.samples_function import source_file


def model_name(model: Path) -> str:
    """What a bundle is called unless somebody says otherwise: the file's name without its suffix."""
    whole = model.resolve().name if model.name in ("", "..") else model.name
    return whole.removesuffix(model.suffix) or whole


def by_name(**given: Path | Samples | None) -> dict[str, Path | Samples]:
    """What went in, by file name; by role and name where two have the same name."""
    parts = {role: part for role, part in given.items() if part is not None}
    names = [part.name for part in parts.values()]
    return {part.name if names.count(part.name) == 1 else f"{role}/{part.name}": part for role, part in parts.items()}


def digests(given: Mapping[str, Path | Samples]) -> dict[str, str]:
    """The hash of everything that went in."""
    return {name: _digest(part) for name, part in given.items()}


def commits(given: Mapping[str, Path | Samples]) -> dict[str, str]:
    """The git commit of each file, or folder, that is of one: see `revision`."""
    found = {name: revision(source_file(part)) for name, part in given.items() if isinstance(part, Path)}
    return {name: commit for name, commit in found.items() if commit is not None}


def _digest(part: Path | Samples) -> str:
    """SHA-256 of a file (`file.py:function`: of that file), of a folder's files and their names, or of arrays in memory."""
    digest = hashlib.sha256()
    if isinstance(part, Samples):
        rows = {**part.arrays, **({LABELS: part.labels} if part.labels is not None else {})}
        for name, array in sorted(rows.items()):
            for sample in array:
                digest.update(f"{name} {sample.dtype} {sample.shape} ".encode())
                digest.update(np.ascontiguousarray(sample).tobytes())
        return digest.hexdigest()
    path = source_file(part)
    if path.is_file():
        return sha256_file(path)
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        digest.update(f"{file.relative_to(path).as_posix()} {sha256_file(file)}\n".encode())
    return digest.hexdigest()


def litert_version() -> dict[str, str]:
    """The interpreter that measured, as the manifest's `made_by` wants it."""
    return {"ai-edge-litert": metadata.version("ai-edge-litert")}
