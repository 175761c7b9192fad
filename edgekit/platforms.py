"""Which interpreter wheels run on which device: a pure decision over the rows of `platforms.toml`.

    platform = Platform(python=(3, 11), arch="aarch64", libc="glibc 2.36", has_numpy=None)
    runtime = choose_runtime(platform)
    runtime.requirements    # ('ai-edge-litert==2.3.0', 'numpy==2.4.6'): complete, `pip download --no-deps`
    runtime.pip_tags        # ('manylinux_2_36_aarch64', ..., 'manylinux_2_17_aarch64', 'manylinux2014_aarch64')
    is_pruned("numpy/tests/test_x.py", runtime.prune)   # True: leave that file at home

Either everything the runner imports is in the answer, or DeviceUnsupported says what is missing and what to do.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from edgekit.errors import DeviceUnsupported
from edgekit.toml import read_toml

OLDEST_MANYLINUX = 17  # manylinux_2_17 = manylinux2014: no wheel that we pin is older

Version = tuple[int, ...]


@dataclass(frozen=True)
class Platform:
    """What a device said about itself. `arch` is the userland's: 32-bit Raspberry Pi OS is armv7l on any kernel."""

    python: tuple[int, int]
    arch: str
    libc: str  # "glibc 2.36", "musl 1.2", or "" when it could not tell
    has_numpy: str | None  # version that the device's own python3 imports


@dataclass(frozen=True)
class Runtime:
    """What to put on a device, complete: nothing else is imported by the runner."""

    interpreter: str  # "ai-edge-litert" or "tflite-runtime"
    requirements: tuple[str, ...]  # "name==version", for pip download --no-deps
    pip_tags: tuple[str, ...]  # every platform tag the device accepts, newest first: pip does not widen them itself
    board_packages: tuple[str, ...]  # Debian packages that the board must bring itself
    images: tuple[str, ...]  # more requirements, only to open image files on the board
    compiled: bool  # CompiledModel is in it: a GPU, or packed weights in a file
    prune: tuple[str, ...]  # patterns for is_pruned


@dataclass(frozen=True)
class Row:
    """One [[runtime]] of platforms.toml."""

    python: tuple[Version, ...]
    arch: tuple[str, ...]
    glibc: Version
    interpreter: str
    requirements: tuple[str, ...]
    images: tuple[str, ...]
    compiled: tuple[str, ...]
    board_packages: tuple[str, ...]
    board_numpy_min: Version
    board_numpy_below: Version


@dataclass(frozen=True)
class Missing:
    """One [[missing]]: a Python that people will have, and the way out."""

    python: Version
    arch: str
    hint: str


@dataclass(frozen=True)
class Prune:
    """One [[prune]]: files that a CPU run never opens."""

    patterns: tuple[str, ...]
    only: str  # a requirement, "" = always
    unless: str  # "compiled": not where CompiledModel is wanted; "" = always


@dataclass(frozen=True)
class Table:
    """platforms.toml, read."""

    runtimes: tuple[Row, ...]
    missing: tuple[Missing, ...]
    prunes: tuple[Prune, ...]


@functools.cache
def read_table() -> Table:
    """The table that ships beside this module."""
    fields = read_toml(Path(__file__).with_name("platforms.toml"))
    return Table(
        runtimes=tuple(_row(row) for row in fields["runtime"]),
        missing=tuple(Missing(_version(row["python"]), row["arch"], row["hint"]) for row in fields["missing"]),
        prunes=tuple(
            Prune(tuple(row["patterns"]), row.get("only", ""), row.get("unless", "")) for row in fields["prune"]
        ),
    )


def choose_runtime(platform: Platform, *, compiled: bool = False) -> Runtime:
    """The newest interpreter that this device can load, with everything it needs.

    `compiled`: with LiteRT's CompiledModel, where that interpreter has a usable one; a board without it falls back, and says so.
    """
    table = read_table()
    if all(platform.arch not in row.arch for row in table.runtimes):
        raise DeviceUnsupported(
            f"no interpreter has wheels for {platform.arch or 'an unknown processor'}",
            hint=f"edgekit runs on {', '.join(sorted({arch for row in table.runtimes for arch in row.arch}))}",
        )
    glibc = _glibc(platform)
    where = f"Python {_text(platform.python)} on {platform.arch}"
    fits_python = [row for row in table.runtimes if platform.arch in row.arch and platform.python in row.python]
    if not fits_python:
        raise DeviceUnsupported(
            f"no interpreter wheel for {where}",
            hint=_way_out(platform, table.missing) or describe_wheels(platform.arch),
        )
    row = next((row for row in fits_python if row.glibc <= glibc), None)
    if row is None:
        raise DeviceUnsupported(
            f"glibc {_text(glibc)} is too old for every interpreter wheel for {where}",
            hint=describe_wheels(platform.arch),
        )
    _check_numpy(row, platform)
    compiled = compiled and bool(row.compiled)
    return Runtime(
        interpreter=row.interpreter,
        requirements=(*row.requirements, *(row.compiled if compiled else ())),
        pip_tags=pip_tags(platform.arch, glibc),
        board_packages=row.board_packages,
        images=row.images,
        compiled=compiled,
        prune=tuple(
            pattern
            for prune in table.prunes
            if (not prune.only or prune.only in row.requirements) and not (compiled and prune.unless == "compiled")
            for pattern in prune.patterns
        ),
    )


def pip_tags(arch: str, glibc: Version) -> tuple[str, ...]:
    """Every manylinux tag that a device with this glibc accepts, newest first."""
    minors = range(glibc[1], OLDEST_MANYLINUX - 1, -1)
    return (*(f"manylinux_2_{minor}_{arch}" for minor in minors), f"manylinux2014_{arch}")


def is_pruned(path: str, patterns: Iterable[str]) -> bool:
    """Whether the file at this path inside the unpacked tree ("numpy/tests/x.py", with /) stays at home."""
    return any(fnmatchcase(path, pattern) for pattern in patterns)


def describe_wheels(arch: str) -> str:
    """One line: which wheels exist for this processor, by interpreter."""
    lowest: dict[tuple[str, Version], set[Version]] = {}  # one glibc can do, by interpreter -> the Pythons
    rows = [row for row in read_table().runtimes if arch in row.arch]
    for interpreter in dict.fromkeys(row.interpreter for row in rows):
        own = [row for row in rows if row.interpreter == interpreter]
        for python in {python for row in own for python in row.python}:
            glibc = min(row.glibc for row in own if python in row.python)
            lowest.setdefault((interpreter, glibc), set()).add(python)
    parts = [
        f"{interpreter} has wheels for Python {_span(pythons)} on {arch} with glibc >= {_text(glibc)}"
        for (interpreter, glibc), pythons in sorted(lowest.items(), key=lambda item: (item[0][0], item[0][1]))
    ]
    return "; ".join(parts)


def _glibc(platform: Platform) -> Version:
    """The device's glibc, or DeviceUnsupported."""
    match = re.fullmatch(r"glibc (2)\.(\d+)", platform.libc)
    if match:
        return (int(match[1]), int(match[2]))
    if platform.libc.startswith("musl"):
        raise DeviceUnsupported(
            f"no interpreter has wheels for {platform.libc}",
            hint=f"use a system with glibc (Debian, Raspberry Pi OS, Ubuntu): {describe_wheels(platform.arch)}",
        )
    raise DeviceUnsupported(
        f"cannot tell the device's C library ({platform.libc or 'it said nothing'})",
        hint=f"run `ldd --version` there: {describe_wheels(platform.arch)}",
    )


def _way_out(platform: Platform, missing: tuple[Missing, ...]) -> str:
    return next((row.hint for row in missing if (row.python, row.arch) == (platform.python, platform.arch)), "")


def _check_numpy(row: Row, platform: Platform) -> None:
    """Where numpy is the board's own package, it has to be there and of the right age."""
    if not row.board_packages:
        return
    what = f"{_text(row.board_numpy_min)} or newer, below {_text(row.board_numpy_below)}"
    install = f"sudo apt install {' '.join(row.board_packages)}"
    if platform.has_numpy is None:
        raise DeviceUnsupported(
            f"numpy is missing on the device, and there is no numpy wheel for {platform.arch}",
            hint=f"on the device: {install} (numpy {what})",
        )
    numpy = _version(platform.has_numpy)
    if not row.board_numpy_min <= numpy < row.board_numpy_below:
        raise DeviceUnsupported(
            f"the device's numpy {platform.has_numpy} does not fit {row.requirements[0]} (it needs {what})",
            hint=f"on the device: remove that numpy (pip uninstall numpy), then {install}",
        )


def _row(fields: dict[str, Any]) -> Row:
    return Row(
        python=tuple(_version(text) for text in fields["python"]),
        arch=tuple(fields["arch"]),
        glibc=_version(fields["glibc"]),
        interpreter=fields["interpreter"],
        requirements=tuple(fields["requirements"]),
        images=tuple(fields["images"]),
        compiled=tuple(fields.get("compiled", ())),
        board_packages=tuple(fields.get("board_packages", ())),
        board_numpy_min=_version(fields.get("board_numpy_min", "0")),
        board_numpy_below=_version(fields.get("board_numpy_below", "0")),
    )


def _version(text: str) -> Version:
    """ "1.24.2" or "1:1.24.2-1" or "2.0.0rc1" as numbers, as far as they are plain."""
    return tuple(int(part) for part in re.findall(r"\d+", re.split(r"[^\d.]", text.split(":")[-1])[0]))


def _text(version: Version) -> str:
    return ".".join(str(part) for part in version)


def _span(pythons: set[Version]) -> str:
    """ "3.9-3.14", or "3.11"."""
    first, last = min(pythons), max(pythons)
    return _text(first) if first == last else f"{_text(first)}-{_text(last)}"
