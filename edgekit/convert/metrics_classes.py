"""Metrics of answers that are classes: one for each sample, or one for each pixel or time step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgekit.errors import SamplesError

Array = np.ndarray
VOID = 255  # the usual number, in class maps, of pixels that nobody labelled; -1 says the same


@dataclass(frozen=True)
class Beside:
    """Labels beside answers, position by position: one position a sample for a classifier, one a pixel for a map."""

    labels: Array  # (n, positions) whole numbers
    found: Array  # (n, positions) the class that the model gives
    counts: Array  # (n, positions) False where nobody knows the class
    scores: Array | None  # (n, positions, classes); None: the model gives class numbers
    classes: int  # how many there are at most
    is_map: bool


def beside(labels: Array, answers: Array) -> Beside | None:
    """None unless the labels are whole numbers (n, ...) and the answers scores (n, ..., classes) of the same positions.

    Scores of maps may have their classes in front (n, classes, h, w), as PyTorch does, or none, where there are two; answers
    that are whole numbers are taken for classes. Labels of a classifier may be one-hot (n, classes). In maps -1 and VOID
    (where the model has no such class) do not count.
    """
    if labels.dtype.kind not in "iub" or not answers.size or len(labels) != len(answers):
        return None
    if labels.ndim > 1 and labels.shape[-1] == 1:
        labels = labels[..., 0]
    elif labels.ndim == 2 and labels.shape == answers.shape and labels.shape[1] > 1 and answers.dtype.kind == "f":
        if _is_one_hot(labels):
            labels = labels.argmax(axis=1)
        elif np.allclose(answers.sum(axis=1), 1.0, atol=1e-2):  # one class of several, but labels with several
            return None
    is_map, count = labels.ndim > 1, len(labels)
    scores: Array | None
    if answers.dtype.kind in "iu" and answers.shape == labels.shape:
        scores, found = None, answers
        classes = int(max(answers.max(), labels[labels != VOID].max(initial=0) if is_map else labels.max())) + 1
    else:
        if answers.shape == labels.shape:
            scores = answers[..., None]
        elif answers.shape[:-1] == labels.shape:
            scores = answers
        elif labels.ndim > 2 and (count, *answers.shape[2:]) == labels.shape:
            scores = np.moveaxis(answers, 1, -1)
        else:
            return None
        found, classes = _largest(scores), max(scores.shape[-1], 2)
        scores = scores.reshape(count, -1, scores.shape[-1])
    flat = labels.reshape(count, -1).astype(np.int64)
    counts = np.ones(flat.shape, bool)
    if is_map:
        counts = (flat != -1) & ((flat != VOID) | (classes > VOID))
    return Beside(flat, found.reshape(count, -1).astype(np.int64), counts, scores, classes, is_map)


def _is_one_hot(labels: Array) -> bool:
    return bool(((labels == 0) | (labels == 1)).all() and (labels.sum(axis=1) == 1).all())


def predicted_classes(scores: Array) -> Array:
    """The class of each answer (n, classes): the largest score, or for a single one whether it is over 0.5 (a logit: 0)."""
    return _largest(scores if scores.ndim > 1 else scores[:, None])


def _largest(scores: Array) -> Array:
    """(..., classes) -> (...)."""
    if scores.shape[-1] > 1:
        return np.asarray(scores.argmax(axis=-1))
    single = scores[..., 0]
    is_probability = bool(single.size and single.min() >= 0 and single.max() <= 1)
    return (single > (0.5 if is_probability else 0.0)).astype(np.int64)


# --- what each sample contributes, and what the metric makes of many -------------------------------------------------


def right_ones(given: Beside) -> Array:
    """1 or 0 for each sample of a classifier; (n, 2) for maps: positions that are right, positions that count."""
    right = (given.found == given.labels) & given.counts
    if not given.is_map:
        return np.asarray(right[:, 0], np.float64)
    return np.stack([right.sum(axis=1), given.counts.sum(axis=1)], axis=1).astype(np.float64)


def in_top5(given: Beside) -> Array:
    """1 for each sample whose class is among the five largest scores, else 0."""
    assert given.scores is not None
    best = np.argsort(-given.scores[:, 0], axis=1, kind="stable")[:, :5]
    return np.asarray((best == given.labels).any(axis=1), np.float64)


def overlaps(given: Beside) -> Array:
    """(n, classes, 3): positions of each class in both, in the labels, in the answers."""
    n, classes = len(given.labels), given.classes
    rows = np.repeat(np.arange(n)[:, None], given.labels.shape[1], axis=1)
    wide = max(classes, int(given.found.max(initial=0)) + 1, int(given.labels.max(initial=0)) + 1)

    def count(numbers: Array, where: Array) -> Array:
        found = np.bincount(rows[where] * wide + numbers[where], minlength=n * wide)
        return found.reshape(n, wide)[:, :classes]

    both = given.counts & (given.labels == given.found)
    columns = [count(given.labels, both), count(given.labels, given.counts), count(given.found, given.counts)]
    return np.stack(columns, axis=2)


def pairs(given: Beside) -> Array:
    """(n, 2): label and answer of a classifier's samples; what `overlaps` would say, without a column for each class."""
    return np.concatenate([given.labels, given.found], axis=1)


def f1_of_pairs(rows: Array, classes: int) -> float:
    """F1 of (label, answer) rows: of class 1 where there are two, else the mean over the classes that occur."""
    columns = [rows[rows[:, 0] == rows[:, 1], 0], rows[:, 0], rows[:, 1]]
    return f1_of_counts(np.stack([np.bincount(c, minlength=classes) for c in columns], axis=1)[None])


def f1_of_counts(rows: Array) -> float:
    """F1 (of a class map: the Dice coefficient) of `overlaps` rows."""
    both, labelled, found = rows.sum(axis=0).T
    if len(both) == 2:
        both, labelled, found = both[1:], labelled[1:], found[1:]
        return float(2.0 * both[0] / max(labelled[0] + found[0], 1))
    told = labelled + found
    return float(np.mean(2.0 * both[told > 0] / told[told > 0])) if told.any() else 0.0


def mean_iou(rows: Array) -> float:
    """Intersection over union of `overlaps` rows, each summed over all samples: the mean over the classes that occur."""
    both, labelled, found = rows.sum(axis=0).T
    union = labelled + found - both
    return float(np.mean(both[union > 0] / union[union > 0])) if union.any() else 0.0


def roc_auc(rows: Array) -> float:
    """Area under the ROC curve of (label, *scores) rows: one class against the rest, the mean over the labels' classes.

    Raises SamplesError where the labels are all of one class: there is no curve then.
    """
    labels, scores = rows[:, 0], rows[:, 1:]
    if scores.shape[1] == 1:
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


def scored(given: Beside) -> Array:
    """(n, 1 + classes): label and scores."""
    assert given.scores is not None
    return np.concatenate([given.labels, given.scores[:, 0].astype(np.float64)], axis=1)


def _area(positive: Array, scores: Array) -> float | None:
    """Mann and Whitney's U over all pairs, ties half: https://en.wikipedia.org/wiki/Receiver_operating_characteristic."""
    ones = int(positive.sum())
    zeros = len(positive) - ones
    if not ones or not zeros:
        return None
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2.0)[inverse.reshape(-1)]  # from 1; the mean rank for equal scores
    return float((ranks[positive].sum() - ones * (ones + 1) / 2.0) / (ones * zeros))
