"""How good an int8 model is beside the float one: measured with the very runner that serves it, on the same inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from edgekit.bundle import Quality
from edgekit.runner.model import Model


def answers(model: Model, inputs: Mapping[str, np.ndarray], *, raw_out: bool = False) -> list[np.ndarray]:
    """The model's answers to raw inputs (n, ...), one array (n, ...) for each of its outputs."""
    batches = {name: list(a) if a.dtype == object else a for name, a in inputs.items()}  # object: of different shapes
    given = batches if len(model.inputs) > 1 else batches[model.inputs[0].name]
    answer = model(given, raw_out=raw_out)
    return [answer[t.name] for t in model.outputs] if isinstance(answer, dict) else [answer]


def agreement(
    float_answers: list[np.ndarray], int8_answers: list[np.ndarray], source: str, *, classes: bool
) -> list[Quality]:
    """How the int8 answers compare with the float ones, without labels.

    SQNR = 10 log10(sum f^2 / sum (f - q)^2) in dB over all outputs. For a classifier (`classes`, or probabilities come
    out) also how often both have their largest value at the same place: for boxes or a spectrum that would say nothing.
    """
    count = len(float_answers[0])
    found = [Quality("SQNR to float, dB", round(sqnr_db(float_answers, int8_answers), 2), None, count, source)]
    if is_classifier(float_answers, classes=classes):
        same = float(np.mean(float_answers[0].argmax(1) == int8_answers[0].argmax(1)))
        found.append(Quality("same class as float", round(same, 6), None, count, source))
    return found


def is_classifier(outputs: list[np.ndarray], *, classes: bool) -> bool:
    """Whether the place of the largest value means something: one list of scores, known to be (`classes`) or that sums to 1."""
    return has_scores(outputs) and (classes or _is_probabilities(outputs[0]))


def sqnr_db(float_answers: Sequence[np.ndarray], other_answers: Sequence[np.ndarray]) -> float:
    """10 log10(sum f^2 / sum (f - q)^2) over all of the answers; 300 where they are equal."""
    signal = sum(float(np.square(f, dtype=np.float64).sum()) for f in float_answers)
    noise = sum(
        float(np.square(f.astype(np.float64) - q).sum()) for f, q in zip(float_answers, other_answers, strict=True)
    )
    return float(10 * np.log10(signal / noise)) if signal and noise else (300.0 if not noise else -300.0)


def has_scores(outputs: Sequence[np.ndarray]) -> bool:
    """Whether the model has one output, and that is a vector of scores."""
    return len(outputs) == 1 and outputs[0].ndim == 2 and outputs[0].shape[1] > 1


def _is_probabilities(answers: np.ndarray) -> bool:
    return bool((answers >= 0).all() and np.allclose(answers.sum(axis=1), 1.0, atol=1e-3))
