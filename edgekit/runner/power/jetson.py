"""A Jetson's rails: the INA3221 as JetPack 4 shows it (iio) and as JetPack 5 and later do (hwmon).

jtop's `avg` is no average, and its service takes time of its own; the same chips are read here directly.
"""

from __future__ import annotations

import os

from edgekit.runner.power.hwmon import chips
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

TOTALS = ("VDD_IN", "POM_5V_IN", "VIN")  # what goes into the whole module; else the rails are added up
EVERY_MS = 50  # the chip converts for a few ms, by default
_CHANNELS = (1, 2, 3)  # of an INA3221; 4 to 6 are shunt voltages, 7 is their sum


def is_jetson(sys: str) -> bool:
    """Whether this is a Tegra; NVML answers there too, and knows nothing."""
    text = read_text(os.path.join(sys, "firmware/devicetree/base/compatible"))[0] or ""
    return "nvidia,tegra" in text


def read_rails(sys: str, at_ms: int) -> list[Reading]:
    """Every rail that is connected, and the total: one of them, or their sum (estimated: rails may be fed from others)."""
    rails = _iio_rails(sys, at_ms) or _hwmon_rails(sys, at_ms)
    if not rails or any(rail.covers == "board" for rail in rails) or chips(sys, "ina238"):
        return rails
    lacking = [rail.name for rail in rails if rail.value is None]
    found: tuple[int | None, str] = None, f"{', '.join(lacking)} is missing"
    more: dict[str, object] = {}
    if not lacking:
        found = alive((sum(rail.value for rail in rails if rail.value is not None), ""))
        more = {"provenance": ESTIMATED, "note": "sum of the rails"} if found[0] is not None else {}
    source = os.path.dirname(rails[0].source)
    return [
        *rails,
        measured("all rails", "power", found, at_ms, source, covers="board", every_ms=EVERY_MS, **more),
    ]


def _iio_rails(sys: str, at_ms: int) -> list[Reading]:
    """JetPack 4: rail_name_N, in_powerN_input in mW."""
    rails = []
    for path in matches(sys, "bus/i2c/drivers/ina3221x/*/iio:device*/rail_name_[0-9]"):
        folder, number = os.path.dirname(path), path[-1]
        power = os.path.join(folder, f"in_power{number}_input")
        found = scaled(read_int(power), 1000)
        if found[1] == "not there":
            volts, current = (os.path.join(folder, f"in_{what}{number}_input") for what in ("voltage", "current"))
            found = product(read_int(volts), read_int(current))
        rails += _rail(read_text(path)[0], found, at_ms, power)
    return rails


def _hwmon_rails(sys: str, at_ms: int) -> list[Reading]:
    """JetPack 5 and later: mV and mA, no power."""
    folders = matches(sys, "bus/i2c/drivers/ina3221/*/hwmon/hwmon*") or chips(sys, "ina3221")
    rails = []
    for folder in folders:
        for channel in _CHANNELS:
            volts, current = os.path.join(folder, f"in{channel}_input"), os.path.join(folder, f"curr{channel}_input")
            name = read_text(os.path.join(folder, f"in{channel}_label"))[0]
            rails += _rail(name, product(read_int(volts), read_int(current)), at_ms, current)
    return rails


def _rail(name: str | None, found: tuple[int | None, str], at_ms: int, source: str) -> list[Reading]:
    """The rail as a reading; none for a channel that is not connected. A rail can be off, what feeds the board cannot."""
    if not name or name.upper().startswith("NC"):
        return []
    is_total = name in TOTALS
    note = "the module, without its carrier board" if name == "VDD_IN" else ""
    found = alive(found) if is_total else found
    covers = "board" if is_total else "part"
    return [measured(name, "power", found, at_ms, source, covers=covers, every_ms=EVERY_MS, note=note)]
