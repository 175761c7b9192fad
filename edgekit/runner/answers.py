"""What the command line says of an answer: the best classes with their labels, or the values by output name."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from edgekit.runner.model import Model


def describe_answers(model: Model, answer: Any, *, top: int) -> Iterator[dict[str, Any]]:
    """For each answer that `model` gave, to a sample or to a batch: `top`, the best classes, best first, if there is one
    output and it is a vector; else `outputs`, name -> values. JSON has no NaN: such a value is None."""
    by_name = answer if isinstance(answer, dict) else {model.outputs[0].name: answer}
    # a sample's answer has the tensor's dimensions but the batch; a tensor without one counts whole
    first = model.outputs[0]
    dimensions = len(first.shape) - (first.shape[:1] == (1,))
    if np.ndim(by_name[first.name]) == dimensions:
        by_name = {name: np.asarray(values)[None] for name, values in by_name.items()}
    for i in range(len(by_name[first.name])):
        values = by_name[first.name][i]
        if len(by_name) == 1 and np.ndim(values) == 1 and np.size(values) > 1:
            yield {"top": _best(values, model.labels, top)}
        else:
            yield {"outputs": {name: _listed(values[i]) for name, values in by_name.items()}}


def answer_words(found: dict[str, Any]) -> str:
    """One line for a person."""
    if "top" in found:
        return "  ".join(f"{item['label']} {_shown(item['score'])}" for item in found["top"])
    return "  ".join(f"{name} {_shown(values)}" for name, values in found["outputs"].items())


def _best(values: Any, labels: tuple[str, ...], top: int) -> list[dict[str, Any]]:
    order = np.argsort(-values.astype(np.float64), kind="stable")[:top]  # NaN comes last
    return [
        {"class": int(i), "label": labels[i] if i < len(labels) else str(i), "score": _number(values[i])} for i in order
    ]


def _listed(values: Any) -> Any:
    return [_listed(value) for value in values] if np.ndim(values) else _number(values)


def _number(value: Any) -> Any:
    number = value.item()
    if isinstance(number, float):
        return float(f"{number:.7g}") if math.isfinite(number) else None
    return number


def _shown(values: Any) -> str:
    if isinstance(values, list):
        return "[" + " ".join(_shown(value) for value in values[:6]) + (" ...]" if len(values) > 6 else "]")
    return "nan" if values is None else f"{values:.3f}" if isinstance(values, float) else str(values)
