"""What a Raspberry Pi knows of itself beyond Linux: its firmware's throttle word and clock, the Pi 5's rails."""

from __future__ import annotations

import math
import re

from edgekit.runner.power.reading import ABSENT, ESTIMATED, MEASURED, Reading, alive, matches, measured, read_text
from edgekit.runner.power.vcio import Ask

# bits of the throttle word; the same 16 higher say that it was so since boot, unless somebody cleared them
THROTTLED_NOW = {0: "under-voltage", 1: "clock capped", 2: "throttled", 3: "soft temperature limit"}
NOW = 0xF
WITHOUT_METER = "no current sensor on this board: an INA219 HAT or a meter in the supply is needed"

# Input power of a Pi 5 from the sum over its rails, a fit against a meter from pi-top's documentation; the rails leave out
# the regulators' losses and whatever hangs on USB. Another one, 1.1327 and 0.6444 W (jfikar/RPi5-power), is within 2 %
FIT_SLOPE, FIT_OFFSET_W = 1.1451, 0.5879
_RAIL = re.compile(r"\s*([A-Z0-9_]{1,32})_([AV]) +(?:current|volt)\([0-9]{1,4}\)=([0-9]{1,6}\.?[0-9]{0,12})([AV])\s*")
_WORD = re.compile(r"(?:throttled=)?(?:0x)?([0-9a-fA-F]{1,8})")
_CLOCK = re.compile(r"frequency\([0-9]{1,4}\)=([0-9]{1,12})")


def read_throttling(sys: str, ask: Ask, at_ms: int) -> list[Reading]:
    """The throttle word, from sysfs where this kernel shows it, else from the firmware; and the under-voltage alarm.

    Never `get_throttled MASK`, which would clear the bits that others wait for. The kernel's own rpi_volt driver does
    clear them, every two seconds: who wants to know what happened has to look often and remember (`seen_bits`).
    """
    path = next(iter(matches(sys, "devices/platform/soc*/*firmware/get_throttled")), "")
    text, source = (read_text(path)[0], path) if path else (None, "")
    why = ""
    if text is None:
        source = "get_throttled"
        text, why = ask(source)
    word = parse_throttled(text) if text is not None else None
    why = why or ("" if word is not None else "not a throttle word")
    return [measured("throttle word", "throttle", (word, why), at_ms, source, note=throttle_text(word))]


def parse_throttled(text: str) -> int | None:
    """The bits in `throttled=0x50005` or, as sysfs has it, `50005`."""
    found = _WORD.fullmatch(text.strip())
    return int(found[1], 16) if found else None


def throttle_text(word: int | None) -> str:
    """The word for a person."""
    if word is None:
        return ""
    now = [name for bit, name in THROTTLED_NOW.items() if word >> bit & 1]
    past = [name for bit, name in THROTTLED_NOW.items() if word >> (bit + 16) & 1 and name not in now]
    said = [", ".join(now)] * bool(now) + [f"{', '.join(past)} earlier"] * bool(past)
    return "; ".join(said) or "never"


def read_clock(ask: Ask, at_ms: int) -> list[Reading]:
    """The processor's clock as the firmware measures it; cpufreq does not know when the firmware slows down."""
    text, why = ask("measure_clock arm")
    found = _CLOCK.fullmatch(text.strip()) if text is not None else None
    value = (int(found[1]) or None) if found else None
    why = why or ("" if value is not None else "not a clock")
    return [measured("arm", "clock", (value, why), at_ms, "measure_clock arm")]


def parse_rails(text: str) -> dict[str, dict[str, float]]:
    """Rail -> {"A": ampere, "V": volt} of what pmic_read_adc prints; a rail may have only one. Other lines are left out."""
    rails: dict[str, dict[str, float]] = {}
    for line in text.splitlines():
        found = _RAIL.fullmatch(line)
        if found and found[2] == found[4]:
            rails.setdefault(found[1], {})[found[2]] = float(found[3])
    return rails


def read_pmic(ask: Ask, at_ms: int) -> list[Reading]:
    """A Pi 5's rails (measured) and its input power (estimated from them); on other boards that it has no meter.

    EXT5V and BATT have no current channel. Rails are matched by name: the channel numbers of V and A differ.
    """
    source = "pmic_read_adc"
    text, why = ask(source)
    rails = parse_rails(text) if text is not None else {}
    paired = {name: rail["V"] * rail["A"] for name, rail in rails.items() if len(rail) == 2}
    readings = []
    if "V" in rails.get("EXT5V", {}):
        volts = round(rails["EXT5V"]["V"] * 1e6)
        readings.append(measured("EXT5V", "voltage", (volts, ""), at_ms, source, every_ms=100))
    for name, watts in paired.items():
        note = "drifts with temperature" if name == "3V7_WL_SW" else ""
        microwatts = (round(watts * 1e6), "")
        readings.append(measured(name, "power", microwatts, at_ms, source, covers="part", every_ms=100, note=note))
    if not paired:
        note = why if why and why.startswith("permission") else WITHOUT_METER
        return [*readings, Reading("board", "power", None, ABSENT, at_ms, source, note, "board", 100)]
    value, why = alive((round(math.fsum(paired.values()) * 1e6), ""))
    if value is None:
        return [*readings, Reading("board", "power", None, ABSENT, at_ms, source, why, "board", 100)]
    total = round(FIT_SLOPE * value + FIT_OFFSET_W * 1e6)
    note = f"{FIT_SLOPE} * rails + {FIT_OFFSET_W} W; does not see USB"
    return [*readings, Reading("board", "power", total, ESTIMATED, at_ms, source, note, "board", 100)]


def seen_bits(readings: list[Reading]) -> int:
    """What any of these throttle words said of its own moment: a latch that nobody else can clear."""
    seen = 0
    for reading in readings:
        if reading.quantity == "throttle" and reading.provenance == MEASURED and reading.value is not None:
            seen |= reading.value & NOW
    return seen
