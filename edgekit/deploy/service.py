"""On the device: what keeps a runner running and takes back what does not run: systemd's system units, a user's, or neither.

    service = find_service(root, "auto")        # what was installed for this root, else what is possible here
    service.install(root, agent_path)           # after the release lies there, before it becomes current
    service.start_guard(agent_path, release, window_s=60)
    service.restart()

The agent decides what is good; this file only knows whom to ask for what. Nothing of it goes through a shell.
Sent together with the agent; standard library only, Python >= 3.9.
"""

from __future__ import annotations

import os
from typing import Any, Protocol

from edgekit.deploy.disk import OUR_FAULT, Refused, checked_size
from edgekit.deploy.guard import start_process
from edgekit.deploy.systemd import BOOTED, Systemd, why_not

MOST_LINES = 10_000  # of a log, in one answer
LONGEST_LINE = 2000  # characters


class Service(Protocol):
    """One ROOT's runner. Everything may be called twice; Refused says what did not work."""

    kind: str  # "system", "user" or "none"
    socket: str | None  # where the runner listens; None: none is kept running

    def installed_root(self) -> str | None:
        """The ROOT that it serves, if it is installed."""

    def install(self, root: str, agent_path: str) -> list[str]:
        """Makes it start with the machine; what was changed for that, in words."""

    def restart(self) -> None:
        """Returns when the runner of what is current says that it is ready, or has failed: ask `state`."""

    def stop(self) -> None:
        """Nothing of ROOT runs any more; it starts again with the machine."""

    def remove(self) -> None:
        """Takes away all that `install` did."""

    def state(self) -> dict[str, Any]:
        """{"active": bool, "pid": int | None, "restarts": int, "result": str}; restarts since the last `restart`."""

    def start_guard(self, agent_path: str, release: str, window_s: float) -> None:
        """In `window_s` the agent's file is run as `guard RELEASE`, whatever becomes of us."""

    def cancel_guard(self, release: str) -> None:
        """It is not."""

    def logs(self, lines: int) -> list[str]:
        """What it and what guards it said last; nothing if we may not read it."""

    def read_log(self, lines: int, cursor: str | None) -> tuple[list[str], str | None]:
        """The last lines, or all that came after `cursor`; and a cursor for what will come. None: nothing is kept.

        Raises Refused if we may not read it.
        """


def find_service(root: str, wanted: str = "auto") -> Service:
    """What is installed for `root`, else what `wanted` names, else with "auto" the best there is. Refused if it cannot be."""
    if wanted == "none":
        return Unkept(root)
    if wanted not in ("auto", "system", "user"):
        raise Refused("DeviceError", f"no such kind of service: {wanted!r}", OUR_FAULT)
    kinds = ("system", "user") if wanted == "auto" else (wanted,)
    reasons = []
    for kind in kinds:
        service = Systemd(root, kind)
        if service.installed_root() == root:
            return service
    for kind in kinds:
        service, reason = Systemd(root, kind), why_not(kind)
        if not reason:
            return service
        reasons.append(reason)
    if wanted == "auto":
        return Unkept(root)
    raise Refused("DeviceUnsupported", f"no {wanted} service there: {reasons[0]}", "try --service auto")


def other_services(root: str, kind: str) -> list[Service]:
    """What is installed for `root` beside a service of that kind, where systemd runs."""
    if not os.path.isdir(BOOTED):
        return []
    others: list[Service] = [Systemd(root, other) for other in ("system", "user") if other != kind]
    return [other for other in others if other.installed_root() == root]


def read_log(root: str, lines: int, cursor: str | None) -> dict[str, Any]:
    """The last lines of what is installed for `root`, or what came after `cursor`; no more than fits into an answer."""
    service = find_service(root)
    found, end = service.read_log(min(checked_size(lines), MOST_LINES), cursor)
    return {"kind": service.kind, "lines": [line[:LONGEST_LINE] for line in found[-MOST_LINES:]], "cursor": end}


class Unkept:
    """No systemd to be had: no runner is kept running. A guard is a process of its own, in no session and no channel."""

    kind = "none"
    socket: str | None = None

    def __init__(self, root: str) -> None:
        self.root = root

    def installed_root(self) -> str | None:
        return None

    def install(self, root: str, agent_path: str) -> list[str]:
        return []

    def restart(self) -> None:
        pass

    def stop(self) -> None:
        pass

    def remove(self) -> None:
        pass

    def state(self) -> dict[str, Any]:
        return {"active": False, "pid": None, "restarts": 0, "result": "none"}

    def start_guard(self, agent_path: str, release: str, window_s: float) -> None:
        from edgekit.deploy.alone import main  # which imports us

        start_process(agent_path, release, main)

    def cancel_guard(self, release: str) -> None:
        """It looks every second whether its trial is still on."""

    def logs(self, lines: int) -> list[str]:
        return []

    def read_log(self, lines: int, cursor: str | None) -> tuple[list[str], str | None]:
        return [], None
