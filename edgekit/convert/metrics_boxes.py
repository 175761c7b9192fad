"""Mean average precision of object detectors, as COCO defines it: https://cocodataset.org/#detection-eval.

Labels are (n, most, 5): four corners and a class number for each object, rows of -1 after the last. Corners are the lowest
two coordinates, then the highest two, in the order and the units of the model's own boxes (TFLite: ymin, xmin, ymax, xmax,
as shares of the image); class numbers are the model's own too.

Outputs are one of, in any order:
- boxes (n, k, 4), classes (n, k), scores (n, k) and, optionally, how many of them count (n,): TFLite_Detection_PostProcess;
- boxes (n, k, 4) and scores (n, k, classes), or (n, k) for one class; here, boxes of a class that overlap by more than
  SAME_OBJECT are one object, so that it does not matter whether the model did that itself;
- one output (n, k, 6): corners, score, class.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

Array = np.ndarray
Outputs = Mapping[str, Array]
OVERLAPS = np.linspace(0.5, 0.95, 10)  # IoU from which on a box is right
RECALLS = np.linspace(0.0, 1.0, 101)
MOST = 100  # detections of a class in an image, the best ones
SAME_OBJECT = 0.6  # IoU; what TFLite_Detection_PostProcess does unless it is told otherwise
LEAST_SCORE = 0.001  # of (n, k, classes): lower ones are many and change nothing
MOST_COMPARED = 1000  # boxes of a class that are compared with one another


@dataclass(frozen=True)
class Found:
    """What was found in one image."""

    boxes: Array  # (k, 4) corners
    classes: Array  # (k,) whole numbers
    scores: Array  # (k,)


Reader = Callable[[Outputs], "list[Found]"]


def find_reader(outputs: Outputs) -> Reader | None:
    """A function from such outputs to what was found in each image; None if they are none of the forms above."""
    if len(outputs) == 1:
        ((name, only),) = outputs.items()
        return (lambda given: _rows_of_six(given[name])) if only.ndim == 3 and only.shape[2] == 6 else None
    boxes = [name for name, array in outputs.items() if array.ndim == 3 and array.shape[2] == 4]
    if len(boxes) == 2 and len(outputs) == 2:  # scores of four classes look like boxes: they are from 0 to 1
        boxes = [name for name in boxes if "box" in name.lower()][:1] or boxes[:1]
    if len(boxes) != 1:
        return None
    box, k = boxes[0], outputs[boxes[0]].shape[1]
    rest = {name: array for name, array in outputs.items() if name != box}
    counts = [name for name, array in rest.items() if array.size == len(array) and (k > 1 or len(rest) == 3)]
    count = counts[-1] if counts else None
    lists = [name for name, array in rest.items() if name != count and array.shape[1:] == (k,)]
    tables = [name for name, array in rest.items() if array.ndim == 3 and array.shape[1] == k]
    if len(rest) == 1 and tables:
        return lambda given: _one_each(given[box], given[tables[0]])
    if len(rest) == 1 and lists:
        return lambda given: _one_each(given[box], given[lists[0]][..., None])
    if len(lists) != 2 or len(rest) != 2 + (count is not None):
        return None
    class_name, score_name = _which(lists, outputs)
    return lambda given: _listed(
        given[box], given[class_name], given[score_name], None if count is None else given[count]
    )


def _which(lists: Sequence[str], outputs: Outputs) -> tuple[str, str]:
    """(classes, scores): classes are whole numbers; where both are, by name; else classes come first, as in TFLite."""
    whole = [name for name in lists if np.array_equal(outputs[name], np.rint(outputs[name]))]
    if len(whole) != 1:
        whole = [name for name in lists if "class" in name.lower()] or [
            name for name in lists if not any(word in name.lower() for word in ("score", "conf"))
        ]
    classes = whole[0] if whole else lists[0]
    return classes, next(name for name in lists if name != classes)


def _listed(boxes: Array, classes: Array, scores: Array, counts: Array | None) -> list[Found]:
    found = []
    for i in range(len(boxes)):
        kept = scores[i] > 0
        if counts is not None:
            kept &= np.arange(len(kept)) < round(float(counts[i].reshape(-1)[0]))
        found.append(Found(boxes[i][kept], np.rint(classes[i][kept]).astype(np.int64), scores[i][kept]))
    return found


def _rows_of_six(rows: Array) -> list[Found]:
    return _listed(rows[..., :4], rows[..., 5], rows[..., 4], None)


def _one_each(boxes: Array, scores: Array) -> list[Found]:
    """Of scores (n, k, classes): for each class the boxes that are not the same object as a better one."""
    found = []
    for places, table in zip(boxes, scores, strict=True):
        parts = []
        for number in range(table.shape[1]):
            order = np.argsort(-table[:, number], kind="stable")
            order = order[table[order, number] > LEAST_SCORE][:MOST_COMPARED]
            kept = _separate(places[order])
            parts.append((places[order][kept], np.full(len(kept), number), table[order, number][kept]))
        found.append(Found(*(np.concatenate(column) for column in zip(*parts, strict=True))))
    return found


def _separate(boxes: Array) -> Array:
    """The indexes of boxes, best first, that do not overlap with one kept before; at most MOST."""
    left = np.arange(len(boxes))
    kept: list[int] = []
    while len(left) and len(kept) < MOST:
        kept.append(left[0])
        left = left[1:][iou(boxes[left[:1]], boxes[left[1:]])[0] <= SAME_OBJECT]
    return np.array(kept, np.int64)


def iou(a: Array, b: Array) -> Array:
    """(len(a), len(b)): intersection over union of boxes given by their corners."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    both = np.clip(high - low, 0, None).prod(axis=2)
    union = _area(a)[:, None] + _area(b)[None] - both
    return np.asarray(np.divide(both, union, out=np.zeros_like(both), where=union > 0))


def _area(boxes: Array) -> Array:
    return np.asarray(np.clip(boxes[:, 2:] - boxes[:, :2], 0, None).prod(axis=1))


# --- matching, image by image, and what becomes of many images -------------------------------------------------------


@dataclass(frozen=True)
class Matched:
    """Detections, class by class and the surest first, and at which of OVERLAPS each is right; `matched[images]` draws.

    A drawing only says how often an image is in it: sorting and matching are done once.
    """

    image: Array  # (k,) of each detection
    right: Array  # (k, 10)
    ends: Array  # (classes + 1,) where the detections of each class that has objects begin, and the last end
    objects: Array  # (images, classes) how many there are
    weights: Array  # (images,) how often each counts

    def __getitem__(self, images: Array) -> Matched:
        return replace(self, weights=np.bincount(images, minlength=len(self.weights)).astype(np.float64))


def matched(labels: Array, found: Sequence[Found]) -> Matched:
    """Every object is found once, by the surest detection of its class that overlaps with it most; image by image."""
    classes = np.unique(labels[..., 4][labels[..., 4] >= 0])
    objects = (labels[..., 4][..., None] == classes).sum(axis=1)
    parts: list[tuple[Array, Array, Array, Array]] = []
    for place, (label, one) in enumerate(zip(labels, found, strict=True)):
        for column, number in enumerate(classes):
            of = np.flatnonzero(one.classes == number)
            if len(of):
                order = of[np.argsort(-one.scores[of], kind="stable")][:MOST]
                right = _right(iou(one.boxes[order], label[label[:, 4] == number, :4]))
                parts.append((np.full(len(order), place), np.full(len(order), column), one.scores[order], right))
    empty = (np.zeros(0, int), np.zeros(0, int), np.zeros(0), np.zeros((0, len(OVERLAPS)), bool))
    image, number_of, scores, right = (np.concatenate(arrays) for arrays in zip(empty, *parts, strict=True))
    order = np.lexsort((-scores, number_of))
    ends = np.searchsorted(number_of[order], np.arange(len(classes) + 1))
    return Matched(image[order], right[order], ends, objects, np.ones(len(labels)))


def _right(overlap: Array) -> Array:
    """(k, 10): whether each detection, best first, gets an object of its own; (k, objects) overlaps given."""
    right = np.zeros((len(overlap), len(OVERLAPS)), bool)
    free = np.ones((len(OVERLAPS), overlap.shape[1]), bool)
    if not overlap.shape[1]:
        return right
    rows = np.arange(len(OVERLAPS))
    for number, row in enumerate(overlap):
        here = np.where(free, row, -1.0)
        best = here.shape[1] - 1 - here[:, ::-1].argmax(axis=1)  # the last of equal ones, as COCO's own code
        right[number] = here[rows, best] >= OVERLAPS
        free[rows[right[number]], best[right[number]]] = False
    return right


def mean_average_precision(rows: Matched) -> float:
    """The mean of the average precision over all overlaps and over the classes that the labels have; NaN without any."""
    return _mean_precision(rows, slice(None))


def mean_precision_at_half(rows: Matched) -> float:
    """The same where an overlap of one half is enough."""
    return _mean_precision(rows, slice(0, 1))


def _mean_precision(rows: Matched, overlaps: slice) -> float:
    weights, objects = rows.weights[rows.image], rows.weights @ rows.objects
    found = []
    for number, (start, end) in enumerate(zip(rows.ends[:-1], rows.ends[1:], strict=True)):
        if objects[number]:
            drawn = start + np.flatnonzero(weights[start:end])
            found.append(_average_precision(rows.right[drawn, overlaps], weights[drawn], float(objects[number])))
    return float(np.mean(found)) if found else float("nan")


def _average_precision(right: Array, weights: Array, objects: float) -> float:
    """Precision at 101 recalls, each the best that is reached at that recall or a higher one: mean over the columns.

    A detection that counts twice is as good as two: what lies between them never has the better precision.
    """
    if not len(right):
        return 0.0
    hits = np.cumsum(right * weights[:, None], axis=0)
    precision = hits / np.cumsum(weights)[:, None]
    precision = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
    total = 0.0
    for column in range(right.shape[1]):
        places = np.searchsorted(hits[:, column] / objects, RECALLS, side="left")
        total += precision[places[places < len(right)], column].sum() / len(RECALLS)
    return float(total / right.shape[1])
