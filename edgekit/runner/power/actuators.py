"""What a runner can set without any right: the cores it runs on, its threads, and how much of the time it works."""

from __future__ import annotations

import os
import time
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
    """How to run: which variant, on how many threads and which cores, and for which share of the time."""

    variant: str
    threads: int
    cpus: tuple[int, ...] = ()  # () leaves them as they are
    duty: float = 1.0  # above 0, at most 1

    def __post_init__(self) -> None:
        if self.threads < 1 or not 0 < self.duty <= 1 or any(cpu < 0 for cpu in self.cpus):
            raise InputError(f"{self} is no operating point", hint="threads from 1 on, duty above 0 and at most 1")


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


class DutyCycle:
    """Rests after work so that work fills at most `share` of the time; a power and heat cap that needs no right.

    What was rested too long (a slow timer, a pause between requests) counts for the next rests, up to `credit_s`.
    """

    def __init__(
        self,
        share: float,
        *,
        credit_s: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if not 0 < share <= 1:
            raise InputError(f"a duty cycle of {share} makes no sense", hint="above 0 and at most 1")
        self._share, self._credit_s, self._clock, self._sleep = share, credit_s, clock, sleep
        self._owed_s = 0.0  # rest that is due; below 0: rested ahead
        self._seen = clock()

    @contextmanager
    def work(self) -> Iterator[None]:
        """Around one piece of work; rests behind it if rest is due."""
        started = self._clock()
        self._rested(started)
        try:
            yield
        finally:
            ended = self._clock()
            self._seen = ended
            self._owed_s += max(0.0, ended - started) * (1 - self._share) / self._share
            if self._owed_s > 0:
                self._sleep(self._owed_s)
                self._rested(self._clock())

    def _rested(self, now: float) -> None:
        self._owed_s = max(self._owed_s - max(0.0, now - self._seen), -self._credit_s)
        self._seen = now
