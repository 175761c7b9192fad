"""The gate: may this int8 model be shipped? Its loss beside the float model, how sure that is, and what is allowed.

With labels: the metric may lose `max_drop` points (shares of 1: accuracy, AUC, F1, IoU, mAP, R²; word and character error
rates may rise by as much), or get worse by `max_drop` percent of the float model's value (other errors and people's own
metrics: 1.0 means 99 % as good). Without labels there is no loss to
measure, so a floor is used: a classifier has to give the float model's class for 95 % of the samples, anything else has
to reach 10 dB. (Two classes whose float scores are within two steps of the int8 output are one: it could not tell
them apart, as in a network that was never trained.) Networks that had kept their accuracy were above both, those that
had lost it below one of them (EfficientNet-B0: 0.966 and 11.4 dB at accuracy .886, 0.724 and -3 dB at .688; float .878).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgekit.convert.metrics import Array, Metric, Outputs, check_name, predicted_classes
from edgekit.errors import InputError, QualityLost, SamplesError

MAX_DROP = 1.0  # points, or percent of float
DISAGREEMENT = 5.0  # points without labels; more where --max-drop allows more, because no loss exceeds it
LEAST_SQNR = 10.0  # dB, without labels and without classes
RESAMPLES, SLOW_RESAMPLES = 1000, 200  # bootstrap: means over samples, and functions called anew each time
_SEED = 0


@dataclass(frozen=True)
class Verdict:
    """What the gate says. `measured` is compared with `limit`, both in `unit`: what int8 lost, or for dB what it has."""

    metric: str
    float_value: float | None  # None: compared with the float model itself
    int8_value: float
    measured: float
    limit: float
    unit: str  # "points", "%" of float, "dB"
    low: float  # 95 % of resampled sets of samples give a `measured` from low
    high: float  # to high
    count: int
    passed: bool
    certain: bool  # the whole interval is on the verdict's side of the limit
    variant: str = "int8"  # what is judged

    @property
    def sentence(self) -> str:
        """The verdict for people, in one sentence without a full stop."""
        interval = f"95 % interval {self.low:.3g} to {self.high:.3g} {self.unit}, {self.count} samples"
        if self.unit == "dB":
            return f"{self.metric} is {self.measured:.3g} dB, at least {self.limit:g} dB is wanted ({interval})"
        if self.float_value is None:
            told = f"{self.variant} gives another class than float for {self.measured:.3g} % of the samples"
            return f"{told}, {self.limit:g} % is allowed without labels ({interval.replace('points', '%')})"
        values = f"{self.float_value:.6g} → {self.int8_value:.6g}"
        amount, limit = _amount(self.measured, self.unit), _amount(self.limit, self.unit)
        if (self.int8_value - self.float_value) * self.measured > 0:  # more is worse: an error
            verb = "raises" if self.measured > 0 else "lowers"
            return f"{self.variant} {verb} {self.metric} by {amount} ({values}), {limit} more is allowed ({interval})"
        verb = "gains" if self.measured < -1e-9 else "loses"
        return f"{self.variant} {verb} {amount} of {self.metric} ({values}), a loss of {limit} is allowed ({interval})"

    @property
    def doubt(self) -> str:
        """What the samples are too few to tell; empty if they are enough."""
        if self.certain:
            return ""
        what = f"from {self.low:.3g} to {self.high:.3g} {self.unit}"
        return f"{self.count} samples are too few to be sure: with others like them it could be {what}"


def check_options(metric: str | None, max_drop: float, *, labelled: bool) -> None:
    """InputError, before anything takes its time, for options that make no sense."""
    if not 0 <= max_drop <= 100:
        raise InputError(f"--max-drop {max_drop:g} is not from 0 to 100", hint="points of the metric, or % of float's")
    if metric is not None and not labelled:
        raise InputError(f"--metric {metric} needs labels", hint="give labelled samples (y): --evaluate labelled.npz")
    if metric is not None:
        check_name(metric)


def judge_labelled(
    metric: Metric, labels: Array, float_outputs: Outputs, int8_outputs: Outputs, *, max_drop: float = MAX_DROP
) -> Verdict:
    """The verdict on labelled samples; the interval is a bootstrap over samples, both models on the same ones.

    Both models' outputs go by the same names.
    """
    each = [metric.each(labels, outputs) for outputs in (float_outputs, int8_outputs)]
    values = [float(metric.total(rows)) for rows in each]
    if not np.isfinite(values).all():
        raise SamplesError(
            f"{metric.name} is {values[0]:g} for float and {values[1]:g} for int8", hint="check the labels"
        )
    resampled = _resampled_means(each) if metric.is_mean else _resampled_totals(metric, each, len(labels))
    loss = _loss(metric, values[0])
    measured = float(loss(np.array([values[0]]), np.array([values[1]]))[0]) + 0.0  # no -0
    low, high = _interval(loss(resampled[0], resampled[1]), measured)
    if metric.in_points and (not (each[0] > each[1]).any() if metric.is_mean else low == high):
        # no sample was lost: a bootstrap says "surely none", the rule of three says at most 3/n
        high = max(high, 300.0 / len(labels))
    return _verdict(
        metric.name,
        values[0],
        values[1],
        measured,
        max_drop,
        "points" if metric.in_points else "%",
        low,
        high,
        len(labels),
    )


def judge_unlabelled(
    float_answers: Sequence[Array], int8_answers: Sequence[Array], *, classes: bool, step: float = 0.0,
    max_drop: float = MAX_DROP,
) -> Verdict:  # fmt: skip
    """The verdict without labels: the same class as float, or the signal to noise of all outputs.

    `step`: of the int8 model's scores. Where float itself prefers its class by no more than two, both are the same class.
    """
    count = len(float_answers[0])
    if classes:
        same = _same_class(float_answers[0], int8_answers[0], 2 * step)
        resampled = _resampled_means([np.ones(count), same])
        measured = 100.0 * (1.0 - float(same.mean()))
        low, high = _interval(100.0 * (resampled[0] - resampled[1]), measured)
        high = max(high, 300.0 / count) if same.all() else high
        limit = max(DISAGREEMENT, max_drop)
        return _verdict("same class as float", None, float(same.mean()), measured, limit, "points", low, high, count)
    pairs = list(zip(float_answers, int8_answers, strict=True))
    signal = sum(np.square(f.astype(np.float64)).reshape(count, -1).sum(axis=1) for f, _ in pairs)
    noise = sum(np.square(f.astype(np.float64) - q).reshape(count, -1).sum(axis=1) for f, q in pairs)
    measured = float(decibel(np.mean(signal, keepdims=True), np.mean(noise, keepdims=True))[0])
    low, high = _interval(decibel(*_resampled_means([np.asarray(signal), np.asarray(noise)])), measured)
    limit = LEAST_SQNR
    passed = measured >= limit
    certain = low >= limit if passed else high < limit
    return Verdict("SQNR to float", None, round(measured, 2), measured, limit, "dB", low, high, count, passed, certain)


def _same_class(float_scores: Array, int8_scores: Array, tie: float) -> Array:
    """1 for each sample whose class is the same, or nearly so in float's own view; else 0."""
    before, after = predicted_classes(float_scores), predicted_classes(int8_scores)
    rows = np.arange(len(before))
    undecided = float_scores[rows, before] - float_scores[rows, after] <= tie if tie else np.zeros(len(before), bool)
    return np.asarray((before == after) | undecided, np.float64)


def refusal(
    verdict: Verdict, losers: Sequence[str], *, report: str = "", clipped: bool = False, repairs: Sequence[str] = ()
) -> QualityLost:
    """The error for a verdict that is not passed: which metric, which layers, which repairs were tried, what is left."""
    where = f"; it loses most in {', '.join(losers)}" if losers else ""
    doubt = f" ({verdict.doubt})" if verdict.doubt else ""
    tries = ["give more --samples, of every kind that the device will meet"]
    if clipped:
        tries = ["the ranges are too narrow in these layers: " + tries[0]]
    if repairs:
        left = "" if "blocks in float" in repairs else "--repair mixed with one int8 mode at a time, or "
        tries = [f"repairs tried: {', '.join(repairs)}; what is left is {left}training on with int8 in mind", *tries]
    tries += ["check that --preprocess is what the model was trained with"]
    if verdict.unit != "dB" and verdict.measured < 10:  # beyond, nobody would
        tries += [f"or allow it: --max-drop {_rounded_up(verdict.measured):g}"]
    tries += [f"{report} has the details"] if report else []
    return QualityLost(f"{verdict.sentence}{doubt}{where}", hint="; ".join(tries))


def decibel(signal: Array, noise: Array) -> Array:
    """10 log10(signal / noise), kept between -300 and 300 (no noise at all)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = 10.0 * np.log10(np.asarray(signal, np.float64) / np.asarray(noise, np.float64))
    ratio = np.where(np.asarray(noise) == 0, 300.0, ratio)
    return np.asarray(np.clip(ratio, -300.0, 300.0))


def _loss(metric: Metric, float_value: float) -> Callable[[Array, Array], Array]:
    sign = 1.0 if metric.lower_is_better else -1.0

    def loss(float_values: Array, int8_values: Array) -> Array:
        worse = sign * (int8_values - float_values)
        if metric.in_points:
            return np.asarray(100.0 * worse)
        if float_value == 0:
            return np.where(worse == 0, 0.0, np.copysign(1e6, worse))  # any change of nothing is endless percent
        return np.asarray(100.0 * worse / abs(float_value))

    return loss


def _verdict(
    name: str, float_value: float | None, value: float, measured: float, limit: float, unit: str, low: float,
    high: float, count: int,
) -> Verdict:  # fmt: skip
    passed = measured <= limit + 1e-9  # one sample of a hundred is 1 point, whatever the last bit says
    certain = high <= limit + 1e-9 if passed else low > limit
    return Verdict(name, float_value, value, measured, limit, unit, low, high, count, passed, certain)


def _resampled_means(each: Sequence[Array]) -> list[Array]:
    """The mean of each array over RESAMPLES sets drawn with replacement: the same sets for all of them."""
    random, count = np.random.default_rng(_SEED), len(each[0])
    found = np.empty((len(each), RESAMPLES))
    for number in range(RESAMPLES):
        chosen = random.integers(0, count, count)
        for row, values in enumerate(each):
            found[row, number] = values[chosen].mean()
    return list(found)


def _resampled_totals(metric: Metric, each: Sequence[Any], count: int) -> list[Array]:
    """The metric over SLOW_RESAMPLES such sets, without those that it cannot judge (all of one class)."""
    random, pairs = np.random.default_rng(_SEED), []
    for _ in range(SLOW_RESAMPLES):
        chosen = random.integers(0, count, count)
        try:
            pairs.append([metric.total(rows[chosen]) for rows in each])
        except (SamplesError, InputError):
            continue
    return list(np.array(pairs, np.float64).reshape(-1, 2).T)


def _interval(values: Array, measured: float) -> tuple[float, float]:
    known = values[np.isfinite(values)]
    if len(known) < SLOW_RESAMPLES // 2:  # nothing to tell from
        return -np.inf, np.inf
    low, high = np.percentile(known, [2.5, 97.5])
    return min(float(low), measured) + 0.0, max(float(high), measured) + 0.0  # no -0


def _amount(value: float, unit: str) -> str:
    """`1 point`, `2.5 points`, `3 %`; the sign is said in words."""
    said = f"{abs(value):.3g}"
    return f"{said} point" if unit == "points" and said == "1" else f"{said} {unit}"


def _rounded_up(value: float) -> float:
    return float(np.ceil(value * 10 + 1e-9) / 10)
