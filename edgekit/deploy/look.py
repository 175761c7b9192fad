"""On the device: what is there, for whoever asks. Nothing is changed, and nobody's turn is waited for.

Sent together with the agent; standard library only, Python >= 3.9.
"""

from __future__ import annotations

import os
from typing import Any

from edgekit.deploy.disk import Refused
from edgekit.deploy.journal import Journal, read_journal
from edgekit.deploy.store import Store
from edgekit.deploy.trial import Trials


def status(trials: Trials) -> dict[str, Any]:
    """Which releases there are and in which role, and how a trial goes."""
    found = look(trials)
    rows = {"current": trials.store.target_of("current"), "previous": found.prev, "trial": found.to}
    if found.is_trial:
        rows = {"trial": found.to, "good": found.before, "previous": found.prev}
    releases: list[dict[str, Any]] = []
    for role, name in rows.items():
        if name is not None and not any(row["id"] == name for row in releases):
            releases.append(dict(_describe(trials.store, name), role=role))
    used = 0
    for folder, _, names in os.walk(trials.store.path("blobs")):
        used += sum(os.lstat(os.path.join(folder, name)).st_blocks * 512 for name in names)
    trial = None
    if found.is_trial:
        left = found.until_s - trials.now().seconds
        trial = {"release": found.to, "left_s": round(max(0.0, left), 1), "confirm": found.confirm}
    return {
        "releases": releases,
        "used_bytes": used,
        "good": found.good,
        "trial": trial,
        "failed": list(found.failed),
        "service": found.service,
    }


def look(trials: Trials) -> Journal:
    """The journal, or what it would be in a folder of protocol 1, or in one that is not there."""
    found = read_journal(trials.store.root)
    if found is not None:
        return found
    return Journal(good=trials.store.target_of("current"), prev=trials.store.target_of("previous"))


def _describe(store: Store, name: str) -> dict[str, Any]:
    try:
        release = store.listing("releases", name)
        age = os.lstat(store.path("releases", name)).st_mtime  # by the board's own clock, which may be wrong
    except (OSError, Refused):
        release, age = {}, 0
    keys = ("bundle", "name", "edgekit", "runtime", "requirements")
    return dict({key: release.get(key) for key in keys}, id=name, installed_s=round(age))


def verify(trials: Trials) -> list[str]:
    """The files that are not what was sent, in what is good, before it or on trial, and in the runtimes of those."""
    found = look(trials)
    names = dict.fromkeys(name for name in (found.to, found.good, found.prev) if name is not None)
    runtimes = dict.fromkeys(name for name in map(trials.store.runtime_of, names) if name is not None)
    parts = [("releases", name) for name in names] + [("runtimes", name) for name in runtimes]
    return [f"{kind}/{name}/{path}" for kind, name in parts for path in trials.store.damaged_files(kind, name)]


def outcome(trials: Trials, name: Any) -> dict[str, Any]:
    """Whether that release is still on trial, is good, or was given up."""
    found = look(trials)
    on = found.is_trial and found.to == name
    return {"outcome": "trial" if on else "good" if found.good == name else "given up", "previous": found.prev}
