"""On the device: what keeps a release running. Here: nothing does; releases are started by hand, or by what you have.

Sent together with the agent; standard library only, Python >= 3.9.
"""

from __future__ import annotations

from typing import Any

from edgekit.deploy.disk import Refused
from edgekit.deploy.guard import start_process


class Service:
    """No service: `current` is all there is, and the guard is a process of its own."""

    kind = "none"

    def install(self, root: str, agent_path: str) -> None:
        """Nothing to put in place."""

    def restart(self) -> None:
        """Nothing runs."""

    def stop(self) -> None:
        """Nothing runs."""

    def remove(self) -> None:
        """Nothing was put in place."""

    def state(self) -> dict[str, Any]:
        return {"active": False, "pid": None, "restarts": 0, "result": "no service"}

    def start_guard(self, agent_path: str, release: str, window_s: float) -> None:
        """Returns when the guard is there."""
        start_process(agent_path, release)

    def cancel_guard(self, release: str) -> None:
        """It looks every second whether its trial is still on."""

    def logs(self, lines: int) -> list[str]:
        return []


def find_service(root: str, wanted: str = "auto") -> Service:
    """What can keep a release running here. Raises Refused if that is not what is wanted."""
    if wanted not in ("auto", "none"):
        raise Refused("DeviceUnsupported", f"no {wanted} service can be had here", "leave --service out")
    return Service()
