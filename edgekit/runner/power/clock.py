"""Clocks: what cpufreq asks for, how long it asked for each, and the clock and load of a Jetson's GPU."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from edgekit.runner.power.reading import (
    ESTIMATED,
    Reading,
    matches,
    measured,
    parse_int,
    read_int,
    read_text,
    scaled,
)

_GPU = re.compile(r"gpu-gpc-\d+|[\w.-]*gpu[\w.-]*|[0-9]+\.(gv11b|gp10b|ga10b|gb10b)")
_TICK_MS = 10  # cpufreq counts time in hundredths of a second, whatever HZ is


def read_cpu_clocks(sys: str, at_ms: int) -> list[Reading]:
    """Each policy's clock. It is what the kernel asked for: firmware may run another (Pi), so it counts as estimated."""
    readings = []
    for policy in matches(sys, "devices/system/cpu/cpufreq/policy[0-9]*"):
        path = os.path.join(policy, "scaling_cur_freq")
        found = scaled(read_int(path), 1000)
        if found[0] is not None and found[0] <= 0:
            found = None, "0 Hz cannot be"
        more = {"provenance": ESTIMATED, "note": "as asked for"} if found[0] is not None else {}
        readings.append(measured(f"cpu {os.path.basename(policy)}", "clock", found, at_ms, path, **more))
    return readings


def parse_time_in_state(text: str) -> dict[int, int]:
    """Hz -> ms since boot, of cpufreq's stats; lines that are something else are left out."""
    found = {}
    for line in text.splitlines():
        clock, _, ticks = line.strip().partition(" ")
        khz, count = parse_int(clock), parse_int(ticks)
        if khz is not None and count is not None and khz > 0 and count >= 0:
            found[khz * 1000] = count * _TICK_MS
    return found


def read_time_in_state(sys: str) -> dict[str, dict[int, int]]:
    """Policy -> Hz -> ms; without the policies whose kernel keeps no count."""
    texts = {
        os.path.basename(policy): read_text(os.path.join(policy, "stats", "time_in_state"))[0]
        for policy in matches(sys, "devices/system/cpu/cpufreq/policy[0-9]*")
    }
    return {policy: parse_time_in_state(text) for policy, text in texts.items() if text}


def time_between(
    before: Mapping[str, Mapping[int, int]], after: Mapping[str, Mapping[int, int]]
) -> dict[str, dict[int, int]]:
    """Policy -> Hz -> ms spent between two looks. A counter that went backwards (a CPU was off, stats were reset) is left out."""
    spent = {}
    for policy in before.keys() & after.keys():
        clocks = {hz: after[policy][hz] - before[policy][hz] for hz in before[policy].keys() & after[policy].keys()}
        if all(ms >= 0 for ms in clocks.values()):
            spent[policy] = {hz: ms for hz, ms in sorted(clocks.items()) if ms}
    return dict(sorted(spent.items()))


def read_gpu_clocks(sys: str, at_ms: int) -> list[Reading]:
    """Clock and load of an integrated GPU, wherever this JetPack keeps its devfreq."""
    folders = matches(
        sys,
        "class/devfreq/*",  # JetPack 6 and 7
        "devices/*/devfreq/*",  # JetPack 4
        "devices/platform/*/devfreq/*",
        "devices/*/devfreq_dev",  # JetPack 5
        "devices/platform/*/devfreq_dev",
    )
    readings: list[Reading] = []
    seen = set()
    for folder in folders:
        name = os.path.basename(folder)
        if name == "devfreq_dev":
            name = os.path.basename(os.path.dirname(folder))
        if not _GPU.fullmatch(name) or name in seen:
            continue
        seen.add(name)
        path = os.path.join(folder, "cur_freq")
        readings.append(measured(name, "clock", read_int(path), at_ms, path))
        for load in (os.path.join(folder, "device", "load"), os.path.join(folder.split("/devfreq")[0], "load")):
            if os.path.exists(load):
                readings.append(measured(name, "load", _per_mille(read_int(load)), at_ms, load))
                break
    return readings


def _per_mille(found: tuple[int | None, str]) -> tuple[int | None, str]:
    value, why = found
    return (None, "not a load") if value is not None and not 0 <= value <= 1000 else (value, why)
