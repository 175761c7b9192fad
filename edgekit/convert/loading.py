"""How a source model is loaded: what a person allows, brings along, and means of several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgekit.errors import InputError


@dataclass(frozen=True)
class Loading:
    """The options of `convert` that are for its front ends."""

    trust: bool = False  # code that is in the file may run
    custom: tuple[str, ...] = ()  # files, or modules to import, that define what the file names: run as they are
    signature: str | None = None  # of a SavedModel with several


def check_loading(kind: str, trust: bool, custom: Sequence[str], signature: str | None) -> Loading:
    """The options, with the files' paths made absolute. InputError for one that a model of this kind has no use for."""
    if signature is not None and kind != "saved_model":
        raise InputError("only a SavedModel has signatures to choose from", hint="leave out --signature")
    if (trust and kind not in ("keras", "saved_model", "pt2")) or (custom and kind not in ("keras", "saved_model")):
        raise InputError("no code comes with such a model", hint="leave out --trust and --custom")
    found = []
    for given in map(str, custom):
        if given.endswith(".py"):
            path = Path(given)
            if not path.is_file():
                raise InputError(f"{given} does not exist", hint="--custom takes a Python file, or a module's name")
            found.append(str(path.absolute()))
        elif all(part.isidentifier() for part in given.split(".")):
            found.append(given)
        else:
            raise InputError(f"{given!r} is no module", hint="--custom takes a Python file, or a module's name")
    return Loading(trust, tuple(found), signature)
