"""Which range policy a network gets: each is tried, and judged on samples that did not make its ranges."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgekit.convert.calibrate import (
    Extremes,
    Feeds,
    Histograms,
    computed_floats,
    cores,
    measure_extremes,
    measure_histograms,
)
from edgekit.convert.cost import is_cheap
from edgekit.convert.flatbuffer import read_model
from edgekit.convert.held_out import (
    EVERY,
    FEWEST,
    MOST,
    NOT_RUNNING_DB,
    HeldOut,
    Tried,
    before_softmax,
    judge_all,
    some,
)
from edgekit.convert.modes import AUTO, BACK_ENDS, POLICIES
from edgekit.convert.prepare import prepare
from edgekit.convert.quantize import quantize
from edgekit.convert.ranges import BY_EXTREMES, BY_HISTOGRAMS, Ranges
from edgekit.convert.rewrite import packed, unpacked
from edgekit.convert.selection import spread
from edgekit.errors import ConversionError, InputError

MARGIN_DB = 0.3  # what a policy has to gain to be preferred to one that clips less: held-out samples are few
HISTOGRAM_MOST = 24  # samples whose values are counted, at most: each has thousands
POOR_DB = 20.0  # below which another quantizer is asked
UNCHOSEN = "min-max"  # where nothing is tried


@dataclass(frozen=True)
class Choice:
    """The ranges that a variant gets, and the file made with them."""

    policy: str
    ranges: Ranges
    path: Path
    made_by: str
    source: Path  # the float model that it was made of, prepared for the quantizers
    tried: tuple[Tried, ...]  # empty: too few samples, or the policy was asked for


def choose(
    float_model: Path,
    mode: str,
    feeds: Feeds,
    folder: Path,
    *,
    extremes: Extremes | None = None,
    policy: str = AUTO,
    timeout_s: float = 1800.0,
) -> Choice:
    """`float_model` in `mode` with the ranges that lose least, by the policy that is asked for or the best of all.

    `feeds` are what the model sees, `extremes` what `float_model` makes of them, if somebody has measured it. A fifth of
    the samples judges and makes no ranges, then the next one; the winner measures all of them.
    Raises InputError for an unknown policy, ConversionError as `quantize` does.
    """
    if policy not in (AUTO, *POLICIES):
        raise InputError(f"no range policy is called {policy!r}", hint=f"there are: {', '.join((AUTO, *POLICIES))}")
    model = prepared(float_model, folder, mode)
    if extremes is None or computed_floats(model) != computed_floats(float_model):  # preparing may add tensors
        extremes = measure_extremes(model, feeds)
    count = len(extremes.low)
    if policy == AUTO and count >= FEWEST and mode != "int16x8":  # 65,536 steps: to clip costs more than it brings
        return _best(model, mode, feeds, extremes, folder, timeout_s)
    policy = UNCHOSEN if policy == AUTO else policy
    ranges = _one(model, feeds, extremes, policy)
    made = quantize(model, mode, [ranges], folder, timeout_s=timeout_s)
    return Choice(policy, ranges, made.paths[0], made.made_by, model, ())


def _best(model: Path, mode: str, feeds: Feeds, extremes: Extremes, folder: Path, timeout_s: float) -> Choice:
    """The best policy: in turns on all samples where that costs little, else on a fifth of them, and then on another."""
    trial = _Trial(model, mode, feeds, extremes, folder, timeout_s)
    if is_cheap(read_model(model)):
        tried = trial.judge(POLICIES, range(EVERY))
        best = best_of(tried)
        return _chosen(best, tried, model, trial.of_all(best.policy) if _runs(best) else None)
    tried = trial.judge(POLICIES, [EVERY - 1])
    best = first = best_of(tried)
    with ThreadPoolExecutor(1) as pool:  # the second fifth rarely changes who wins: its file is made meanwhile
        making = pool.submit(trial.of_all, first.policy) if _runs(first) else None
        if first.policy != UNCHOSEN:
            pair = trial.judge((UNCHOSEN, first.policy), [0])
            tried = [next((two for two in pair if two.policy == one.policy), one) for one in tried]
            best = best_of(pair)
        made = making.result() if making is not None else None
    if best.policy != first.policy:
        made = trial.of_all(best.policy) if _runs(best) else None
    return _chosen(best, tried, model, made)


def _runs(one: Tried) -> bool:
    return one.sqnr_db > NOT_RUNNING_DB


def _chosen(best: Tried, tried: Sequence[Tried], model: Path, made: tuple[Ranges, Path, str] | None) -> Choice:
    if made is None:
        raise ConversionError("LiteRT runs none of the files", hint="are the samples like those it was trained on?")
    ranges, path, made_by = made
    return Choice(best.policy, ranges, path, made_by, model, tuple(tried))


def prepared(float_model: Path, folder: Path, mode: str = "int8") -> Path:
    """The model as the quantizers want it for that mode."""
    folder.mkdir(parents=True, exist_ok=True)
    model = unpacked(float_model.read_bytes())
    if not prepare(model, mode):
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
    """Policies judged on fifths of the samples, ranges made of the rest: a fifth is every fifth sample from a number on.

    What is cut off hurts one sample in a hundred, and much: of twenty that judge none may have been hit. Of a network for
    pairs of pictures the 0.99 quantile had 1.7 dB more than min-max on a fifth, and 11 dB less on 1,000 other samples.
    """

    def __init__(
        self, model: Path, mode: str, feeds: Feeds, extremes: Extremes, folder: Path, timeout_s: float
    ) -> None:
        self._model, self._mode, self._feeds, self._extremes = model, mode, feeds, extremes
        self._folder, self._timeout_s = folder, timeout_s
        self._logits = before_softmax(model, folder)  # what is tried: one cut for all files, instead of one for each
        self._held_out: dict[int, HeldOut] = {}
        self._made: dict[tuple[str, int], tuple[Ranges, Path, str]] = {}  # (policy, fifth) -> ranges, file, made by

    def judge(self, policies: Sequence[str], fifths: Sequence[int]) -> list[Tried]:
        """How each policy does on these fifths, all of their samples taken together."""
        wanted = [(policy, fifth) for fifth in fifths for policy in policies if (policy, fifth) not in self._made]
        with ThreadPoolExecutor(cores()) as pool:
            making = pool.submit(self._make, wanted)  # in a process of its own
            held_out = [self._judges(fifth) for fifth in fifths]
            making.result()
            paths = [[self._made[policy, fifth][1] for fifth in fifths] for policy in policies]
            return list(pool.map(lambda p, f: judge_all(held_out, f, p), policies, paths))

    def of_all(self, policy: str) -> tuple[Ranges, Path, str]:
        """The policy's ranges of all samples, a file with them and who made it; of a fifth less if those do not run.

        Where the answers are poor each quantizer is asked: one that does not refuse an operator may still do it badly.
        """
        judges = self._judges(EVERY - 1)
        ranges = _one(self._model, self._feeds, self._extremes, policy)
        found: list[tuple[Tried, tuple[Ranges, Path, str]]] = []
        for back_end in BACK_ENDS[self._mode]:
            if found and (found[-1][0].score_db >= POOR_DB or back_end == "tensorflow"):  # it takes seconds to start
                break
            with suppress(ConversionError):  # it cannot, or no file runs
                made = quantize(
                    self._model,
                    self._mode,
                    [ranges],
                    self._folder / f"all-{policy}-{back_end}",
                    timeout_s=self._timeout_s,
                    back_ends=[back_end],
                )
                path = made.paths[0]
                judged = judges.judge([before_softmax(path, path.parent) or path], [policy])[0]
                found.append((judged, (ranges, path, made.made_by)))
        found = [one for one in found if one[0].sqnr_db > NOT_RUNNING_DB]
        if not found:
            ranges = self._made[policy, EVERY - 1][0]
            made = quantize(self._model, self._mode, [ranges], self._folder / "fifth", timeout_s=self._timeout_s)
            return ranges, made.paths[0], made.made_by
        best = best_of([tried for tried, _ in found])
        return next(made for tried, made in found if tried is best)

    def _make(self, wanted: Sequence[tuple[str, int]]) -> None:
        several = []
        counted: dict[int, Histograms] = {}
        for policy, fifth in wanted:
            rest = np.setdiff1d(np.arange(len(self._extremes.low)), self._fifth(fifth))
            extremes = self._extremes.of(rest)
            if policy in BY_EXTREMES:
                several.append(BY_EXTREMES[policy](extremes))
                continue
            if fifth not in counted:
                counted[fifth] = _histograms(self._model, self._feeds, self._extremes, rest)
            several.append(BY_HISTOGRAMS[policy](counted[fifth]))
        if not wanted:
            return
        folder = self._folder / f"trial{len(self._made)}"
        source = self._logits or self._model
        made = quantize(source, self._mode, several, folder, timeout_s=self._timeout_s, trial=True)
        self._made |= {
            key: (ranges, path, made.made_by) for key, ranges, path in zip(wanted, several, made.paths, strict=True)
        }

    def _judges(self, fifth: int) -> HeldOut:
        if fifth not in self._held_out:
            folder = self._folder / f"fifth{fifth}"
            folder.mkdir()
            feeds, source = some(self._feeds, self._fifth(fifth)), self._logits or self._model
            self._held_out[fifth] = HeldOut(source, feeds, folder, logits=self._logits is not None)
        return self._held_out[fifth]

    def _fifth(self, number: int) -> np.ndarray:
        judges = np.arange(number, len(self._extremes.low), EVERY)
        return judges[:: -(-len(judges) // MOST)]


def _one(float_model: Path, feeds: Feeds, extremes: Extremes, policy: str) -> Ranges:
    """The ranges by one policy, with all the samples."""
    if policy in BY_EXTREMES:
        return BY_EXTREMES[policy](extremes)
    return BY_HISTOGRAMS[policy](_histograms(float_model, feeds, extremes, np.arange(len(extremes.low))))


def _histograms(model: Path, feeds: Feeds, extremes: Extremes, samples: np.ndarray) -> Histograms:
    """The values on some of these samples."""
    chosen = samples[spread(len(samples), HISTOGRAM_MOST)]
    return measure_histograms(model, some(feeds, chosen), extremes.of(chosen))
