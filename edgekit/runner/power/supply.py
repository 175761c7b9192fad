"""Batteries and UPS, as /sys/class/power_supply shows them: any driver, each with other files."""

from __future__ import annotations

import os

from edgekit.runner.power.reading import (
    ESTIMATED,
    Reading,
    alive,
    matches,
    measured,
    product,
    read_int,
    read_text,
    scaled,
)

EVERY_MS = 1000  # drivers have something new every 1 to 30 s
UJ_PER_UWH = 3600


def read_supplies(sys: str, at_ms: int) -> list[Reading]:
    """Power, energy left and charge of each battery that feeds this machine.

    Power is what leaves or enters the battery, without the sign, which differs between drivers; only while it
    discharges is that what the machine draws. USB-PD contracts (ucsi-*) and batteries of mice are no such batteries.
    """
    readings = []
    for supply in matches(sys, "class/power_supply/*"):
        name = os.path.basename(supply)
        kind, scope, status = (read_text(os.path.join(supply, file))[0] or "" for file in ("type", "scope", "status"))
        if name.startswith("ucsi") or kind not in ("Battery", "UPS") or scope == "Device":
            continue
        is_feeding = status == "Discharging"
        more = {"covers": "board" if is_feeding else "battery", "every_ms": EVERY_MS}
        note = status.lower() or "status unknown"
        power = _power(supply)
        readings.append(
            measured(name, "power", alive(power) if is_feeding else power, at_ms, supply, note=note, **more)
        )
        readings.append(_energy(name, supply, at_ms))
        capacity, why = read_int(os.path.join(supply, "capacity"))
        if capacity is not None and not 0 <= capacity <= 100:
            capacity, why = None, f"{capacity} % cannot be"
        readings.append(measured(name, "capacity", (capacity, why), at_ms, supply, every_ms=EVERY_MS))
    return readings


def _power(supply: str) -> tuple[int | None, str]:
    """uW, without a sign: power_now, else voltage times current."""
    found = read_int(os.path.join(supply, "power_now"))
    if found[0] is None:
        volts, current = (read_int(os.path.join(supply, file)) for file in ("voltage_now", "current_now"))
        found = product(volts, current, 1_000_000)
        if volts[0] is not None and volts[0] <= 0:
            found = None, "0 V cannot be: the sensor is dead"
    return (None if found[0] is None else abs(found[0])), found[1]


def _energy(name: str, supply: str, at_ms: int) -> Reading:
    """uJ left: energy_now, else charge times voltage, which is estimated."""
    found = scaled(read_int(os.path.join(supply, "energy_now")), UJ_PER_UWH)
    more: dict[str, object] = {}
    if found[0] is None:
        charge, volts = (read_int(os.path.join(supply, file)) for file in ("charge_now", "voltage_now"))
        found = product(charge, volts, 1_000_000)
        found = scaled(found, UJ_PER_UWH)
        more = {"provenance": ESTIMATED, "note": "charge times voltage"} if found[0] is not None else {}
    if found[0] is not None and found[0] < 0:
        found, more = (None, "negative: the gauge is wrong"), {}
    return measured(name, "stored", found, at_ms, supply, every_ms=EVERY_MS, **more)
