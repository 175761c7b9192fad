"""How good an int8 model is beside the float one: measured with the very runner that serves it, on the same inputs."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgekit.bundle import Quality
from edgekit.convert.samples import Samples
from edgekit.errors import SamplesError
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
    signal = sum(float(np.square(f, dtype=np.float64).sum()) for f in float_answers)
    noise = sum(
        float(np.square(f.astype(np.float64) - q).sum()) for f, q in zip(float_answers, int8_answers, strict=True)
    )
    decibel = 10 * np.log10(signal / noise) if signal and noise else (300.0 if not noise else -300.0)
    found = [Quality("SQNR to float, dB", round(float(decibel), 2), None, count, source)]
    if _is_scores(float_answers) and (classes or _is_probabilities(float_answers[0])):
        same = float(np.mean(float_answers[0].argmax(1) == int8_answers[0].argmax(1)))
        found.append(Quality("same class as float", round(same, 6), None, count, source))
    return found


def judged(float_answers: list[np.ndarray], int8_answers: list[np.ndarray], samples: Samples) -> Quality:
    """The task metric on labelled samples: top-1 accuracy for class labels, mean absolute error for float targets.

    Raises SamplesError if the labels are neither.
    """
    labels = samples.labels
    assert labels is not None
    source = f"measured on the workstation, {samples.name}"
    if labels.dtype.kind in "iub" and labels.size == len(labels) and _is_scores(float_answers):
        labels = labels.reshape(-1)
        classes = float_answers[0].shape[1]
        if int(labels.min()) < 0 or int(labels.max()) >= classes:
            raise SamplesError(
                f"{samples.source}: labels go from {labels.min()} to {labels.max()}, the model has {classes} classes",
                hint=f"number the classes 0 to {classes - 1}, in the order of the model's outputs",
            )
        right = [float(np.mean(found[0].argmax(1) == labels)) for found in (int8_answers, float_answers)]
        return Quality("top-1 accuracy", round(right[0], 6), round(right[1], 6), len(labels), source)
    if labels.dtype.kind == "f" and labels.shape == float_answers[0].shape:
        error = [float(np.abs(found[0] - labels).mean()) for found in (int8_answers, float_answers)]
        return Quality("mean absolute error", round(error[0], 9), round(error[1], 9), len(labels), source)
    raise SamplesError(
        f"{samples.source}: labels {labels.dtype} of shape {labels.shape} do not fit outputs {float_answers[0].shape}",
        hint="give class numbers (n,) for a classifier, or float targets of the output's shape",
    )


def _is_scores(outputs: list[np.ndarray]) -> bool:
    return len(outputs) == 1 and outputs[0].ndim == 2 and outputs[0].shape[1] > 1


def _is_probabilities(answers: np.ndarray) -> bool:
    return bool((answers >= 0).all() and np.allclose(answers.sum(axis=1), 1.0, atol=1e-3))
