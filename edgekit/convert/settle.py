"""As many samples as the ranges need: measured some at a time, until twice as many no longer widen them.

settled = settle(Path("float.tflite"), raw, specs, picked, until_settled=True)
settled.chosen, settled.curve                      # which of the samples, and how the ranges grew with their number
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgekit import preprocess
from edgekit.convert.calibrate import Extremes, measure_extremes
from edgekit.convert.samples import Samples, prepared
from edgekit.convert.selection import convergence, enough, in_order
from edgekit.convert.tflite_file import fed
from edgekit.errors import BundleError, MissingLibrary
from edgekit.runner.interpreter import open_interpreter
from edgekit.runner.model import describe_variant

MOST = 500  # samples that are used where nobody says how many
# Samples before anything counts as settled. With fewer one sample decides: in 5 orders of 1,000 keywords doubling 16
# widened the ranges by 1 to 33 %, doubling 64 by 1 to 6 % (measured, kws_ref_model; mean over its tensors).
FIRST = 128


@dataclass(frozen=True)
class Settled:
    """The samples that are used, and what they make of every tensor of the float model."""

    seen: Mapping[str, np.ndarray]  # what the model sees, (n, ...) by input name
    chosen: np.ndarray  # which of all samples these are, ascending
    extremes: Extremes | None  # on each of them; None: LiteRT cannot measure this model
    curve: tuple[tuple[int, float], ...]  # (samples, share of the final ranges that they make); empty: not measured


def settle(
    float_model: Path,
    raw: Samples,
    specs: Mapping[str, preprocess.Spec],
    picked: np.ndarray,
    *,
    until_settled: bool,
) -> Settled:
    """Those of the `picked` samples (indexes, ascending) that ranges are made of: preprocessed and measured.

    All of them; with `until_settled` FIRST, then twice as many, and so on, until half of them make 95 % of the ranges
    that all of them make (`selection.enough`). They are used class by class in turn. Raises SamplesError where they do
    not fit the model, ConversionError where it computes something that is not finite.
    """
    order = in_order(raw.labels[picked] if raw.labels is not None else None, len(picked))
    inputs = describe_variant(open_interpreter(float_model, threads=1), "", quantization="float32").inputs
    seen = _Seen(raw.arrays, specs, picked)
    parts: list[Extremes] = []
    curve: list[tuple[int, float]] = []
    done = 0
    for count in _rounds(len(order)) if until_settled else [len(order)]:
        seen.fill(order[done:count])
        feeds = fed(seen.arrays, inputs)
        try:
            parts.append(measure_extremes(float_model, feeds, samples=order[done:count]))
        except (
            MissingLibrary,
            BundleError,
            ValueError,
            RuntimeError,
        ):  # a model that LiteRT cannot measure: less is known
            parts, done = [], count
            break
        done = count
        curve = _curve(parts, {tensor.tensor for tensor in inputs})
        if enough(curve) is not None:
            break
    used = np.sort(order[:done])
    return Settled(seen.only(used), picked[used], _joined(parts, order[:done]) if parts else None, tuple(curve))


def _rounds(count: int) -> list[int]:
    """FIRST, twice that, ..., all."""
    found = [FIRST]
    while found[-1] < count:
        found.append(2 * found[-1])
    return [*found[:-1], count]


def _curve(parts: list[Extremes], inputs: set[str]) -> list[tuple[int, float]]:
    """How the ranges of what the model computes grow; its inputs, often full from the first sample on, are left out."""
    computed = [place for place, name in enumerate(parts[0].names) if name not in inputs]
    return convergence(*(np.concatenate([side[:, computed] for side in sides]) for sides in _sides(parts)))


def _joined(parts: list[Extremes], order: np.ndarray) -> Extremes:
    """The extremes of all samples, in the order of their indexes."""
    low, high = (np.concatenate(sides)[np.argsort(order)] for sides in _sides(parts))
    return Extremes(parts[0].names, low, high)


def _sides(parts: list[Extremes]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    return [part.low for part in parts], [part.high for part in parts]


class _Seen:
    """What the model sees of the picked samples, one at a time when it is wanted: photos are small, floats of them not."""

    def __init__(self, raw: Mapping[str, np.ndarray], specs: Mapping[str, preprocess.Spec], picked: np.ndarray) -> None:
        self._raw, self._specs, self._picked = raw, specs, picked
        self.arrays: dict[str, np.ndarray] = {}
        self._as_they_are = {name for name, array in raw.items() if _stays(array, specs.get(name))}
        for name in self._as_they_are:
            self.arrays[name] = raw[name] if len(picked) == len(raw[name]) else raw[name][picked]

    def fill(self, places: np.ndarray) -> None:
        """Preprocesses the samples at these places of the picked ones."""
        for name in self._raw.keys() - self._as_they_are:
            spec = self._specs.get(name)
            for place in places:
                sample = prepared(self._raw[name][self._picked[place]], spec)
                if name not in self.arrays:  # takes memory only where it is written to
                    self.arrays[name] = np.empty((len(self._picked), *sample.shape), sample.dtype)
                self.arrays[name][place] = sample

    def only(self, places: np.ndarray) -> dict[str, np.ndarray]:
        """Of each array only these rows, ascending."""
        if len(places) == len(self._picked):
            return self.arrays
        for name, array in self.arrays.items():
            if name in self._as_they_are:
                self.arrays[name] = array[places]
                continue
            for row, place in enumerate(places):  # in place: a copy would be as large again
                array[row] = array[place]
            self.arrays[name] = array[: len(places)]
        return self.arrays


def _stays(array: np.ndarray, spec: preprocess.Spec | None) -> bool:
    """Whether the preprocessing leaves the samples as they are."""
    if array.dtype.kind in "iub" and spec is None:
        return True
    return array.dtype == np.float32 and spec in (None, preprocess.Generic())
