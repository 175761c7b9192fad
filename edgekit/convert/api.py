"""`edgekit convert` for Python programs: the same options under the same names, and samples that are in memory too."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from edgekit.convert import ConversionResult
from edgekit.convert import convert as convert_files
from edgekit.convert.gate import MAX_DROP
from edgekit.convert.modes import AUTO
from edgekit.convert.samples import Samples
from edgekit.convert.samples_memory import samples_of
from edgekit.convert.settle import MOST

PathLike = str | os.PathLike[str]


def convert(
    model: Any,
    output: PathLike,
    samples: Any,
    *,
    evaluate: Any = None,
    max_samples: int | None = None,
    target: str | None = None,
    preprocess: PathLike | None = None,
    labels: PathLike | None = None,
    mode: str | Sequence[str] = "int8",
    ranges: str = AUTO,
    input_type: str = "int8",
    output_type: str = "int8",
    recipe: PathLike | None = None,
    repair: str = "mixed",
    delegate: str | Sequence[str] = (),
    goal: str | None = None,
    max_memory: float | None = None,
    max_p95: float | None = None,
    name: str | None = None,
    metric: str | None = None,
    max_drop: float = MAX_DROP,
    report: PathLike | bool = True,
    strict: bool = False,
    signature: str | None = None,
    custom: str | Sequence[str] = (),
    trust: bool = False,
    timeout: float = 1800.0,
    progress: Callable[..., None] = lambda stage: None,
) -> ConversionResult:
    """A bundle in `output`, as `edgekit convert MODEL -o OUTPUT --samples SAMPLES ...` makes it; see there.

    `samples` and `evaluate` are paths as on the command line (also "file.py:function"), or what is in memory: an array
    (n, ...), a pair (inputs, labels), a mapping of arrays by input name (labels: "y"), or anything that gives one sample
    after the other, such as a generator or a tf.data.Dataset. `model` may be a Keras model, a tf.function or a tf.Module.
    Without `max_samples` ranges take as many as they need. `mode` is one mode or several, `report=False` is
    `--no-report`, `timeout` is in seconds, `max_memory` in MiB, `max_p95` in ms;
    `progress` is called with the name of each stage. Samples that a
    device recorded are a folder that edgekit.deploy.samples.fetch_samples makes. Raises EdgekitError: what the command
    would print, with its exit code; QualityLost where the gate refuses the model.
    """
    return convert_files(
        model,
        Path(output),
        _given(samples, "samples", most=max_samples or MOST),
        evaluate=None if evaluate is None else _given(evaluate, "evaluate", most=None),
        max_samples=max_samples,
        target=target,
        spec=_path(preprocess),
        labels=_path(labels),
        modes=(mode,) if isinstance(mode, str) else tuple(mode),
        ranges=ranges,
        input_type=input_type,
        output_type=output_type,
        recipe=_path(recipe),
        repair=repair,
        delegates=(delegate,) if isinstance(delegate, str) else tuple(delegate),
        goal=goal,
        max_memory=max_memory,
        max_p95=max_p95,
        name=name,
        metric=metric,
        max_drop=max_drop,
        report=report if isinstance(report, bool) else Path(report),
        strict=strict,
        signature=signature,
        custom=(custom,) if isinstance(custom, str) else tuple(custom),
        trust=trust,
        timeout_s=timeout,
        progress=progress,
    )


def _given(given: Any, name: str, *, most: int | None) -> Path | Samples:
    return Path(given) if isinstance(given, str | os.PathLike) else samples_of(given, name, most=most)


def _path(given: PathLike | None) -> Path | None:
    return None if given is None else Path(given)
