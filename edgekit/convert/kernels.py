"""What interpreters and quantizers can do with an operator, from `kernels.toml`: a pure look-up in what was measured."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgekit.convert.flatbuffer import Model
from edgekit.errors import DeviceUnsupported
from edgekit.platforms import Platform, choose_runtime
from edgekit.target import Target
from edgekit.toml import read_toml

BOARD_NUMPY = "1.24.2"  # Debian 12's; where numpy is the board's own, the interpreter does not depend on which
BESIDE = tuple((3, minor) for minor in range(9, 15))  # Pythons that a person may install next to the system's


@functools.cache
def versions(runtime: str) -> Mapping[str, int] | None:
    """Operator -> the highest version that this interpreter ("tflite-runtime==2.14.0") has; None if nobody measured it."""
    by_version = _table()["versions"].get(runtime)
    if by_version is None:
        return None
    return {name: int(version) for version, names in by_version.items() for name in names.split()}


def float_only() -> Mapping[str, str]:
    """Operator that no quantizer makes int8 -> what to do instead."""
    found: Mapping[str, str] = _table()["float_only"]
    return {
        **found,
        **{name: f"convert the float model with edgekit: it writes {how}" for name, how in rewritten().items()},
    }


def rewritten() -> Mapping[str, str]:
    """Operator that no quantizer makes int8, but that edgekit writes otherwise in a float model's main graph -> as what."""
    found: Mapping[str, str] = _table()["rewritten"]
    return found


def custom_operators() -> Sequence[str]:
    """Custom operators whose kernel every interpreter of the table brings along."""
    found: Sequence[str] = _table()["custom"]
    return found


def runtimes(target: Target) -> Mapping[str, Sequence[str]]:
    """Interpreter ("tflite-runtime==2.14.0") -> the target's systems that get it.

    A system whose own Python is too old counts with the oldest one that can be put beside it, as deploying tells people
    to do; one for which no Python helps is left out.
    """
    found: dict[str, list[str]] = {}
    for system in target.systems:
        major, minor = (int(part) for part in system.python.split("."))
        for python in ((major, minor), *BESIDE):
            try:
                requirements = choose_runtime(Platform(python, target.arch, f"glibc {system.glibc}", BOARD_NUMPY))
            except DeviceUnsupported:
                continue
            found.setdefault(requirements.requirements[0], []).append(system.os)
            break
    return found


def too_new(model: Model, runtime: str) -> dict[tuple[str, int], tuple[int | None, int]]:
    """(operator, version) that this interpreter does not have -> (highest version that it has or None, first operator).

    Empty when the interpreter was not measured.
    """
    known = versions(runtime)
    found: dict[tuple[str, int], tuple[int | None, int]] = {}
    for graph in model.subgraphs if known is not None else ():
        for operator in graph.operators:
            highest = known.get(operator.name) if known is not None else None
            if not operator.custom and operator.version > (highest or 0):
                found.setdefault((operator.name, operator.version), (highest, operator.index))
    return found


@functools.cache
def _table() -> dict[str, Any]:
    return read_toml(Path(__file__).with_name("kernels.toml"))
