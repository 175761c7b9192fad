"""What must hold of a device's root after a power cut, on a real disk: G1 to G4 of tests/crash.py, by what lies there.

Nothing of the agent's own code judges: what was sent is known by hash, and files are read anew from the disk.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compiled import compiled, runs
from devices import PYTHON

Listings = dict[str, Any]  # id -> what was sent under it: {"files": {path: {"sha256": ...}}, "runtime": id}


@dataclass(frozen=True)
class Known:
    """What the outside knows from a length of the log on: which releases may be in use, which were proven."""

    mark: int
    allowed: frozenset[str | None]
    proven: frozenset[str | None]


def start_machine(root: Path, known: Known, listings: Listings, new_boot: Callable[[], None]) -> str:
    """What does not hold of a root before and after its recovery; "" if all does."""
    found = in_use(root)
    if found is not None and (wrong := damage(root, found, listings)):
        return f"G1 before recovery, {wrong}"
    try:
        journal = read_journal(root)
    except ValueError as error:
        return f"the journal is damaged: {error}"
    if found not in known.proven and (journal is None or journal["phase"] != "trial"):
        return f"G2 {found} is in use, and nothing tells that to the launcher"
    new_boot()
    if has_agent(root):
        try:
            start_own(root, "recover")
        except OSError as error:
            return f"recovery: {error}"
    return state(root, known, listings)


def state(root: Path, known: Known, listings: Listings) -> str:
    """The same, of a root after its recovery."""
    found, journal = in_use(root), read_journal(root)
    if found not in known.allowed:
        return f"G2/G3 {found} is in use, not {' or '.join(sorted(map(str, known.allowed)))}"
    if found is not None and (wrong := damage(root, found, listings)):
        return f"G1 {wrong}"
    if journal is None:
        return "" if found is None else "no journal"
    if journal["phase"] != "idle" or journal["good"] != found:
        return f"G2 the journal says {journal['phase']} {journal['good']}, in use is {found}"
    before = journal["prev"]
    if before not in known.proven:
        return f"G4 what can be gone back to was not proven: {before}"
    if before is not None and (wrong := damage(root, before, listings)):
        return f"G4 what can be gone back to, {wrong}"
    return ""


def in_use(root: Path) -> str | None:
    """The release that a launcher would start."""
    try:
        return os.path.basename(os.readlink(root / "current"))
    except OSError:
        return None


def read_journal(root: Path) -> dict[str, Any] | None:
    """As JSON; None if there is none. Raises ValueError."""
    try:
        return dict(json.loads((root / "journal.json").read_bytes()))
    except FileNotFoundError:
        return None


def damage(root: Path, name: str, listings: Listings) -> str:
    """The first file of a release or its runtime that is not what was sent; "" if all are."""
    if name not in listings:
        return f"{name}: no release of ours"
    folder, runtime = root / "releases" / name, listings[name]["runtime"]
    lists = [(name, folder, folder / "release.json"), (runtime, folder / "site", root / f"runtimes/{runtime}.json")]
    for one, place, listed in lists:
        expected = {place / path: file["sha256"] for path, file in listings[one]["files"].items()}
        for path, sha256 in {**expected, listed: one}.items():
            try:
                there = path.read_bytes()
            except OSError as error:
                return f"{path.relative_to(root)}: {error.strerror}"
            if not hashlib.sha256(there).hexdigest().startswith(sha256):
                return f"{path.relative_to(root)} has {len(there)} bytes, and not those that were sent"
            if path.suffix == ".py" and not _runs(Path(compiled(str(path))), there):
                return f"{path.relative_to(root)} would not start: its bytecode is not whole"
    return ""


def _runs(bytecode: Path, source: bytes) -> bool:
    try:
        return runs(bytecode.read_bytes(), source)
    except OSError:
        return False


def listings_of(root: Path) -> Listings:
    """Of a root on which nothing has gone wrong: a list's name is its hash."""
    found = {}
    for path in (*root.glob("releases/*/release.json"), *root.glob("runtimes/*.json")):
        name = path.parent.name if path.name == "release.json" else path.stem
        text = path.read_bytes()
        assert hashlib.sha256(text).hexdigest()[:16] == name, path
        found[name] = json.loads(text)
    return found


def has_agent(root: Path) -> bool:
    """True if the start of the machine finds the agent's own file, whole."""
    link = root / "agent" / "current.py"
    try:
        return hashlib.sha256(link.read_bytes()).hexdigest()[:16] == Path(os.readlink(link)).stem
    except OSError:
        return False


def start_own(root: Path, word: str) -> None:
    """Runs the agent's own file there, as the start of the machine does. Raises OSError if that fails."""
    command = [PYTHON, "-I", str(root / "agent" / "current.py"), word]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise OSError(f"{word} ends with {done.returncode}: {done.stderr.strip()[-300:]}")
