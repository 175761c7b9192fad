"""Task metrics: what an answer is worth beside its label. Built-in ones by name, or a person's own function."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgekit.errors import InputError, SamplesError

Array = np.ndarray
METRICS = ("top-1", "top-5", "auc", "f1", "mae")


@dataclass(frozen=True)
class Metric:
    """A number for (labels, answers); `each` gives the values whose mean it is, where it is a mean over samples."""

    name: str  # for people: "top-1 accuracy"
    score: Callable[[Array, Array], float]
    each: Callable[[Array, Array], Array] | None = None
    lower_is_better: bool = False
    in_points: bool = True  # a share of 1: a loss is told in points of 100; else in % of the float model's value


def check_name(name: str) -> None:
    """InputError unless there is such a metric, or such a file."""
    if ":" in name:
        _own_metric(name)
    elif name not in METRICS:
        raise InputError(f"no metric {name!r}", hint=f"one of {', '.join(METRICS)}, or your own: file.py:function")


def find_metric(name: str | None, labels: Array, scores: Array, *, source: str) -> Metric:
    """The metric called `name` (one of METRICS, or FILE.py:FUNCTION); None: what fits the labels.

    Class numbers are judged by top-1 accuracy, float targets of the answer's shape by the mean absolute error.
    Raises SamplesError if labels and answers (n, ...) do not fit the metric.
    """
    if name is not None and ":" in name:
        return _own_metric(name)
    if name is not None:
        check_name(name)
    is_target = labels.dtype.kind == "f" and labels.shape == scores.shape
    is_classes = labels.dtype.kind in "iub" and labels.size == len(labels) and scores.size and _classes(scores) > 0
    if name is None:
        name = "top-1" if is_classes else "mae"
    if name == "mae" and not is_target:
        raise SamplesError(
            f"{source}: labels {labels.dtype} of shape {labels.shape} do not fit outputs {scores.shape}",
            hint="give class numbers (n,) for a classifier, or float targets of the output's shape",
        )
    if name != "mae" and not is_classes:
        raise SamplesError(
            f"{source}: labels {labels.dtype} of shape {labels.shape} are no class numbers for outputs {scores.shape}",
            hint="give whole numbers (n,), or choose another --metric",
        )
    if name != "mae":
        _check_range(labels, max(_classes(scores), 2), source)
    if name == "top-5" and _classes(scores) <= 5:
        raise SamplesError(f"top-5 of {_classes(scores)} classes is always right", hint="take --metric top-1")
    return _BUILT_IN[name]


def predicted_classes(scores: Array) -> Array:
    """The class of each answer: the largest score, or for a single one whether it is over 0.5 (a logit: over 0)."""
    if _classes(scores) > 1:
        return np.asarray(scores.argmax(axis=1))
    single = scores.reshape(len(scores))
    is_probability = bool(single.min() >= 0 and single.max() <= 1)
    return (single > (0.5 if is_probability else 0.0)).astype(np.int64)


def roc_auc(labels: Array, scores: Array) -> float:
    """Area under the ROC curve: one class against the rest, the mean over the classes that the labels have.

    Raises SamplesError where the labels are all of one class: there is no curve then.
    """
    labels = labels.reshape(-1)
    if _classes(scores) == 1:
        scores = scores.reshape(len(scores), 1)
        columns = [(0, 1)]
    elif scores.shape[1] == 2:
        columns = [(1, 1)]
    else:
        columns = [(c, c) for c in range(scores.shape[1])]
    areas = [_area(labels == of, scores[:, column]) for column, of in columns]
    known = [area for area in areas if area is not None]
    if not known:
        raise SamplesError("AUC needs labels of at least two classes", hint="give labelled samples of every class")
    return float(np.mean(known))


def f1_score(labels: Array, scores: Array) -> float:
    """F1: of class 1 where there are two, else the mean over the classes that occur in labels or answers."""
    labels, found = labels.reshape(-1).astype(np.int64), predicted_classes(scores)
    if max(_classes(scores), 2) == 2:
        return _f1(labels == 1, found == 1)
    return float(np.mean([_f1(labels == c, found == c) for c in np.union1d(labels, found)]))


def _area(positive: Array, scores: Array) -> float | None:
    """Mann and Whitney's U over all pairs, ties half: https://en.wikipedia.org/wiki/Receiver_operating_characteristic."""
    ones = int(positive.sum())
    zeros = len(positive) - ones
    if not ones or not zeros:
        return None
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2.0)[inverse.reshape(-1)]  # from 1; the mean rank for equal scores
    return float((ranks[positive].sum() - ones * (ones + 1) / 2.0) / (ones * zeros))


def _f1(positive: Array, found: Array) -> float:
    both = int((positive & found).sum())
    told = int(positive.sum()) + int(found.sum())
    return 2.0 * both / told if told else 0.0


def _top1(labels: Array, scores: Array) -> Array:
    return np.asarray(predicted_classes(scores) == labels.reshape(-1), np.float64)


def _top5(labels: Array, scores: Array) -> Array:
    best = np.argsort(-scores, axis=1, kind="stable")[:, :5]
    return np.asarray((best == labels.reshape(-1, 1)).any(axis=1), np.float64)


def _errors(targets: Array, answers: Array) -> Array:
    return np.asarray(np.abs(answers.astype(np.float64) - targets).reshape(len(targets), -1).mean(axis=1))


def _mean_of(each: Callable[[Array, Array], Array]) -> Callable[[Array, Array], float]:
    return lambda labels, scores: float(each(labels, scores).mean())


_BUILT_IN = {
    "top-1": Metric("top-1 accuracy", _mean_of(_top1), _top1),
    "top-5": Metric("top-5 accuracy", _mean_of(_top5), _top5),
    "auc": Metric("AUC", roc_auc),
    "f1": Metric("F1", f1_score),
    "mae": Metric("mean absolute error", _mean_of(_errors), _errors, lower_is_better=True, in_points=False),
}


def _classes(scores: Array) -> int:
    """How many scores an answer has; 0 if it is no list of scores."""
    if scores.ndim == 1:
        return 1
    return int(scores.shape[1]) if scores.ndim == 2 else 0


def _check_range(labels: Array, classes: int, source: str) -> None:
    lowest, highest = int(labels.min()), int(labels.max())
    if lowest < 0 or highest >= classes:
        raise SamplesError(
            f"{source}: labels go from {lowest} to {highest}, the model has {classes} classes",
            hint=f"number the classes 0 to {classes - 1}, in the order of the model's outputs",
        )


def _own_metric(name: str) -> Metric:
    """FILE.py:FUNCTION, called with (labels, answers); the file is run, which its owner asked for by naming it."""
    place, _, called = name.rpartition(":")
    example = "def wer(y_true, y_pred) -> float: ...   and for an error: wer.lower_is_better = True"
    if not Path(place).is_file():
        raise InputError(f"{place} does not exist", hint=f"--metric file.py:function; {example}")
    loading = importlib.util.spec_from_file_location(Path(place).stem, place)
    if loading is None or loading.loader is None:
        raise InputError(f"{place} is not a Python file", hint=f"--metric file.py:function; {example}")
    module = importlib.util.module_from_spec(loading)
    try:
        loading.loader.exec_module(module)
    except Exception as error:  # whatever a person's own code raises
        raise InputError(
            f"{place} cannot be loaded: {type(error).__name__}: {error}", hint="run it by itself"
        ) from error
    function = getattr(module, called, None)
    if not callable(function):
        raise InputError(f"{place} has no function {called!r}", hint=example)

    def score(labels: Array, answers: Array) -> float:
        try:
            return float(function(labels, answers))
        except Exception as error:
            raise InputError(
                f"{name} failed: {type(error).__name__}: {error}",
                hint=f"it gets labels {labels.shape} and answers {answers.shape} and returns a number",
            ) from error

    worse = bool(getattr(function, "lower_is_better", False))
    return Metric(called, score, lower_is_better=worse, in_points=False)
