"""Two models beside one another on the same samples: quality, verdict, layers, speed here, and where they differ most."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.bundle import Quality
from edgekit.convert.describe import model_summary, operator_table
from edgekit.convert.flatbuffer import read_model
from edgekit.convert.gate import MAX_DROP, Verdict, decibel, judge_labelled, judge_unlabelled
from edgekit.convert.layers import LayerComparison, compare_layers
from edgekit.convert.metrics import find_metric, predicted_classes
from edgekit.convert.quality import agreement, answers, is_classifier
from edgekit.convert.samples import Samples
from edgekit.errors import SamplesError
from edgekit.runner.model import Model

WORST = 8  # samples shown
_TIMED_S = 0.4  # for both models together, at most


@dataclass(frozen=True)
class Side:
    """One of the two models. Times are None where nothing was timed."""

    file: str
    bytes: int
    weight_bytes: int
    quantization: str
    macs: int
    arena_bytes: int
    median_us: float | None
    p90_us: float | None


@dataclass(frozen=True)
class Worst:
    """A sample on which int8 is far from float. `label` is None without labels."""

    index: int
    label: int | None
    inputs: tuple[np.ndarray, ...]  # raw
    float_answer: np.ndarray  # of the first output
    int8_answer: np.ndarray
    sqnr_db: float


@dataclass(frozen=True)
class ClassChange:
    """How many samples went from one class to another when the model became int8."""

    truth: int | None
    float_class: int
    int8_class: int
    count: int


@dataclass(frozen=True)
class Comparison:
    """All that is known about int8 beside float."""

    float_side: Side
    int8_side: Side
    samples: str  # the file's name
    count: int
    is_classifier: bool
    has_labels: bool
    qualities: tuple[Quality, ...]
    verdict: Verdict
    layers: LayerComparison
    worst: tuple[Worst, ...]
    changes: tuple[ClassChange, ...]  # the most frequent first
    operators: tuple[Mapping[str, Any], ...] = field(default=())  # of the int8 model, as `edgekit inspect` has them
    variant: str = "int8"  # or whatever is beside float: int16x8, dynamic, ...


def compare_models(
    float_model: Model, float_path: Path, int8_model: Model, int8_path: Path, samples: Samples,
    *, metric: str | None = None, max_drop: float = MAX_DROP, class_names: Sequence[str] = (), timed: bool = True,
    variant: str = "int8", layers_of: Path | None = None,
) -> Comparison:  # fmt: skip
    """Both models on `samples`; with labels judged by `metric` (see find_metric), without by how they agree.

    `variant` is what the other side of float is called; `layers_of` a float file whose layers are compared instead, where
    `int8_path` was made of that and its channels are scaled. Raises SamplesError if the samples, or their labels, do not fit.
    """
    inputs = [samples.of_inputs([t.name for t in model.inputs]) for model in (float_model, int8_model)]
    with ThreadPoolExecutor(2) as pool:
        float_answers, int8_answers = pool.map(answers, (float_model, int8_model), inputs)
    if [a.shape for a in float_answers] != [a.shape for a in int8_answers]:
        shapes = [", ".join(str(a.shape[1:]) for a in found) for found in (float_answers, int8_answers)]
        raise SamplesError(
            f"the models do not answer alike: {shapes[0]} and {shapes[1]}", hint="compare two forms of one model"
        )
    named = [
        {t.name: a for t, a in zip(float_model.outputs, found, strict=True)} for found in (float_answers, int8_answers)
    ]
    verdict, qualities, is_classes = _judged(samples, named[0], named[1], int8_model, metric, max_drop, class_names)
    raw = [list(given.values()) for given in inputs]
    layers = compare_layers(float_model, layers_of or float_path, int8_model, int8_path, raw[1])
    times = _latency((float_model, int8_model), inputs) if timed else ((None, None), (None, None))
    labels = _class_labels(samples, len(float_answers[0])) if is_classes else None
    return Comparison(
        float_side=_side(float_model, float_path, *times[0]),
        int8_side=_side(int8_model, int8_path, *times[1]),
        samples=samples.name,
        count=samples.count,
        is_classifier=is_classes,
        has_labels=samples.labels is not None,
        qualities=qualities,
        verdict=replace(verdict, variant=variant),
        layers=layers,
        worst=_worst(raw[1], float_answers, int8_answers, labels, is_classes),
        changes=_changes(float_answers[0], int8_answers[0], labels) if is_classes else (),
        operators=tuple(operator_table(read_model(int8_path))),
        variant=variant,
    )


def judge_models(
    float_answers: Mapping[str, np.ndarray], int8_model: Model, samples: Samples,
    *, metric: str | None = None, max_drop: float = MAX_DROP, class_names: Sequence[str] = (), variant: str = "int8",
) -> Verdict:  # fmt: skip
    """Only what the gate says, as `compare_models` has it, of a model whose float answers (by output) are known."""
    got = answers(int8_model, samples.of_inputs([t.name for t in int8_model.inputs]))
    named = dict(zip(float_answers, got, strict=True))
    verdict, _, _ = _judged(samples, float_answers, named, int8_model, metric, max_drop, class_names)
    return replace(verdict, variant=variant)


def _judged(
    samples: Samples,
    float_named: Mapping[str, np.ndarray],
    int8_named: Mapping[str, np.ndarray],
    int8_model: Model,
    metric: str | None,
    max_drop: float,
    class_names: Sequence[str],
) -> tuple[Verdict, tuple[Quality, ...], bool]:
    """The gate's verdict, what was measured, and whether the answers are scores of classes."""
    source = f"measured on the workstation, {samples.name}"
    float_answers, int8_answers = list(float_named.values()), list(int8_named.values())
    task, verdict = [], None
    classes = bool(class_names)
    if samples.labels is not None:
        judge = find_metric(metric, samples.labels, float_named, source=samples.source, class_names=class_names)
        verdict = judge_labelled(judge, samples.labels, float_named, int8_named, max_drop=max_drop)
        value, float_value = round(verdict.int8_value, 9), round(verdict.float_value or 0.0, 9)
        task = [Quality(judge.name, value, float_value, samples.count, source)]
        classes |= judge.of_classes
    qualities = (*task, *agreement(float_answers, int8_answers, source, classes=classes))
    is_classes = is_classifier(float_answers, classes=classes)
    if verdict is None:
        step = int8_model.outputs[0].scale or 0.0
        verdict = judge_unlabelled(float_answers, int8_answers, classes=is_classes, step=step, max_drop=max_drop)
    return verdict, qualities, is_classes


def as_json(comparison: Comparison) -> dict[str, Any]:
    """The comparison in plain values, without the samples themselves."""
    fields = {name: value for name, value in vars(comparison).items() if name != "worst"}
    fields["worst"] = [{"index": w.index, "label": w.label, "sqnr_db": w.sqnr_db} for w in comparison.worst]
    fields["verdict"] = {**vars(comparison.verdict), "sentence": comparison.verdict.sentence}
    fields["verdict"] |= {side: _finite(fields["verdict"][side]) for side in ("low", "high")}
    return fields


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _side(model: Model, path: Path, median_us: float | None, p90_us: float | None) -> Side:
    about = model_summary(read_model(path))
    return Side(
        file=Path(model.variant.file).name,
        bytes=about["file_bytes"],
        weight_bytes=about["weight_bytes"],
        quantization=about["quantization"],
        macs=about["macs"],
        arena_bytes=about["arena_bytes"],
        median_us=median_us,
        p90_us=p90_us,
    )


def _latency(models: Sequence[Model], inputs: Sequence[Mapping[str, np.ndarray]]) -> tuple[tuple[float, float], ...]:
    """Median and 90th percentile of one answer in microseconds; the models take turns, so that a busy machine slows both."""
    samples = [{name: array[0] for name, array in given.items()} for given in inputs]
    for model, sample in zip(models, samples, strict=True):
        for _ in range(5):  # the first calls fill caches
            model(sample)
    taken: list[list[float]] = [[], []]
    end = time.perf_counter() + _TIMED_S
    while len(taken[0]) < 3 or (time.perf_counter() < end and len(taken[0]) < 1000):
        for found, model, sample in zip(taken, models, samples, strict=True):
            started = time.perf_counter_ns()
            model(sample)
            found.append((time.perf_counter_ns() - started) / 1000)
    return tuple(tuple(round(float(np.percentile(found, p)), 1) for p in (50, 90)) for found in taken)  # type: ignore[misc]


def _class_labels(samples: Samples, count: int) -> np.ndarray | None:
    labels = samples.labels
    fits = labels is not None and labels.dtype.kind in "iub" and labels.size == count
    return labels.reshape(-1) if labels is not None and fits else None


def _worst(
    raw: Sequence[np.ndarray],
    floats: list[np.ndarray],
    int8s: list[np.ndarray],
    labels: np.ndarray | None,
    classes: bool,
) -> tuple[Worst, ...]:
    """The samples with the largest error; for classes those first that int8 got wrong alone, then those that changed."""
    count = len(floats[0])
    noise = sum(
        np.square(f.astype(np.float64) - q).reshape(count, -1).sum(axis=1) for f, q in zip(floats, int8s, strict=True)
    )
    signal = sum(np.square(f.astype(np.float64)).reshape(count, -1).sum(axis=1) for f in floats)
    rank = np.zeros(count)
    if classes:
        before, after = predicted_classes(floats[0]), predicted_classes(int8s[0])
        rank = (before != after).astype(np.float64)
        if labels is not None:
            rank += (before == labels) & (after != labels)
    order = np.lexsort((np.arange(count), -np.asarray(noise), -rank))[:WORST]
    sqnr = decibel(np.asarray(signal), np.asarray(noise))
    return tuple(
        Worst(
            int(i), None if labels is None else int(labels[i]), tuple(a[i] for a in raw), floats[0][i], int8s[0][i],
            round(float(sqnr[i]), 1),
        )
        for i in order
    )  # fmt: skip


def _changes(floats: np.ndarray, int8s: np.ndarray, labels: np.ndarray | None) -> tuple[ClassChange, ...]:
    before, after = predicted_classes(floats), predicted_classes(int8s)
    moved = np.flatnonzero(before != after)
    found = Counter((None if labels is None else int(labels[i]), int(before[i]), int(after[i])) for i in moved)
    ordered = sorted(
        found.items(), key=lambda item: (-item[1], item[0][1], item[0][2], -1 if item[0][0] is None else item[0][0])
    )
    return tuple(ClassChange(*key, count) for key, count in ordered)
