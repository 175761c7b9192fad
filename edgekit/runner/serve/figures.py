"""What the service knows of itself: how long answers took, its memory, and whether its model still answers as it should."""

from __future__ import annotations

import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from edgekit.errors import EdgekitError
from edgekit.runner.check import compare_golden, golden_inputs
from edgekit.runner.model import Model

RECENT = 1000  # samples, of which p95 is


class Figures:
    """Counts and times. Safe from several threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._taken_ms: deque[float] = deque(maxlen=RECENT)
        self._inferences = 0
        self._passed_at = -math.inf
        self._healthy = True

    def answered(self, taken_s: float) -> None:
        """A client's sample was answered; the time is all that it waited for the model and the model's own."""
        with self._lock:
            self._taken_ms.append(taken_s * 1000)
            self._inferences += 1
            self._passed_at = self._clock()

    def checked(self, taken_s: float, passed: bool) -> None:
        """A check of our own was made."""
        with self._lock:
            self._healthy = passed
            if passed:
                self._taken_ms.append(taken_s * 1000)
                self._passed_at = self._clock()

    def forget(self) -> None:
        """Nothing was counted yet."""
        with self._lock:
            self._taken_ms.clear()
            self._inferences = 0

    @property
    def is_healthy(self) -> bool:
        """False after a check that failed, until one passes."""
        return self._healthy

    def has_passed_within(self, seconds: float) -> bool:
        """True if an inference or a check came to its end in the last `seconds`, and no check has failed since."""
        with self._lock:
            return self._healthy and self._clock() - self._passed_at < seconds

    def fields(self) -> dict[str, Any]:
        """For the server's metadata; p95 is of a sample, measured here, and None before the first one."""
        with self._lock:
            taken = sorted(self._taken_ms)
            inferences = self._inferences
        p95 = round(taken[math.ceil(0.95 * len(taken)) - 1], 3) if taken else None
        return {"pid": os.getpid(), "rss_bytes": rss_bytes(), "p95_ms": p95, "inferences": inferences}


class SelfCheck:
    """Golden inputs, one after the other, through the model that serves: their answers must be the golden ones."""

    def __init__(self, model: Model, golden: Mapping[str, Any], figures: Figures) -> None:
        self._model, self._golden, self._figures = model, golden, figures
        self._count = len(golden_inputs(model, golden))
        self._next = 0

    def run(self) -> str:
        """What is wrong, "" if nothing is. Does not return if the model does not."""
        index = self._next % self._count
        self._next += 1
        one = {name: array[index : index + 1] for name, array in self._golden.items()}
        started = time.perf_counter()
        try:
            found = compare_golden(self._model, one)
            wrong = "" if found.ok else f"golden answer {index} is {found.largest_difference:g} away"
        except EdgekitError as error:
            wrong = str(error)
        self._figures.checked(time.perf_counter() - started, not wrong)
        return wrong

    def run_all(self) -> str:
        """The same for each golden input; the first one twice, for it also fills caches."""
        self.run()
        self._figures.forget()
        self._next = 0
        return next((wrong for wrong in (self.run() for _ in range(self._count)) if wrong), "")


def rss_bytes(path: str = "/proc/self/statm") -> int | None:
    """The memory of this process that is in RAM; None where the kernel does not tell."""
    try:
        with open(path, encoding="ascii") as stream:
            return int(stream.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return None
