"""Asks edgekit-powerd for clock caps: the unprivileged side. Standard library only."""

from __future__ import annotations

import json
import socket
from typing import Any

from edgekit.errors import DeviceRefused, EdgekitError
from edgekit.runner.power.powerd import SOCKET, WATCHDOG_S

ANSWER_S = 5.0


class Caps:
    """A connection to the helper; while it is open, caps stay as they were set. `alive` within every WATCHDOG_S."""

    def __init__(self, path: str = SOCKET) -> None:
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(ANSWER_S)
        try:
            self._socket.connect(path)
        except OSError as error:
            self._socket.close()
            raise DeviceRefused(
                f"no power helper at {path}: {error.strerror or error}",
                hint="without root variants and threads are chosen; for clocks too: edgekit deploy BUNDLE DEVICE --power",
            ) from None
        self._stream = self._socket.makefile("rb")
        found = self._ask(op="list")
        self.clocks: dict[str, list[int]] = {
            what: clocks for what, clocks in found["caps"].items() if what.startswith("cpufreq/")
        }
        self.modes: list[str] = found["modes"]

    def cap_cpus(self, khz: int) -> None:
        """Every cpufreq policy at most at that clock, or at its nearest one below, or at its lowest."""
        for what, clocks in self.clocks.items():
            self._ask(op="cap", what=what, to=max((c for c in clocks if c <= khz), default=clocks[0]))

    def mode(self, name: str) -> None:
        """A Jetson's power mode, by name."""
        self._ask(op="mode", name=name)

    def alive(self) -> None:
        """Says that we are still there; needed at least every WATCHDOG_S seconds."""
        self._ask(op="alive")

    def close(self) -> None:
        """Lets the helper put everything back."""
        self._stream.close()
        self._socket.close()

    def _ask(self, **request: Any) -> dict[str, Any]:
        try:
            self._socket.sendall(json.dumps(request).encode() + b"\n")
            line = self._stream.readline(1 << 16)
            found = json.loads(line) if line else None
        except (OSError, ValueError) as error:
            raise EdgekitError(
                f"the power helper does not answer: {error}", hint=f"is it running? {self._path}"
            ) from None
        if not isinstance(found, dict):
            raise EdgekitError(
                "the power helper has gone", hint=f"it ends a connection that says nothing for {WATCHDOG_S:g} s"
            )
        if not found.get("ok"):
            raise DeviceRefused(
                f"the power helper refuses: {found.get('error')}", hint="edgekit power show says what there is"
            )
        return found
