"""One look at one sensor, and the only place where files under /sys are read: whatever is in them, nothing is raised."""

from __future__ import annotations

import errno
import glob
import os
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dataclasses import dataclass
else:
    from edgekit.values import dataclass


MEASURED, ESTIMATED, ABSENT = "measured", "estimated", "absent"
MOST_BYTES = 1 << 16  # a file of /sys is one page; a broken one shall not fill the memory

# a quantity's unit: integers, so that nothing is rounded on the way; divided only where a person reads them
UNITS = {
    "temperature": "m°C",
    "power": "uW",
    "energy": "uJ",
    "stored": "uJ",
    "voltage": "uV",
    "clock": "Hz",
    "load": "per mille",
    "fan": "rpm",
    "alarm": "0/1",
    "throttle": "bits",
    "capacity": "%",
}
_NUMBER = re.compile(r"([+-]?[0-9]{1,19})(?: *m[avw])?", re.IGNORECASE)  # JetPack 4 writes limits as "32760 ma"


@dataclass(frozen=True)
class Reading:
    """What one sensor said. `value` is None where it cannot tell, and never 0 instead; `provenance` is then "absent".

    A counter (quantity "energy" of a meter) only grows and starts again after `wraps_at`. `covers` of power and energy
    says what is measured: "board", "gpu", "processor" (less than the board), "part" (counted in another one already) or
    "battery" (what flows into it).
    """

    name: str
    quantity: str  # a key of UNITS
    value: int | None
    provenance: str
    at_ms: int  # when it was read, by the board's monotonic clock
    source: str  # the file or the command
    note: str = ""  # what one has to know, or why it is absent
    covers: str = ""
    every_ms: int = 0  # the sensor has nothing new before that
    wraps_at: int | None = None

    @property
    def unit(self) -> str:
        """The unit of `value`."""
        return UNITS[self.quantity]

    def age_ms(self, now_ms: int) -> int:
        """How long ago it was read."""
        return now_ms - self.at_ms


def measured(name: str, quantity: str, found: tuple[int | None, str], at_ms: int, source: str, **more: Any) -> Reading:
    """The reading of what `read_int` found: absent, with the reason, where there is no number."""
    value, why = found
    if value is None:
        more["note"] = why
    provenance = MEASURED if value is not None else ABSENT
    fields: dict[str, Any] = {"name": name, "quantity": quantity, "value": value, "at_ms": at_ms, "source": source}
    return Reading(**{"provenance": provenance, **fields, **more})


def read_text(path: str) -> tuple[str | None, str]:
    """The text of a file without blanks around it, or None and why not."""
    try:
        with open(path, "rb") as stream:
            return stream.read(MOST_BYTES).decode("utf-8", "replace").strip("\0\n\t "), ""
    except FileNotFoundError:
        return None, "not there"
    except PermissionError:
        return None, "permission denied"
    except OSError as error:  # a sleeping or broken sensor: EAGAIN, EIO, ENODATA, ETIMEDOUT
        name = errno.errorcode.get(error.errno or 0, "an error")
        return None, f"does not answer ({name})"
    except ValueError:  # a NUL in the path
        return None, "not there"


def parse_int(text: str) -> int | None:
    """The number that a file of /sys says, None for anything else."""
    found = _NUMBER.fullmatch(text.strip())
    return int(found[1]) if found else None


def read_int(path: str) -> tuple[int | None, str]:
    """The number in a file, or None and why not."""
    text, why = read_text(path)
    if text is None:
        return None, why
    value = parse_int(text)
    return (value, "") if value is not None else (None, "does not answer with a number")


def scaled(found: tuple[int | None, str], factor: int) -> tuple[int | None, str]:
    """The same in a smaller unit."""
    value, why = found
    return (None if value is None else value * factor), why


def product(left: tuple[int | None, str], right: tuple[int | None, str], divisor: int = 1) -> tuple[int | None, str]:
    """Voltage times current, where both are there."""
    if left[0] is None or right[0] is None:
        return None, left[1] or right[1]
    return left[0] * right[0] // divisor, ""


def alive(found: tuple[int | None, str]) -> tuple[int | None, str]:
    """The power of something that runs, since it answers: zero or less is a dead sensor."""
    value, why = found
    return (None, "0 W cannot be: the sensor is dead") if value is not None and value <= 0 else (value, why)


def matches(root: str, *patterns: str) -> Sequence[str]:
    """The paths under `root` that fit a pattern, numbers in their order, each once."""
    found = [path for pattern in patterns for path in glob.glob(os.path.join(glob.escape(root), pattern))]
    return sorted(dict.fromkeys(found), key=_natural)


def _natural(path: str) -> list[tuple[int, str]]:
    return [
        (int(part), "") if part.isdecimal() and part.isascii() else (-1, part) for part in re.split(r"([0-9]+)", path)
    ]
