"""On the device: what keeps a runner running and takes back what does not run: systemd's system units, a user's, or neither.

    service = find_service(root, "auto")        # what was installed for this root, else what is possible here
    service.install(agent_path)                 # after the release lies there, before it becomes current
    service.start_guard(agent_path, release, window_s=60)
    service.restart()

The agent decides what is good; this file only knows whom to ask for what. Nothing of it goes through a shell.
Sent together with the agent; standard library only, Python >= 3.9.
"""

from __future__ import annotations

import os
import re
import sys
from typing import Any, Protocol

from edgekit.deploy.command import detach
from edgekit.deploy.disk import ID, OUR_FAULT, Refused, checked, delete
from edgekit.deploy.systemd import Systemd, why_not
from edgekit.deploy.units import agent_command

_WATCH = """
import os, sys, time
flag, end = sys.argv[1], time.clock_gettime(time.CLOCK_BOOTTIME) + float(sys.argv[2])
left = end - time.clock_gettime(time.CLOCK_BOOTTIME)
while left > 0:
    if not os.path.exists(flag): sys.exit(0)
    time.sleep(min(0.5, left))
    left = end - time.clock_gettime(time.CLOCK_BOOTTIME)
try: os.unlink(flag)
except FileNotFoundError: sys.exit(0)
os.execv(sys.argv[3], sys.argv[3:])
"""


class Service(Protocol):
    """One ROOT's runner. Everything may be called twice; Refused says what did not work."""

    kind: str  # "system", "user" or "none"
    socket: str | None  # where the runner listens; None: none is kept running

    def install(self, agent_path: str) -> list[str]:
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
        """In `window_s` the agent's file is run as `guard ROOT RELEASE`, whatever becomes of us."""

    def cancel_guard(self, release: str) -> None:
        """It is not."""

    def logs(self, lines: int, cursor: str | None = None) -> tuple[list[str], str | None]:
        """The last lines, or those after `cursor`, and where they end."""


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


class Unkept:
    """No systemd to be had: no runner is kept running. A guard is a process of its own, in no session and no channel."""

    kind = "none"
    socket: str | None = None

    def __init__(self, root: str) -> None:
        self.root = root

    def install(self, agent_path: str) -> list[str]:
        return []

    def restart(self) -> None:
        pass

    def stop(self) -> None:
        pass

    def remove(self) -> None:
        delete(os.path.join(self.root, "run"))  # a guard that finds its flag gone ends

    def state(self) -> dict[str, Any]:
        return {"active": False, "pid": None, "restarts": 0, "result": "none"}

    def start_guard(self, agent_path: str, release: str, window_s: float) -> None:
        os.makedirs(os.path.join(self.root, "run"), mode=0o700, exist_ok=True)
        flag = self._flag(release)
        with open(flag, "w"):
            pass
        command = agent_command(sys.executable, agent_path, "guard", self.root, release)
        watch = [sys.executable, "-I", "-c", _WATCH, flag, f"{window_s:.3f}", *command]
        detach(watch, os.path.join(self.root, "run", "log"))

    def cancel_guard(self, release: str) -> None:
        delete(self._flag(release))

    def logs(self, lines: int, cursor: str | None = None) -> tuple[list[str], str | None]:
        """What guards wrote; the cursor counts bytes."""
        start = int(checked(re.compile(r"[0-9]{1,18}"), cursor)) if cursor is not None else 0
        try:
            with open(os.path.join(self.root, "run", "log"), "rb") as stream:
                stream.seek(start)
                content = stream.read(1 << 20)
        except FileNotFoundError:
            return [], "0"
        found = content.decode(errors="replace").splitlines()
        return (found[-lines:] if cursor is None else found), str(start + len(content))

    def _flag(self, release: str) -> str:
        return os.path.join(self.root, "run", f"guard-{checked(ID, release)}")
