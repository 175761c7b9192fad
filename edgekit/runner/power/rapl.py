"""Energy counters of x86 processors (RAPL), through the kernel's powercap files."""

from __future__ import annotations

import os
import re

from edgekit.runner.power.reading import Reading, matches, measured, read_int, read_text

_ZONE = re.compile(r"intel-rapl:([0-9]+)(?::([0-9]+))?")
DENIED = "root only since Linux 5.10 (CVE-2020-8694): give the service CAP_DAC_READ_SEARCH"
EVERY_MS = 1  # about


def read_rapl(sys: str, at_ms: int) -> list[Reading]:
    """Each zone's counter. A package is the processor, not the machine: 60 to 70 % of what a small PC draws.

    intel-rapl-mmio repeats the packages and is left out. core, uncore and dram are named after their package; they and
    psys, whose meaning differs between machines, are not to be added to it.
    """
    readings = []
    for zone in matches(sys, "class/powercap/intel-rapl:*"):
        place = _ZONE.fullmatch(os.path.basename(zone))
        name = read_text(os.path.join(zone, "name"))[0]
        if place is None or not name:
            continue
        is_package = place[2] is None and name.startswith("package")
        path = os.path.join(zone, "energy_uj")
        value, why = read_int(path)
        if value is not None and value < 0:
            value, why = None, "a negative counter"
        readings.append(
            measured(
                name if place[2] is None else f"package-{place[1]} {name}",
                "energy",
                (value, DENIED if why == "permission denied" else why),
                at_ms,
                path,
                covers="processor" if is_package else "part",
                every_ms=EVERY_MS,
                wraps_at=_range(zone),
            )
        )
    return readings


def _range(zone: str) -> int | None:
    found = read_int(os.path.join(zone, "max_energy_range_uj"))[0]
    return found if found is not None and found > 0 else None
