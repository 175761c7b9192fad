"""The models behind a table's operating points: one for each variant, number of threads, set of cores and delegate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgekit.errors import InputError
from edgekit.runner.model import Model, load
from edgekit.runner.power.actuators import OperatingPoint, on_cpus

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

MOST_LOADED = 24  # interpreters at once: each keeps its weights

Key = tuple[str, int, tuple[int, ...], str]


class Variants:
    """Answers at any operating point that is held. One thread at a time: cores are set for the thread that calls."""

    def __init__(self, release: Path | str, points: Iterable[OperatingPoint] = ()) -> None:
        self._release = release
        self._models: dict[Key, Model] = {}
        self.is_fake = False  # a delegate made for tests is among what was ever opened
        self.hold(points)

    def hold(self, points: Iterable[OperatingPoint]) -> None:
        """These and no others are open. What goes is closed first: an Edge TPU is opened at one clock level at a time.

        Raises DelegateUnavailable if a point's own delegate does not serve: what was measured is what is to run.
        """
        wanted = {_key(point): point for point in points}
        if len(wanted) > MOST_LOADED:
            raise InputError(
                f"the table wants {len(wanted)} interpreters at once, {MOST_LOADED} are the most",
                hint="calibrate fewer variants or threads: --variant, --threads",
            )
        for key in self._models.keys() - wanted.keys():
            del self._models[key]
        for key, point in wanted.items():
            if key not in self._models:
                with on_cpus(point.cpus):  # an interpreter's threads stay where they were started
                    self._models[key] = model = open_point(self._release, point)
                self.is_fake |= is_fake(model)

    def model(self, point: OperatingPoint) -> Model:
        """The model of a point."""
        return self._models[_key(point)]

    def answer(self, point: OperatingPoint, sample: Any) -> Any:
        """The answer to one sample or batch at that point."""
        model = self.model(point)
        if not point.cpus:
            return model(sample)
        with on_cpus(point.cpus):
            return model(sample)


def open_point(release: Path | str, point: OperatingPoint) -> Model:
    """The model of an operating point, on its own delegate or not at all."""
    delegates = [point.delegate] if point.delegate else []
    return load(release, variant=point.variant, threads=point.threads, delegates=delegates, require=point.unit or None)


def is_fake(model: Model) -> bool:
    """True where the unit was made for tests, or is a program that plays a GPU."""
    return model.is_delegated and (model.placement.fake or model.placement.software)


def _key(point: OperatingPoint) -> Key:
    return point.variant, point.threads, point.cpus, point.delegate
