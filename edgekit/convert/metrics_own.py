"""Metrics that are functions of a person's own, `file.py:function`."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.convert.metric import Array, Metric, Outputs
from edgekit.errors import InputError

_EXAMPLE = "def wer(y_true, y_pred) -> float: ...   and for an error: wer.lower_is_better = True"


@dataclass(frozen=True)
class _Judged:
    """Labels and outputs that can be chosen like rows, for functions that take them whole."""

    labels: Array
    outputs: Outputs

    def __getitem__(self, chosen: Any) -> _Judged:
        return _Judged(self.labels[chosen], {name: answers[chosen] for name, answers in self.outputs.items()})


def own_metric(name: str) -> Metric:
    """FILE.py:FUNCTION, called with labels and answers: an array, or of several outputs a dict of arrays by name.

    The file is run, which its owner asked for by naming it. `lower_is_better = True` on the function makes it an error,
    `in_points = True` a share of 1, so that --max-drop is points.
    """
    place, _, called = name.rpartition(":")
    if not Path(place).is_file():
        raise InputError(f"{place} does not exist", hint=f"--metric file.py:function; {_EXAMPLE}")
    loading = importlib.util.spec_from_file_location(Path(place).stem, place)
    if loading is None or loading.loader is None:
        raise InputError(f"{place} is not a Python file", hint=f"--metric file.py:function; {_EXAMPLE}")
    module = importlib.util.module_from_spec(loading)
    try:
        loading.loader.exec_module(module)
    except Exception as error:  # whatever a person's own code raises
        raise InputError(
            f"{place} cannot be loaded: {type(error).__name__}: {error}", hint="run it by itself"
        ) from error
    function = getattr(module, called, None)
    if not callable(function):
        raise InputError(f"{place} has no function {called!r}", hint=_EXAMPLE)

    def total(given: _Judged) -> float:
        outputs = dict(given.outputs)
        try:
            return float(function(given.labels, outputs if len(outputs) > 1 else next(iter(outputs.values()))))
        except Exception as error:
            shapes = ", ".join(f"{output} {answers.shape}" for output, answers in outputs.items())
            raise InputError(
                f"{name} failed: {type(error).__name__}: {error}",
                hint=f"it gets labels {given.labels.shape} and answers {shapes} and returns a number",
            ) from error

    lower, points = (bool(getattr(function, key, False)) for key in ("lower_is_better", "in_points"))
    return Metric(called, _Judged, total, lower_is_better=lower, in_points=points)
