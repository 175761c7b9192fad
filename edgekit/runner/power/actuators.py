"""What a runner can set: variant, threads and cores without any right, the clock through `powerd`."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager
from typing import TYPE_CHECKING

from edgekit.errors import InputError

if TYPE_CHECKING:
    from dataclasses import dataclass
else:
    from edgekit.values import dataclass


@dataclass(frozen=True)
class OperatingPoint:
    """How to run: which variant, on how many threads and which cores, at which clock, on which delegate at which level."""

    variant: str
    threads: int
    cpus: tuple[int, ...] = ()  # () leaves them as they are
    clock_khz: int | None = None  # the highest clock allowed; None leaves it to the governor
    delegate: str = (
        ""  # as delegates.py reads it, a Coral's clock level (performance=Low) with it; "": the bundle's own list
    )

    def __post_init__(self) -> None:
        if self.threads < 1 or any(cpu < 0 for cpu in self.cpus) or (self.clock_khz is not None and self.clock_khz < 1):
            raise InputError(f"{self} is no operating point", hint="threads and clock from 1 on")

    @property
    def unit(self) -> str:
        """Where it runs: cpu, gpu, edgetpu, external; "" where the bundle's list decides."""
        return self.delegate.partition(":")[0]

    @property
    def level(self) -> str:
        """The clock level of an Edge TPU, "" where none is said. It is set when the device is opened, for all that use it."""
        found = re.search(r"[:,]performance=(\w+)", self.delegate) if self.unit == "edgetpu" else None
        return found[1] if found else ""

    @property
    def words(self) -> str:
        """For a person."""
        clock = "" if self.clock_khz is None else f", {self.clock_khz} kHz"
        where = "" if not self.delegate else f", {self.unit}" + (f" {self.level}" if self.level else "")
        precision = re.search(r"[:,]precision=(\w+)", self.delegate)
        return f"{self.variant}, {self.threads} threads{clock}{where}" + (f" {precision[1]}" if precision else "")


@contextmanager
def on_cpus(
    cpus: tuple[int, ...],
    *,
    get: Callable[[int], Set[int]] = os.sched_getaffinity,
    put: Callable[[int, Set[int]], None] = os.sched_setaffinity,
) -> Iterator[None]:
    """This thread, and those it starts, on these cores only; afterwards as before. Threads that run already stay where they are.

    Raises InputError for cores that this process may not use: a container or a service may have fewer than the board.
    """
    allowed = get(0)
    wanted = set(cpus) or set(allowed)
    if not wanted <= set(allowed):
        lacking = ", ".join(str(cpu) for cpu in sorted(wanted - set(allowed)))
        raise InputError(f"this process may not use CPU {lacking}", hint=f"there are: {sorted(allowed)}")
    put(0, wanted)
    try:
        yield
    finally:
        put(0, allowed)
