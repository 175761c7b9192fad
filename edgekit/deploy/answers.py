"""What an agent's answers look like, and how they are shown: whatever else a device says is taken for no answer."""

from __future__ import annotations

from typing import Any

_Number = (int, float)
_Text = (str, None)  # or nothing
_RELEASE = {"id": str, "role": str, "name": _Text, "bundle": _Text, "edgekit": _Text}
_SIGNER = {"name": str, "type": str, "key": str, "public": str, "min_seq": int, "revoked": bool}
_AGREEMENT = {"variant": str, "count": int, "bit_equal": int, "largest_difference": _Number, "tolerance": _Number}

# operation -> what its answer has, at least. A type; a tuple: one of these; a list: of any number; {str: x}: by any name
ANSWERS: dict[str, Any] = {
    "plan": {"missing": {str: int}, "warning": str},
    "missing": {"missing": {str: int}, "warning": str},
    "put": {"again": [str]},
    "release": {"check": {"variants": [_AGREEMENT]}},
    "trial": {"service": str, "health": (dict, None), "signed": ({"principal": str, "key": str}, None)},
    "service": {"before": str, "service": str, "health": (dict, None)},
    "confirm": {"current": _Text, "previous": _Text},
    "outcome": {"outcome": str, "previous": _Text},
    "rollback": {"current": _Text, "previous": _Text, "left": _Text},
    "adopt": {"current": _Text, "previous": _Text},
    "remove": {"removed": str, "left": str},
    "helper possible": {"why_not": str},
    "helper": {"changed": [str]},
    "points": {"place": str, "service": str},
    "status": {
        "releases": [_RELEASE],
        "used_bytes": int,
        "good": _Text,
        "trial": ({"release": str, "left_s": _Number, "confirm": str}, None),
        "failed": [str],
        "service": _Text,
        "power": {"installed": bool, "active": bool},
    },
    "verify": {"damaged": [str]},
    "samples": {"samples": list},
    "sample": {"data": _Text},
    "logs": {"kind": str, "lines": [str], "cursor": _Text},
    "signers": {"enforced": bool, "signers": [_SIGNER]},
}


def fits(value: Any, wanted: Any) -> bool:
    """Whether `value` is what `wanted` says, in the words above."""
    if isinstance(wanted, tuple):
        return any(fits(value, one) for one in wanted)
    if isinstance(wanted, list):
        return isinstance(value, list) and all(fits(one, wanted[0]) for one in value)
    if isinstance(wanted, dict) and str in wanted:
        return isinstance(value, dict) and all(fits(one, wanted[str]) for one in value.values())
    if isinstance(wanted, dict):
        return isinstance(value, dict) and all(key in value and fits(value[key], one) for key, one in wanted.items())
    if wanted is None:
        return value is None
    return type(value) is bool if wanted is bool else isinstance(value, wanted) and type(value) is not bool


def plain(text: object) -> str:
    """What a device says, as one line that a terminal can show: no control characters, no surrogates."""
    said = str(text or "")
    return said if said.isprintable() else "".join(char if char.isprintable() else "?" for char in said)


def plain_values(value: Any) -> Any:
    """The same of every text in an answer: any of them may be shown."""
    if isinstance(value, str):
        return plain(value)
    if isinstance(value, dict):
        return {plain(key): plain_values(one) for key, one in value.items()}
    return [plain_values(one) for one in value] if isinstance(value, list) else value


def plain_lines(text: str) -> list[str]:
    """The lines of what a device says that are not empty."""
    return [plain(line.strip()) for line in text.splitlines() if line.strip()]
