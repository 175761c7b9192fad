"""Temperatures that every Linux has: thermal zones, and the Coral on PCIe."""

from __future__ import annotations

import os

from edgekit.runner.power.reading import ABSENT, ESTIMATED, MEASURED, Reading, matches, measured, read_int, read_text

COLDEST_MC, HOTTEST_MC = -60_000, 150_000  # no chip works outside; -256000 is Tegra's word for a zone that is off


def read_temperatures(sys: str, at_ms: int) -> list[Reading]:
    """Every thermal zone by its type, AMD's k10temp, and every Coral on PCIe. A Coral on USB has no sensor."""
    readings = []
    for zone in matches(sys, "class/thermal/thermal_zone*"):
        name = read_text(os.path.join(zone, "type"))[0] or os.path.basename(zone)
        if "pmic" in name.lower():  # Tegra's PMIC-Die says 100 °C for ever
            continue
        reading = _temperature(name, os.path.join(zone, "temp"), at_ms)
        if name.endswith("-est") and reading.provenance == MEASURED:  # the fan's, a mean of the others
            reading = measured(
                name, "temperature", (reading.value, ""), at_ms, reading.source, provenance=ESTIMATED, every_ms=100
            )
        readings.append(reading)
    for chip in matches(sys, "class/hwmon/hwmon*"):  # AMD's processors have no zone of their own
        if read_text(os.path.join(chip, "name"))[0] == "k10temp":
            readings.append(_temperature("k10temp", os.path.join(chip, "temp1_input"), at_ms))
    for device in matches(sys, "class/apex/apex_*"):
        readings.append(_temperature(os.path.basename(device), os.path.join(device, "temp"), at_ms))
    return readings


def _temperature(name: str, path: str, at_ms: int) -> Reading:
    value, why = read_int(path)
    if value is not None and not COLDEST_MC <= value <= HOTTEST_MC:
        value, why = None, f"{value} m°C cannot be: the sensor is off"
    return measured(name, "temperature", (value, why), at_ms, path, every_ms=100)


def hottest_mc(readings: list[Reading]) -> int | None:
    """The highest temperature of all; None if no sensor answers."""
    found = [
        r.value for r in readings if r.quantity == "temperature" and r.provenance != ABSENT and r.value is not None
    ]
    return max(found, default=None)
