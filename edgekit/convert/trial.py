"""Is the preprocessing the one of the training? Tried with labelled samples: another scale, the channels the other way round."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from edgekit.convert.finding import Finding
from edgekit.convert.selection import spread

MOST_SAMPLES = 200
FEWEST_SAMPLES = 50
BETTER = 0.05  # gain in accuracy that is worth a word, if it is also beyond chance

Answer = Callable[[np.ndarray], np.ndarray]  # inputs (n, ...) as the model sees them -> scores (n, classes)


def preprocessing_findings(answer: Answer, inputs: np.ndarray, labels: np.ndarray) -> list[Finding]:
    """A warning if the float model is clearly more often right on inputs that were prepared otherwise.

    The gain must be three standard deviations of the samples on which the two ways differ, so that trying several ways finds
    nothing by chance. Too few samples, no class numbers, or whole numbers as inputs: nothing is tried.
    """
    labels = labels.reshape(-1)
    if (
        len(labels) != len(inputs)
        or len(labels) < FEWEST_SAMPLES
        or labels.dtype.kind not in "iu"
        or inputs.dtype.kind != "f"
    ):
        return []
    chosen = spread(len(inputs), MOST_SAMPLES)
    inputs, labels = inputs[chosen], labels[chosen]
    right = answer(inputs).argmax(axis=1) == labels
    best: tuple[float, str, np.ndarray] | None = None
    for name, changed in _ways(inputs).items():
        other = answer(changed).argmax(axis=1) == labels
        won, lost = int((other & ~right).sum()), int((right & ~other).sum())
        gain = (won - lost) / len(labels)
        if gain >= BETTER and won - lost >= 3 * np.sqrt(won + lost) and (best is None or gain > best[0]):
            best = (gain, name, other)
    if best is None:
        return []
    _, name, other = best
    return [
        Finding(
            "preprocessing",
            "input",
            f"the float model is right on {right.mean():.1%} of {len(labels)} labelled samples as they are prepared, and on "
            f"{other.mean():.1%} {name}",
            "prepare samples as in training: change range or colour in the --preprocess spec",
        )
    ]


def _ways(inputs: np.ndarray) -> Mapping[str, np.ndarray]:
    """What inputs could have looked like in training, by name."""
    low, high = float(inputs.min()), float(inputs.max())
    ways: dict[str, np.ndarray] = {}
    if high > 2.0:
        ways["with values divided by 255"] = inputs / 255
        ways["with values brought from 0..255 to -1..1"] = inputs / 127.5 - 1
    elif low >= 0.0:
        ways["with values multiplied by 255"] = inputs * 255
        ways["with values brought from 0..1 to -1..1"] = inputs * 2 - 1
    else:
        ways["with values brought from -1..1 to 0..1"] = inputs / 2 + 0.5
        ways["with values brought from -1..1 to 0..255"] = (inputs + 1) * 127.5
    if inputs.ndim == 4 and inputs.shape[-1] == 3:
        ways["with the channels in reverse order (BGR for RGB)"] = inputs[..., ::-1]
    return {name: np.ascontiguousarray(array, dtype=inputs.dtype) for name, array in ways.items()}
