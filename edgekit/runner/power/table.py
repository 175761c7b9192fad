"""Readings and energies as a person reads them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

# unit -> (divisor, places after the point, unit for a person)
_SHOWN = {
    "m°C": (1e3, 1, "°C"),
    "uW": (1e6, 3, "W"),
    "uJ": (1e6, 3, "J"),
    "uV": (1e6, 3, "V"),
    "Hz": (1e6, 0, "MHz"),
    "per mille": (10, 1, "%"),
}

COLUMNS = ("sensor", "quantity", "value", "provenance", "")


def value_text(reading: Mapping[str, Any]) -> str:
    """`49.9 °C`, `3.420 W`; `-` where nobody can tell."""
    value, unit = reading["value"], reading["unit"]
    if value is None:
        return "-"
    if unit == "bits":
        return f"{value:#x}"
    if unit == "0/1":
        return "yes" if value else "no"
    divisor, places, shown = _SHOWN.get(unit, (1, 0, unit))
    return f"{value / divisor:.{places}f} {shown}"


def reading_rows(found: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """A row for each reading, under COLUMNS. A counter's own value says nothing to a person: its mean power is shown."""
    powers = {(e["name"], e["covers"]): e for e in found["energies"]}
    rows: list[tuple[str, ...]] = []
    for reading in found["readings"]:
        row = dict(reading)
        quantity, note = row["quantity"], row["note"]
        if quantity == "energy" and row["value"] is not None:
            mean = powers.get((row["name"], row["covers"]), {}).get("power_uw")
            row.update(value=mean, unit="uW")
            told = f"mean over {found['watched_ms'] / 1000:.1f} s, from its counter"
            quantity, note = "power", note or (told if mean is not None else "a counter: watch it for a while")
        if row["age_ms"] > 1000:
            note = "; ".join(filter(None, (f"{row['age_ms'] / 1000:.1f} s old", note)))
        rows.append((row["name"], quantity, value_text(row), row["provenance"], note))
    return rows


def energy_text(energy: Mapping[str, Any]) -> str:
    """One meter's energy, with what was not measured."""
    if energy["energy_uj"] is None:
        return "not measured"
    text = f"{energy['energy_uj'] / 1e6:.3f} J in {energy['covered_ms'] / 1000:.1f} s, {energy['provenance']}"
    if energy["power_uw"] is not None:
        text += f", mean {energy['power_uw'] / 1e6:.3f} W"
    if energy["gap_ms"]:
        gaps = "a gap" if energy["gaps"] == 1 else f"{energy['gaps']} gaps"
        text += f"; {energy['gap_ms'] / 1000:.1f} s not measured, in {gaps}"
    return text


def summary(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What the table cannot say: the machine's energy, what throttled meanwhile, and which clocks ran."""
    meter = found["main_meter"]
    lines = []
    if meter is None:
        lines.append(("energy", "no meter on this machine that may be read"))
    for energy in found["energies"]:
        if meter and (energy["name"], energy["covers"]) == (meter["name"], meter["covers"]):
            lines.append((f"energy ({meter['covers']})", energy_text(energy)))
            break
    if found["throttled_meanwhile"]:
        lines.append(("throttled", ", ".join(found["throttled_meanwhile"])))
    for policy, clocks in found["time_in_state_ms"].items():
        total = sum(clocks.values())
        shares = (f"{int(hz) / 1e6:.0f} MHz {100 * ms / total:.0f} %" for hz, ms in clocks.items())
        if total:
            lines.append((policy, ", ".join(shares)))
    return lines


def power_lines(found: Mapping[str, Any]) -> Iterator[str]:
    """The table and what is below it, for a terminal without any library."""
    rows = [COLUMNS, *reading_rows(found)]
    widths = [max(len(row[index]) for row in rows) for index in range(len(COLUMNS))]
    for row in rows:
        cells = (f"{cell:>{w}}" if index == 2 else f"{cell:<{w}}" for index, (cell, w) in enumerate(zip(row, widths)))
        yield "  ".join(cells).rstrip()
    for name, text in summary(found):
        yield f"{name}  {text}"
