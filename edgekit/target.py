"""One kind of board, read from targets/*.toml: a board is a file, never an `if`.

    load_target("rpi4").threads             # 3
    target_names()                          # ['coral-dev-board', ..., 'x86-64']

The file is written by hand, so it is read strictly: a key too many, a key missing or a value of the wrong kind is an
InputError that names file and key. Standard library (and tomli on Python 3.10).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgekit.delegates import NAMES, misfit
from edgekit.errors import InputError, UnknownTarget
from edgekit.manifest import Delegate as Configured
from edgekit.toml import read_toml

ARCHES = ("aarch64", "armv7l", "x86_64")

_REQUIRED = {"description", "arch", "cpu", "features", "threads", "systems", "delegate", "source"}
_OPTIONAL = {"cores", "cpu_mhz_max", "memory_mb", "throttle_at_mc", "idle_mw", "busy_mw"}


@dataclass(frozen=True)
class System:
    """An operating system that people have on such a board, with its own python3."""

    os: str
    python: str  # "3.11"
    glibc: str  # "2.36"
    note: str  # what to do or to know, "" when there is nothing


@dataclass(frozen=True)
class Delegate:
    """What runs the model, in the order to try them; edgekit.delegates has the options."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Target:
    """A kind of board. None = not known or not the same for all of them."""

    name: str
    description: str
    arch: str  # of the userland the target is meant for
    cpu: str
    cores: int | None
    cpu_mhz_max: int | None
    memory_mb: int | None  # of the smallest version
    features: tuple[str, ...]  # as in /proc/cpuinfo
    threads: int  # of an interpreter, unless the user says otherwise
    throttle_at_mc: int | None  # the SoC slows down from here, thousandths of °C
    idle_mw: int | None  # what the board draws at rest, and with every core busy, where somebody measured it
    busy_mw: int | None
    systems: tuple[System, ...]
    delegates: tuple[Delegate, ...]
    sources: tuple[str, ...]


def targets_folder() -> Path:
    """Package data in an installed edgekit, the repository's folder in a checkout."""
    installed = Path(__file__).parent / "_targets"
    return installed if installed.is_dir() else Path(__file__).resolve().parents[1] / "targets"


def target_names() -> list[str]:
    """Every kind of board that edgekit knows."""
    return sorted(path.stem for path in targets_folder().glob("*.toml"))


def load_target(name: str) -> Target:
    """The target of that name; UnknownTarget lists the names there are."""
    names = target_names()
    if name not in names:  # also keeps "../x" and "/etc/x" out: no name has a slash
        close = difflib.get_close_matches(name.lower(), names, n=1)
        guess = f"did you mean {close[0]}? " if close else ""
        raise UnknownTarget(f"no target {name!r}", hint=f"{guess}known: {', '.join(names)}")
    return read_target(targets_folder() / f"{name}.toml")


def read_target(path: Path) -> Target:
    """Read one target file, strictly."""
    fields = read_toml(path)
    _check_keys(path, "", fields, _REQUIRED, _OPTIONAL)
    target = Target(
        name=path.stem,
        description=_text(path, "description", fields["description"]),
        arch=_one_of(path, "arch", fields["arch"], ARCHES),
        cpu=_text(path, "cpu", fields["cpu"]),
        cores=_number(path, "cores", fields.get("cores")),
        cpu_mhz_max=_number(path, "cpu_mhz_max", fields.get("cpu_mhz_max")),
        memory_mb=_number(path, "memory_mb", fields.get("memory_mb")),
        features=tuple(_text(path, "features", one) for one in _list(path, "features", fields["features"])),
        threads=_threads(path, fields),
        throttle_at_mc=_number(path, "throttle_at_mc", fields.get("throttle_at_mc")),
        idle_mw=_number(path, "idle_mw", fields.get("idle_mw")),
        busy_mw=_number(path, "busy_mw", fields.get("busy_mw")),
        systems=tuple(_system(path, index, one) for index, one in _tables(path, "systems", fields["systems"])),
        delegates=tuple(_delegate(path, index, one) for index, one in _tables(path, "delegate", fields["delegate"])),
        sources=tuple(_text(path, "source", one) for one in _list(path, "source", fields["source"])),
    )
    if target.throttle_at_mc is not None and not 30_000 <= target.throttle_at_mc <= 130_000:
        raise InputError(f"{path}: throttle_at_mc = {target.throttle_at_mc} is no temperature in thousandths of °C")
    return target


def _system(path: Path, index: int, fields: dict[str, Any]) -> System:
    key = f"systems[{index}]"
    _check_keys(path, f"{key}.", fields, {"os", "python", "glibc"}, {"note"})
    return System(
        os=_text(path, f"{key}.os", fields["os"]),
        python=_version(path, f"{key}.python", fields["python"]),
        glibc=_version(path, f"{key}.glibc", fields["glibc"]),
        note=_text(path, f"{key}.note", fields["note"]) if "note" in fields else "",
    )


def _delegate(path: Path, index: int, fields: dict[str, Any]) -> Delegate:
    key = f"delegate[{index}]"
    _check_keys(path, f"{key}.", fields, {"name"}, {"options"})
    name = _one_of(path, f"{key}.name", fields["name"], NAMES)
    options = fields.get("options", {})
    why = misfit(Configured(name, options)) if isinstance(options, dict) else "options are a table"
    if why:
        raise InputError(f"{path}: {key}: {why}")
    return Delegate(name, options)


def _threads(path: Path, fields: dict[str, Any]) -> int:
    threads = _number(path, "threads", fields["threads"]) or 1
    cores = _number(path, "cores", fields.get("cores")) or threads
    if threads > cores:
        raise InputError(f"{path}: threads = {threads} is more than its {cores} cores")
    return threads


def _check_keys(path: Path, where: str, fields: dict[str, Any], required: set[str], optional: set[str]) -> None:
    missing = sorted(required - fields.keys())
    unknown = sorted(fields.keys() - required - optional)
    if missing:
        raise InputError(f"{path}: missing key {where}{missing[0]}")
    if unknown:
        close = difflib.get_close_matches(unknown[0], required | optional, n=1)
        raise InputError(
            f"{path}: unknown key {where}{unknown[0]}",
            hint=f"did you mean {close[0]}?" if close else f"known: {', '.join(sorted(required | optional))}",
        )


def _text(path: Path, key: str, value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{path}: {key} = {value!r} is not a text")
    return value


def _one_of(path: Path, key: str, value: object, allowed: tuple[str, ...]) -> str:
    text = _text(path, key, value)
    if text not in allowed:
        raise InputError(f"{path}: {key} = {value!r} is not one of {', '.join(allowed)}")
    return text


def _version(path: Path, key: str, value: object) -> str:
    text = _text(path, key, value)
    if not re.fullmatch(r"\d+\.\d+", text):
        raise InputError(f'{path}: {key} = {value!r} is not a version like "3.11"')
    return text


def _number(path: Path, key: str, value: object) -> int | None:
    """A whole number above zero; None (the key is absent) stays None."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
        raise InputError(f"{path}: {key} = {value!r} is not a whole number above 0")
    return value


def _list(path: Path, key: str, value: object) -> list[object]:
    if not isinstance(value, list):
        raise InputError(f"{path}: {key} = {value!r} is not a list")
    return value


def _tables(path: Path, key: str, value: object) -> list[tuple[int, dict[str, Any]]]:
    """The tables of [[key]], at least one, numbered."""
    tables = [one for one in _list(path, key, value) if isinstance(one, dict)]
    if not tables or tables != value:
        raise InputError(f"{path}: {key} has to be at least one [[{key}]] table")
    return list(enumerate(tables))
