"""Which of many samples to use: each once, every class alike, as many as the ranges need."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

SETTLED = 0.95  # share of the final width of the ranges: a range 5 % too wide costs 0.4 dB


def first_of_each(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """The indexes of the samples that are not copies, bit by bit, of an earlier one."""
    seen: dict[bytes, int] = {}
    for index in range(min(len(array) for array in arrays.values())):
        digest = hashlib.sha256()
        for array in arrays.values():
            sample = np.ascontiguousarray(array[index])
            digest.update(f"{sample.dtype} {sample.shape}".encode())
            digest.update(sample.tobytes())
        seen.setdefault(digest.digest(), index)
    return np.array(sorted(seen.values()), int)


def spread(count: int, wanted: int) -> np.ndarray:
    """The indexes of `wanted` samples, evenly spread over `count`; all of them if there are no more."""
    return np.unique(np.linspace(0, count - 1, min(count, wanted)).round().astype(int)) if count else np.zeros(0, int)


def balanced(classes: Sequence[object] | np.ndarray, wanted: int) -> np.ndarray:
    """The indexes of `wanted` samples, of every class as many as of any other, as far as there are; each class spread.

    What small classes lack is filled up from the others. The same answer every time.
    """
    rows: dict[object, list[int]] = {}
    for index, name in enumerate(classes):
        rows.setdefault(name.item() if isinstance(name, np.generic) else name, []).append(index)
    left = min(wanted, len(classes))
    quota = dict.fromkeys(rows, 0)
    waiting = sorted(
        rows, key=lambda name: (len(rows[name]), str(name))
    )  # small classes first: they give what they have
    for place, name in enumerate(waiting):
        quota[name] = min(len(rows[name]), left // (len(waiting) - place))
        left -= quota[name]
    chosen = [rows[name][i] for name in rows for i in (spread(len(rows[name]), quota[name]) if quota[name] else ())]
    return np.array(sorted(chosen), int)


def pick(arrays: Mapping[str, np.ndarray], labels: np.ndarray | None, wanted: int) -> np.ndarray:
    """The indexes of at most `wanted` samples: no copies, balanced by class where labels are class numbers."""
    unique = first_of_each(arrays)
    if labels is not None and labels.dtype.kind in "iub" and labels.size == len(labels):
        return np.asarray(unique[balanced(labels.reshape(-1)[unique], wanted)])
    return np.asarray(unique[spread(len(unique), wanted)])


def in_order(labels: np.ndarray | None, count: int) -> np.ndarray:
    """The places 0 to `count` in the order in which they are used: class by class in turn, each spread from the start.

    So the first of any number are balanced, and from all over the recording: places are halved again and again, as van
    der Corput did. Labels that are no class numbers, or None: one class.
    """
    is_class = labels is not None and labels.dtype.kind in "iub" and labels.size == count
    classes = labels.reshape(-1) if is_class and labels is not None else np.zeros(count, int)
    turn = np.empty(count, int)  # of each place within its class
    for name in np.unique(classes):
        rows = np.flatnonzero(classes == name)
        bits = max(len(rows) - 1, 1).bit_length()
        turn[rows[sorted(range(len(rows)), key=lambda place: int(f"{place:0{bits}b}"[::-1], 2))]] = range(len(rows))
    return np.lexsort((np.arange(count), classes, turn))


def same_shape(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """The indexes of the samples whose shapes most others have too; all of them where the shapes do not differ."""
    columns = [[np.shape(sample) for sample in array] for array in arrays.values() if array.dtype == object]
    if not columns:
        return np.arange(len(next(iter(arrays.values()))))
    rows = list(zip(*columns, strict=True))
    usual = Counter(rows).most_common(1)[0][0]
    return np.array([index for index, shapes in enumerate(rows) if shapes == usual], int)


def convergence(low: np.ndarray, high: np.ndarray) -> list[tuple[int, float]]:
    """(count, share): how much of their final width the ranges have after so many samples, mean over the tensors.

    `low` and `high` are the extremes of each sample in the order in which they were used, (samples, tensors) or
    (samples,). Counts 1, 2, 4, ... and all. Tensors that never vary say nothing and are left out.
    """
    lows, highs = (np.asarray(side, np.float64).reshape(len(side), -1) for side in (low, high))
    if not len(lows):
        return []
    widths = np.maximum.accumulate(highs) - np.minimum.accumulate(lows)
    final = widths[-1]
    used = np.isfinite(final) & (final > 0)
    counts = [1 << power for power in range(len(lows).bit_length()) if 1 << power < len(lows)] + [len(lows)]
    if not used.any():
        return [(count, 1.0) for count in counts]
    return [(count, float((widths[count - 1, used] / final[used]).mean())) for count in counts]


def enough(curve: Sequence[tuple[int, float]], *, share: float = SETTLED) -> int | None:
    """The first count with that share of the final ranges; None if only all of them, so that more would widen them still."""
    count = next((count for count, reached in curve if reached >= share), None)
    return count if curve and count != curve[-1][0] else None
