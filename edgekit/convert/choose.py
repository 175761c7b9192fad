"""Which range policy a network gets: each is tried, and judged on samples that did not make its ranges."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from edgekit.convert.calibrate import Extremes, Feeds, computed_floats, measure_extremes
from edgekit.convert.cost import is_cheap
from edgekit.convert.flatbuffer import read_model
from edgekit.convert.held_out import EVERY, FEWEST, NOT_RUNNING_DB, Tried
from edgekit.convert.modes import AUTO, POLICIES
from edgekit.convert.policies import Trial, best_of, ranges_of
from edgekit.convert.prepare import prepare
from edgekit.convert.quantize import Ready, quantize, ready
from edgekit.convert.ranges import Ranges
from edgekit.convert.rewrite import packed, unpacked
from edgekit.errors import ConversionError, InputError

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
        with ready(folder / "quantizer", timeout_s=timeout_s) as quantizer:
            return _best(model, mode, feeds, extremes, folder, timeout_s, quantizer)
    policy = UNCHOSEN if policy == AUTO else policy
    ranges = ranges_of(model, feeds, extremes, policy)
    made = quantize(model, mode, [ranges], folder, timeout_s=timeout_s)
    return Choice(policy, ranges, made.paths[0], made.made_by, model, ())


def _best(
    model: Path, mode: str, feeds: Feeds, extremes: Extremes, folder: Path, timeout_s: float, quantizer: Ready
) -> Choice:
    """The best policy: in turns on all samples where that costs little, else on a fifth of them, and then on another."""
    cheap = is_cheap(read_model(model))
    fifths = range(EVERY) if cheap else (EVERY - 1, 0)
    trial = Trial(model, mode, feeds, extremes, folder, timeout_s, judging=fifths, quantizer=quantizer)
    if cheap:
        tried = trial.judge(POLICIES, fifths)
        best = best_of(tried)
        return _chosen(best, tried, model, trial.of_all(best) if _runs(best) else None)
    tried = trial.judge(POLICIES, fifths[:1])
    best = first = best_of(tried)
    with ThreadPoolExecutor(1) as pool:  # the second fifth rarely changes who wins: its file is made meanwhile
        making = pool.submit(trial.of_all, first) if _runs(first) else None
        if first.policy != UNCHOSEN:
            pair = trial.judge((UNCHOSEN, first.policy), fifths[1:])
            tried = [next((two for two in pair if two.policy == one.policy), one) for one in tried]
            best = best_of(pair)
        made = making.result() if making is not None else None
    if best.policy != first.policy:
        made = trial.of_all(best) if _runs(best) else None
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
