"""The models behind a table's operating points: each variant loaded once for each number of threads and set of cores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgekit.errors import InputError
from edgekit.runner.model import Model, load
from edgekit.runner.power.actuators import OperatingPoint, on_cpus

if TYPE_CHECKING:
    from pathlib import Path

    from edgekit.runner.power.points import Table

MOST_LOADED = 24  # interpreters at once: each keeps its weights


class Variants:
    """Answers at any operating point of a table. One thread at a time: cores are set for the thread that calls."""

    def __init__(self, release: Path | str, table: Table) -> None:
        keys = dict.fromkeys((row.point.variant, row.point.threads, row.point.cpus) for row in table.rows)
        if len(keys) > MOST_LOADED:
            raise InputError(
                f"the table wants {len(keys)} interpreters at once, {MOST_LOADED} are the most",
                hint="calibrate fewer variants or threads: --variant, --threads",
            )
        self._models: dict[tuple[str, int, tuple[int, ...]], Model] = {}
        for variant, threads, cpus in keys:
            with on_cpus(cpus):  # an interpreter's threads stay where they were started
                self._models[variant, threads, cpus] = load(release, variant=variant, threads=threads)

    def model(self, point: OperatingPoint) -> Model:
        """The model of a point."""
        return self._models[point.variant, point.threads, point.cpus]

    def answer(self, point: OperatingPoint, sample: Any) -> Any:
        """The answer to one sample or batch at that point."""
        model = self.model(point)
        if not point.cpus:
            return model(sample)
        with on_cpus(point.cpus):
            return model(sample)
