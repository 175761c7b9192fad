"""What a device says, as text for people and as numbers."""

from __future__ import annotations

import re

_LONGEST_CITED = 160  # characters


def plain(text: object) -> str:
    """What a device says, as one line that a terminal can show."""
    return "".join(char if char.isprintable() else "?" for char in str("" if text is None else text))


def cited(text: str) -> str:
    """The beginning of a longer text, on one line."""
    line = plain(" | ".join(part.strip() for part in text.splitlines() if part.strip()))
    return line if len(line) <= _LONGEST_CITED else line[: _LONGEST_CITED - 1] + "…"


def whole(text: str | None) -> int | None:
    """A whole number at the beginning of a text."""
    match = re.match(r"\s*(0x[0-9a-fA-F]{1,16}|-?\d{1,18})\b", text or "", re.ASCII)
    return int(match[1], 0 if "x" in match[1] else 10) if match else None


def version_of(text: str | None) -> tuple[int, ...]:
    """ "2.16.1" as numbers, as far as they go; () for none."""
    match = re.match(r"\d{1,6}(\.\d{1,6})*", text or "", re.ASCII)
    return tuple(int(part) for part in match[0].split(".")) if match else ()
