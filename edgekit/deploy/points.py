"""Lets a device measure the operating points of the release that is current there. What asks is sent with the question."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from edgekit.deploy.address import Address
from edgekit.deploy.answers import plain
from edgekit.deploy.session import Session, open_session, refuse_host_key
from edgekit.deploy.transport import AskHostKey, packed_sources
from edgekit.errors import DeviceError, NotInstalled

SENT = ("edgekit.runner.power.ask",)
_WHOLE = ("latency_us", "spread_ppm", "runs", "power_uw", "celsius_mc")


class Points:
    """A device that measures one point at a time. `manifest`: SHA-256 of the manifest that it measured last."""

    def __init__(self, session: Session, address: Address) -> None:
        self._session, self._address = session, address
        self.board = session.hello.board or session.hello.system
        self.manifest = ""

    def measure(self, seconds: float, **point: Any) -> dict[str, Any]:
        """What edgekit/runner/point.py says of variant=, threads=, clock_khz=, delegate=, meter=; of idling without a variant."""
        answer = self._session.request("point", seconds=seconds, **point)
        found = answer.get("point")
        fits = isinstance(found, dict) and all(
            found.get(key) is None or (type(found[key]) is int and abs(found[key]) < 1 << 50) for key in _WHOLE
        )
        if not fits or found is None or found.get("provenance") not in ("measured", "estimated", "absent"):
            raise DeviceError(f"{self._address}: its measurement is not ours", hint="deploy again with this edgekit")
        self.manifest = plain(answer.get("manifest"))
        return {
            **{key: found.get(key) for key in _WHOLE},
            "provenance": found["provenance"],
            "fake": found.get("fake") is True,
            "meter": plain(found.get("meter")),
        }


@contextmanager
def open_points(address: Address, *, python: str = "python3", ask: AskHostKey = refuse_host_key) -> Iterator[Points]:
    """The device, for as long as the channel is open."""
    with open_session(address, python=python, ask=ask, agent=packed_sources(SENT)) as session:
        yield Points(session, address)


def use_points(
    address: Address, text: str | None, *, python: str = "python3", ask: AskHostKey = refuse_host_key
) -> Mapping[str, Any]:
    """Puts a table where the device's runner finds it, or with None takes it away. Raises NotInstalled where nothing is."""
    with open_session(address, python=python, ask=ask) as session:
        if session.hello.current is None:
            raise NotInstalled(f"{address}: nothing is installed there", hint="edgekit deploy BUNDLE DEVICE")
        return {"device": str(address), **session.request("points", text=text)}
