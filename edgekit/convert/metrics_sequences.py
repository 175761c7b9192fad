"""Metrics of answers that are sequences: what CTC outputs say, and how many edits lie between that and the labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Array = np.ndarray
SPACES = (" ", "|", "<space>")  # class names that end a word
PIECE = "▁"  # what SentencePiece begins a word with
BLANKS = ("<blank>", "[blank]", "<pad>", "[PAD]", "<b>", "blank", "_", "")  # class names of CTC's blank


def is_sequence(labels: Array, answers: Array) -> bool:
    """Whether labels (n, most) of whole numbers can be what answers (n, time, vocabulary), or tokens (n, time), say."""
    if labels.dtype.kind not in "iu" or labels.ndim != 2 or len(labels) != len(answers):
        return False
    return (answers.ndim == 3 and answers.shape[2] > 1) or (answers.ndim == 2 and answers.dtype.kind in "iu")


def find_blank(labels: Array, answers: Array, class_names: Sequence[str] = ()) -> int | None:
    """The number of CTC's blank among the classes of `answers` (n, time, vocabulary); None for answers that are tokens.

    The class name that says so; else the first class or the last, whichever the labels never have; if neither has
    it, the one that these answers have more often.
    """
    if answers.ndim != 3:
        return None
    last = int(answers.shape[2]) - 1
    named = [number for number, name in enumerate(class_names[: last + 1]) if name in BLANKS]
    if len(named) == 1:
        return named[0]
    if class_names and len(class_names) == last:  # a name for all but one
        return last
    free = [number for number in (last, 0) if not (labels == number).any()] or [last, 0]
    best: Array = answers.argmax(axis=2)
    return max(free, key=lambda number: int((best == number).sum()))


def decoded(answers: Array, blank: int | None) -> list[list[int]]:
    """The tokens of each answer: CTC's best path, repetitions and blanks taken out; of tokens those that are not negative.

    https://en.wikipedia.org/wiki/Connectionist_temporal_classification, greedy.
    """
    if blank is None:
        return [[int(token) for token in row if token >= 0] for row in answers]
    best = answers.argmax(axis=2)
    new = np.ones(best.shape, bool)
    new[:, 1:] = best[:, 1:] != best[:, :-1]
    return [[int(token) for token in row[first & (row != blank)]] for row, first in zip(best, new, strict=True)]


def units(tokens: Sequence[int], class_names: Sequence[str], *, words: bool) -> list[str]:
    """What is counted: the words, or the characters, that the tokens spell.

    Without class names among which one is a space (SPACES, or pieces that begin with PIECE) every token is one.
    """
    names = [class_names[token] if token < len(class_names) else f"<{token}>" for token in tokens]
    if not any(name in SPACES or name.startswith(PIECE) for name in class_names):
        return names
    text = "".join(" " if name in SPACES else name.replace(PIECE, " ") for name in names)
    return text.split() if words else list(" ".join(text.split()))


def edits_and_lengths(
    labels: Array, answers: Array, *, blank: int | None, class_names: Sequence[str], words: bool
) -> Array:
    """(n, 2): the edits from each label to its answer, and the label's length, in words or characters."""
    rows = []
    for wanted, got in zip(labels, decoded(answers, blank), strict=True):
        truth = units([int(token) for token in wanted if token >= 0], class_names, words=words)
        rows.append((edit_distance(truth, units(got, class_names, words=words)), len(truth)))
    return np.array(rows, np.float64)


def edit_distance(a: Sequence[object], b: Sequence[object]) -> int:
    """Levenshtein's: the fewest insertions, deletions and substitutions, https://en.wikipedia.org/wiki/Levenshtein_distance."""
    number = {unit: i for i, unit in enumerate(dict.fromkeys([*a, *b]))}
    left, right = ([number[unit] for unit in side] for side in (a, b))
    places = np.arange(len(right) + 1)
    row, columns = places.copy(), np.array(right, np.int64)
    for place, unit in enumerate(left, 1):
        new = np.empty_like(row)
        new[0] = place
        new[1:] = np.minimum(row[1:] + 1, row[:-1] + (columns != unit))
        row = np.minimum.accumulate(new - places) + places  # insertions, all at once
    return int(row[-1])


def ratio(rows: Array) -> float:
    """The sum of the first column by that of the second."""
    above, below = rows.sum(axis=0)
    return float(above / below) if below else float("nan")
