"""Asks a device what it draws. The code that reads its sensors is sent with the question: nothing has to be installed there.

What is sent is edgekit/runner/power, as text: this file knows its names, and imports none of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from edgekit.deploy.address import Address
from edgekit.deploy.answers import plain
from edgekit.deploy.session import Session, open_session, refuse_host_key
from edgekit.deploy.transport import AskHostKey, packed_sources
from edgekit.errors import DeviceError

# in the order in which they import one another
SENT = (
    "edgekit.values",
    *(
        f"edgekit.runner.power.{name}"
        for name in (
            "reading",
            "thermal",
            "clock",
            "vcio",
            "raspberrypi",
            "hwmon",
            "jetson",
            "rapl",
            "supply",
            "nvml",
            "board",
            "energy",
            "watch",
            "serve",
        )
    ),
)
_READING = {"name", "quantity", "unit", "value", "provenance", "at_ms", "age_ms", "source", "note", "covers"}
_ENERGY = {"name", "energy_uj", "power_uw", "covered_ms", "gap_ms", "gaps", "provenance", "covers"}


class Sensors:
    """A device that tells its sensors."""

    def __init__(self, session: Session, address: Address) -> None:
        self._session = session
        self._address = address
        self.board = session.hello.board or session.hello.system

    def watch(self, seconds: float) -> dict[str, Any]:
        """What edgekit/runner/power/watch.py says of the next `seconds`. Raises DeviceError for an answer of another form."""
        answer = self._session.request("power", seconds=seconds).get("power")
        try:
            return _checked(answer)
        except (KeyError, TypeError, ValueError, AttributeError):
            raise DeviceError(
                f"{self._address}: what it says of its sensors is not ours", hint="is it the device that you meant?"
            ) from None


@contextmanager
def open_sensors(address: Address, *, python: str = "python3", ask: AskHostKey = refuse_host_key) -> Iterator[Sensors]:
    """The sensors of a device, for as long as the channel is open; nothing is written there."""
    with open_session(address, python=python, ask=ask, agent=packed_sources(SENT)) as session:
        yield Sensors(session, address)


def _checked(answer: Any) -> dict[str, Any]:
    """The answer with every text fit for a terminal; raises if it has another form."""
    found: dict[str, Any] = {"board": plain(answer["board"]), "watched_ms": int(answer["watched_ms"])}
    meter = answer["main_meter"]
    found["main_meter"] = meter and {key: plain(meter[key]) for key in ("name", "quantity", "covers")}
    found["readings"] = [_row(row, _READING) for row in answer["readings"]]
    found["energies"] = [_row(row, _ENERGY) for row in answer["energies"]]
    found["throttled_meanwhile"] = [plain(word) for word in answer["throttled_meanwhile"]]
    found["time_in_state_ms"] = {
        plain(policy): {int(hz): int(ms) for hz, ms in clocks.items()}
        for policy, clocks in answer["time_in_state_ms"].items()
    }
    return found


def _row(row: Mapping[str, Any], keys: set[str]) -> dict[str, Any]:
    taken = {key: row[key] for key in sorted(keys)}
    for key, value in taken.items():
        is_number = key in ("value", "energy_uj", "power_uw") or key.endswith("_ms") or key == "gaps"
        if is_number and not (value is None or (isinstance(value, int) and not isinstance(value, bool))):
            raise ValueError(key)
        if not is_number:
            taken[key] = plain(value)
    return taken
