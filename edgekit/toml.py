"""Reads hand-written TOML files on the workstation; TOML never reaches a board, whose Python may have no reader for it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from edgekit.errors import InputError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def read_toml(path: Path) -> dict[str, Any]:
    """The file's content. Raises InputError if it cannot be read or is not TOML."""
    if path.exists() and not path.is_file():
        raise InputError(f"{path} is not a file", hint="check the path")
    try:
        fields: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}", hint="check the path") from error
    except ValueError as error:  # not UTF-8, or not TOML
        raise InputError(f"{path} is not TOML: {error}", hint="see https://toml.io") from error
    return fields
