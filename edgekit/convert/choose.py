"""Which range policy a network gets: each is tried, and judged on samples that did not make its ranges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgekit.convert.calibrate import Extremes, Feeds, Histograms, measure_extremes, measure_histograms
from edgekit.convert.cost import macs
from edgekit.convert.flatbuffer import read_model
from edgekit.convert.held_out import FEWEST, NOT_RUNNING_DB, HeldOut, Tried, some, split
from edgekit.convert.modes import AUTO, POLICIES
from edgekit.convert.quantize import quantize
from edgekit.convert.ranges import BY_EXTREMES, BY_HISTOGRAMS, Ranges
from edgekit.convert.rewrite import packed, prepare, unpacked
from edgekit.convert.selection import spread
from edgekit.errors import ConversionError, InputError

MARGIN_DB = 0.3  # what a policy has to gain to be preferred to one that clips less: held-out samples are few
HISTOGRAM_MOST = 24  # samples whose values are counted, at most: each has thousands
# The policies that need histograms take three calibrations' time: tried where that is nothing, or where the others are poor.
CHEAP_MACS = 100_000_000
GOOD_DB = 30.0
UNCHOSEN = "min-max"  # where nothing is tried


@dataclass(frozen=True)
class Choice:
    """The ranges that a variant gets, and the file made with them."""

    policy: str
    ranges: Ranges
    path: Path
    made_by: str
    tried: tuple[Tried, ...]  # empty: too few samples, or the policy was asked for


def choose(
    float_model: Path, mode: str, feeds: Feeds, folder: Path, *, policy: str = AUTO, timeout_s: float = 1800.0
) -> Choice:
    """`float_model` in `mode` with the ranges that lose least, by the policy that is asked for or the best of all.

    `feeds` are what the model sees. Every fifth sample judges and makes no ranges; then the winner measures
    all samples, and is taken unless that made it worse (one odd sample among those held out).
    Raises InputError for an unknown policy, ConversionError as `quantize` does.
    """
    if policy not in (AUTO, *POLICIES):
        raise InputError(f"no range policy is called {policy!r}", hint=f"there are: {', '.join((AUTO, *POLICIES))}")
    model = prepared(float_model, folder)
    extremes = measure_extremes(model, feeds)
    count = len(extremes.low)
    if policy == AUTO and count >= FEWEST and mode != "int16x8":  # 65,536 steps: to clip costs more than it brings
        return _best(model, mode, feeds, extremes, folder, timeout_s)
    policy = UNCHOSEN if policy == AUTO else policy
    ranges = _one(model, feeds, extremes, policy)
    made = quantize(model, mode, [ranges], folder, timeout_s=timeout_s)
    return Choice(policy, ranges, made.paths[0], made.made_by, ())


def _best(model: Path, mode: str, feeds: Feeds, extremes: Extremes, folder: Path, timeout_s: float) -> Choice:
    rest, judges = split(len(extremes.low))
    trial = _Trial(model, mode, some(feeds, judges), folder, timeout_s)
    others = extremes.of(rest)
    trial.judge({name: by(others) for name, by in BY_EXTREMES.items()})
    if macs(read_model(model)) < CHEAP_MACS or best_of(trial.tried).score_db < GOOD_DB:
        histograms = _histograms(model, some(feeds, rest), others)
        trial.judge({name: by(histograms) for name, by in BY_HISTOGRAMS.items()})
    tried = tuple(trial.tried)
    best = best_of(tried)
    if best.policy in BY_HISTOGRAMS:  # of values, not of samples: more samples would tell little more
        place = tried.index(best)
        return Choice(best.policy, trial.ranges[place], trial.paths[place], trial.made_by[place], tried)
    with suppress(ConversionError):  # with these ranges no file runs: those that were judged do
        trial.judge({best.policy: _one(model, feeds, extremes, best.policy)})
    is_last = len(trial.tried) > len(tried) and best_of((trial.tried[-1], best)) is not best
    place = -1 if is_last else tried.index(best)
    return Choice(best.policy, trial.ranges[place], trial.paths[place], trial.made_by[place], tried)


def prepared(float_model: Path, folder: Path) -> Path:
    """The model as the quantizers want it."""
    folder.mkdir(parents=True, exist_ok=True)
    model = unpacked(float_model.read_bytes())
    if not prepare(model):
        return float_model
    (folder / "prepared.tflite").write_bytes(packed(model))
    return folder / "prepared.tflite"


def best_of(tried: Sequence[Tried]) -> Tried:
    """The first whose score is as good as the best, but for MARGIN_DB: those that clip least come first.

    Of those only whose classes agree with float's as often as the best one's, but for chance: two standard errors of
    the share, at least two samples.
    """
    shares = [one.same_class for one in tried if one.same_class is not None]
    most = max(shares, default=0.0)
    allowed = max(2 * np.sqrt(most * (1 - most) / tried[0].count), 2 / tried[0].count)
    fit = [one for one in tried if one.same_class is None or one.same_class >= most - allowed]
    best = max(one.score_db for one in fit)
    return next(one for one in fit if one.score_db >= best - MARGIN_DB)


class _Trial:
    """Policies judged on the same samples, a few at a time."""

    def __init__(self, model: Path, mode: str, judges: Feeds, folder: Path, timeout_s: float) -> None:
        self.tried: list[Tried] = []
        self.ranges: list[Ranges] = []  # of each
        self.paths: list[Path] = []  # the file made with them
        self.made_by: list[str] = []
        self._model, self._mode, self._folder, self._timeout_s = model, mode, folder, timeout_s
        self._held_out = HeldOut(model, judges, folder)

    def judge(self, policies: Mapping[str, Ranges]) -> None:
        """Makes a file with each of these ranges and adds how it did to `tried`."""
        folder = self._folder / f"trial{len(self.tried)}"
        made = quantize(self._model, self._mode, list(policies.values()), folder, timeout_s=self._timeout_s)
        self.tried += self._held_out.judge(made.paths, list(policies))
        if max(one.sqnr_db for one in self.tried) <= NOT_RUNNING_DB:
            raise ConversionError("LiteRT runs none of the files", hint="are the samples like those it was trained on?")
        self.ranges += policies.values()
        self.paths += made.paths
        self.made_by += [made.made_by] * len(made.paths)


def _one(float_model: Path, feeds: Feeds, extremes: Extremes, policy: str) -> Ranges:
    """The ranges by one policy, with all the samples."""
    if policy in BY_EXTREMES:
        return BY_EXTREMES[policy](extremes)
    return BY_HISTOGRAMS[policy](_histograms(float_model, feeds, extremes))


def _histograms(model: Path, feeds: Feeds, extremes: Extremes) -> Histograms:
    chosen = spread(len(extremes.low), HISTOGRAM_MOST)
    return measure_histograms(model, some(feeds, chosen), extremes.of(chosen))
