"""What a person wants of power, as one line of text and as a value; standard library only.

    min_energy(accuracy>=76.5, deadline=50ms)                 least energy above idle, accuracy on average
    max_accuracy(lifetime=24h, battery=40Wh, deadline=100ms)  the battery lasts that long
    max_accuracy(watts=3.6, window=10s, deadline=50ms)        in any window of 10 s, 3.6 W on average
    max_accuracy(temp<=80, deadline=60ms)                     the hottest sensor stays below 80 °C

Limits can be combined, min_energy takes them too. Accuracy is in points of percent, as the manifest measured it.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

from edgekit.errors import InputError

if TYPE_CHECKING:
    from dataclasses import dataclass
else:
    from edgekit.values import dataclass

MIN_ENERGY, MAX_ACCURACY = "min_energy", "max_accuracy"
_SECONDS = {"ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
# key -> (how it is compared, unit -> factor; the first unit is the one that is written)
_TERMS: dict[str, tuple[str, dict[str, float]]] = {
    "accuracy": (">=", {"": 1.0, "%": 1.0}),
    "deadline": ("=", {"ms": 1e-3, "s": 1.0}),
    "lifetime": ("=", {"s": 1.0, **_SECONDS}),
    "battery": ("=", {"J": 1.0, "Wh": 3600.0, "kJ": 1e3}),
    "watts": ("=", {"": 1.0, "W": 1.0}),
    "window": ("=", {"s": 1.0, **_SECONDS}),
    "temp": ("<=", {"": 1.0, "C": 1.0, "°C": 1.0}),
}
_FIELDS = {"accuracy": "accuracy", "deadline": "deadline_s", "lifetime": "lifetime_s", "battery": "battery_j",
           "watts": "watts", "window": "window_s", "temp": "temp_c"}  # fmt: skip
_EXAMPLE = "for example: min_energy(accuracy>=76.5, deadline=50ms) or max_accuracy(temp<=80, deadline=60ms)"
DEFAULT_WINDOW_S = 10.0


@dataclass(frozen=True)
class Goal:
    """One objective and its limits; None is no limit. Raises InputError where they make no sense together."""

    objective: str  # MIN_ENERGY or MAX_ACCURACY
    deadline_s: float  # of each inference, from its arrival
    accuracy: float | None = None  # at least this on average, points of percent
    lifetime_s: float | None = None
    battery_j: float | None = None  # what is in the battery; None: its own gauge says
    watts: float | None = None  # of the whole machine, on average over any window
    window_s: float | None = None
    temp_c: float | None = None

    def __post_init__(self) -> None:
        if self.objective not in (MIN_ENERGY, MAX_ACCURACY):
            raise InputError(f"no objective {self.objective!r}", hint=_EXAMPLE)
        if self.objective == MIN_ENERGY and self.accuracy is None:
            raise InputError("min_energy without accuracy>= would always take the worst variant", hint=_EXAMPLE)
        if self.objective == MAX_ACCURACY and self.accuracy is not None:
            raise InputError("max_accuracy takes no accuracy>=", hint="min_energy(accuracy>=...) keeps one")
        for key, field in _FIELDS.items():
            value = getattr(self, field)
            if value is not None and not (isinstance(value, (int, float)) and math.isfinite(value) and value > 0):
                raise InputError(f"{key} of {value} makes no sense in a goal", hint="give a number above 0")
        if self.accuracy is not None and self.accuracy > 100:
            raise InputError(f"accuracy>={self.accuracy:g} cannot be", hint="it is in percent")
        if self.temp_c is not None and not 20 <= self.temp_c <= 120:
            raise InputError(f"temp<={self.temp_c:g} makes no sense in a goal", hint="degrees Celsius, from 20 to 120")
        if self.window_s is not None and self.watts is None:
            raise InputError("window= says over how long watts= is averaged", hint="give watts= too")
        if self.battery_j is not None and self.lifetime_s is None:
            raise InputError("battery= says what lifetime= has to live on", hint="give lifetime= too")


def parse_goal(text: str) -> Goal:
    """The goal that a text says; InputError names the part that it does not."""
    found = re.fullmatch(r"\s*([a-z_]+)\s*\((.*)\)\s*", text, re.DOTALL)
    if found is None or len(text) > 500:
        raise InputError(f"{text[:80]!r} is not a goal", hint=_EXAMPLE)
    fields: dict[str, float] = {}
    for term in filter(str.strip, found[2].split(",")):
        parts = re.fullmatch(r"\s*([a-z]+)\s*(>=|<=|=)\s*([0-9]{1,12}(?:\.[0-9]{1,18})?)\s*([A-Za-z%°]*)\s*", term)
        if parts is None or parts[1] not in _TERMS:
            raise InputError(f"{term.strip()!r} is no part of a goal", hint=f"known: {', '.join(_TERMS)}; {_EXAMPLE}")
        key, sign, number, unit = parts.groups()
        wanted, units = _TERMS[key]
        if sign not in (wanted, "="):
            raise InputError(f"{term.strip()!r}: {key} is compared with {wanted}", hint=_EXAMPLE)
        if unit not in units:
            known = ", ".join(filter(None, units))
            raise InputError(f"{term.strip()!r}: no unit {unit!r} of {key}", hint=f"known: {known or 'none'}")
        if _FIELDS[key] in fields:
            raise InputError(f"the goal says {key} twice", hint=_EXAMPLE)
        fields[_FIELDS[key]] = float(number) * units[unit]
    if "deadline_s" not in fields:
        raise InputError("a goal needs deadline=: how long an answer may take", hint=_EXAMPLE)
    return Goal(found[1], **fields)


def goal_text(goal: Goal) -> str:
    """The goal as `parse_goal` reads it."""
    terms = []
    for key, (sign, units) in _TERMS.items():
        value = getattr(goal, _FIELDS[key])
        if value is not None:
            unit, factor = next(iter(units.items()))
            terms.append(f"{key}{sign}{_plain(value / factor)}{unit}")
    return f"{goal.objective}({', '.join(terms)})"


def _plain(value: float) -> str:
    return f"{value:.9f}".rstrip("0").rstrip(".")
