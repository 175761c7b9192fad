"""What an answer of the suite's networks is worth: (labels, answers) -> a number. Also for `edgekit convert --metric`."""

from __future__ import annotations

import numpy as np

OVERLAP = 0.5  # intersection over union from which two boxes are the same thing


def top1(labels: np.ndarray, scores: np.ndarray) -> float:
    return float((scores.argmax(-1) == labels).mean())


def mae(labels: np.ndarray, answers: np.ndarray) -> float:
    return float(np.abs(answers - labels).mean())


mae.lower_is_better = True


def iou(masks: np.ndarray, answers: np.ndarray) -> float:
    """Intersection over union of all the pixels that are something."""
    found, wanted = answers > 0.5, masks > 0.5
    return float((found & wanted).sum() / max((found | wanted).sum(), 1))


def ap50(labels: np.ndarray, answers: np.ndarray) -> float:
    """Mean average precision at an overlap of 0.5, over the classes.

    `labels` (n, most, 5): left, top, right, bottom, class (-1: none); `answers` (n, candidates, 4 + classes): centre,
    width, height, scores. Area under the curve of precision over recall, made falling, as in PASCAL VOC from 2010 on.
    """
    areas = []
    for of in range(answers.shape[2] - 4):
        found = [_kept(answer[:, :4], answer[:, 4 + of]) for answer in answers]
        hits, scores, total = [], [], 0
        for (boxes, confidence), truth in zip(found, labels, strict=True):
            wanted = truth[truth[:, 4] == of, :4]
            hits += _hits(boxes, wanted)
            scores += list(confidence)
            total += len(wanted)
        if total:
            right = np.array(hits, bool)[np.argsort(-np.array(scores), kind="stable")]
            areas.append(_area(right, total))
    return float(np.mean(areas))


def _kept(boxes: np.ndarray, scores: np.ndarray, least: float = 0.05) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (left, top, right, bottom) and scores, best first, without those that overlap a better one."""
    order = np.argsort(-scores, kind="stable")
    order = order[scores[order] >= least]
    corners = np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], axis=1)
    kept: list[int] = []
    for index in order:
        if all(overlap <= OVERLAP for overlap in _overlaps(corners[index], corners[kept])):
            kept.append(int(index))
    return corners[kept], scores[kept]


def _hits(boxes: np.ndarray, wanted: np.ndarray) -> list[bool]:
    """For each box, best first, whether it is on one of `wanted` that no better box was on."""
    free = list(range(len(wanted)))
    hits = []
    for box in boxes:
        overlaps = _overlaps(box, wanted[free])
        hit = bool(len(free) and overlaps.max() >= OVERLAP)
        if hit:
            del free[int(overlaps.argmax())]
        hits.append(hit)
    return hits


def _overlaps(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    shared = np.prod(np.maximum(high - low, 0), axis=1)
    areas = np.prod(others[:, 2:] - others[:, :2], axis=1) + np.prod(box[2:] - box[:2])
    return shared / np.maximum(areas - shared, 1e-12)


def _area(right: np.ndarray, total: int) -> float:
    hits = np.cumsum(right)
    recall, precision = hits / total, hits / np.arange(1, len(right) + 1)
    falling = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(recall, prepend=0.0) * falling))
