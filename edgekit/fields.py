"""Strict JSON: an object is taken apart key by key, each with its type; a missing, unknown or doubled one is an error.

Standard library only: this file also runs on the device (Python >= 3.9).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgekit.errors import BundleError

AGAIN = "make the bundle again, or copy it again"


def read_json(text: bytes, name: str) -> Any:
    """The JSON of a file called so. Raises BundleError for what is none, for NaN and Infinity, and for a key twice."""
    import json

    def refuse_constant(constant: str) -> Any:
        raise ValueError(f"{constant} is not a JSON number")

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        fields = dict(pairs)
        if len(fields) != len(pairs):
            raise ValueError("an object has a key twice")
        return fields

    try:
        return json.loads(text, parse_constant=refuse_constant, object_pairs_hook=once)
    except (ValueError, RecursionError) as error:  # a nesting too deep for Python is not a manifest either
        raise BundleError(f"{name} is not JSON: {error}", hint=AGAIN) from error


class Fields:
    """A JSON object being taken apart: each key once, with its type; what is left over at the end is an error."""

    def __init__(self, fields: Mapping[str, Any], where: str) -> None:
        self._left = dict(fields)
        self._where = where

    def _take(self, key: str) -> Any:
        try:
            return self._left.pop(key)
        except KeyError:
            raise BundleError(f"{self._where} has no {key!r}", hint=AGAIN) from None

    def text(self, key: str) -> str:
        return as_text(self._take(key), f"{self._where}: {key!r}")

    def optional_text(self, key: str) -> str | None:
        return self._take(key) if self._left.get(key, "") is None else self.text(key)

    def texts(self, key: str) -> Mapping[str, str]:
        return {name: as_text(value, f"{self._where}: {key!r}") for name, value in self.mapping(key).items()}

    def integer(self, key: str) -> int:
        return as_integer(self._take(key), f"{self._where}: {key!r}")

    def optional_integer(self, key: str) -> int | None:
        return self._take(key) if self._left.get(key, "") is None else self.integer(key)

    def number(self, key: str) -> float:
        value = self._take(key)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not -1e300 < value < 1e300:
            raise BundleError(f"{self._where}: {key!r} must be a number", hint=AGAIN)
        return float(value)

    def optional_number(self, key: str) -> float | None:
        return self._take(key) if self._left.get(key, "") is None else self.number(key)

    def mapping(self, key: str) -> Mapping[str, Any]:
        return as_object(self._take(key), f"{self._where}: {key!r}")

    def array(self, key: str) -> list[Any]:
        value = self._take(key)
        if not isinstance(value, list):
            raise BundleError(f"{self._where}: {key!r} must be a list", hint=AGAIN)
        return value

    def objects(self, key: str) -> list[Fields]:
        return [Fields(as_object(item, key), f"{self._where}: {key}") for item in self.array(key)]

    def has(self, key: str) -> bool:
        return key in self._left

    def optional_object(self, key: str) -> Fields | None:
        """The object of that key; None if there is none."""
        return Fields(self.mapping(key), f"{self._where}: {key!r}") if key in self._left else None

    def done(self) -> None:
        if self._left:
            raise BundleError(f"{self._where} has unknown keys: {', '.join(sorted(self._left))}", hint=AGAIN)

    def expect(self, fits: bool, wanted: str) -> None:
        if not fits:
            raise BundleError(f"{self._where}: {wanted}", hint=AGAIN)


def as_object(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise BundleError(f"{where} must be an object", hint=AGAIN)
    return value


def as_text(value: Any, where: str) -> str:
    # half a surrogate pair can be written in JSON, but not printed
    try:
        value.encode()
    except (AttributeError, UnicodeEncodeError):
        raise BundleError(f"{where} must be a text", hint=AGAIN) from None
    return str(value)


def as_integer(value: Any, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise BundleError(f"{where} must be a whole number", hint=AGAIN)
    return value


def as_whole(value: Any, where: str) -> int:
    if as_integer(value, where) < 0:
        raise BundleError(f"{where} must not be negative", hint=AGAIN)
    return int(value)


def shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 20 else text[:17] + "..."
