"""Task metrics: what the model's outputs are worth beside labels. Built-in ones by name, or a person's own function.

| name          | labels `y`                                            | output that is judged                          |
|---------------|-------------------------------------------------------|------------------------------------------------|
| top-1, f1     | class numbers (n,), or (n, ...) for each position     | scores (n, ..., classes), or class numbers     |
| top-5, auc    | class numbers (n,)                                    | scores (n, classes)                            |
| iou           | class maps (n, h, w); -1 and 255 are not judged       | scores (n, h, w, classes), or class numbers    |
| map, map50    | objects (n, most, 5): corners, class; rows of -1 fill | boxes, scores, classes: see metrics_boxes      |
| wer, cer      | tokens (n, most), -1 fills                            | CTC (n, time, vocabulary), or tokens (n, time) |
| mae, rmse, r2 | floats of the output's shape                          | any                                            |

Of several outputs the first that fits the labels is judged, or the one that `NAME@OUTPUT` names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from edgekit.convert import metrics_boxes as of_boxes
from edgekit.convert import metrics_classes as of_classes
from edgekit.convert import metrics_sequences as of_sequences
from edgekit.convert import metrics_values as of_values
from edgekit.convert.metric import Array, Metric, Outputs
from edgekit.convert.metrics_classes import predicted_classes
from edgekit.convert.metrics_own import own_metric
from edgekit.convert.modes import METRICS
from edgekit.errors import InputError, SamplesError

__all__ = ["METRICS", "Array", "Metric", "Outputs", "check_name", "find_metric", "predicted_classes"]


def check_name(name: str) -> None:
    """InputError unless there is such a metric, or such a file."""
    if ":" in name:
        own_metric(name)
    elif name.partition("@")[0] not in METRICS:
        raise InputError(f"no metric {name!r}", hint=f"one of {', '.join(METRICS)}, or your own: file.py:function")


def find_metric(
    name: str | None, labels: Array, outputs: Outputs, *, source: str, class_names: Sequence[str] = ()
) -> Metric:
    """The metric called `name` (one of METRICS, NAME@OUTPUT, or FILE.py:FUNCTION); None: what fits the labels.

    `outputs` are the float model's answers: they decide which output is judged and in which form it is.
    Raises SamplesError if labels and outputs do not fit the metric.
    """
    if name is not None and ":" in name:
        return own_metric(name)
    called, _, of = (name or "").partition("@")
    if name is not None:
        check_name(name)
    if of and of not in outputs:
        raise InputError(f"--metric {name}: no output is called {of!r}", hint=f"there are: {', '.join(outputs)}")
    candidates = {of: outputs[of]} if of else dict(outputs)
    called = called or _fitting(labels, candidates)
    if called in ("map", "map50"):
        return _of_boxes(called, labels, outputs, source)
    fits = _FITS[called]
    chosen = next((key for key, answers in candidates.items() if fits(labels, answers)), None)
    if chosen is None:
        raise _misfit(called, labels, candidates, source)
    answers = outputs[chosen]
    if called in _VALUES:
        metric = _VALUES[called](chosen)
    elif called in ("wer", "cer"):
        metric = _of_sequences(called, labels, answers, chosen, class_names)
    else:
        metric = _of_classes(called, labels, answers, chosen, source)
    return metric if len(outputs) == 1 else replace(metric, name=f"{metric.name} of {chosen}")


def _fitting(labels: Array, outputs: Outputs) -> str:
    """The metric that such labels are for. Rows of tokens that are filled up with -1 are sequences."""
    if labels.ndim == 2 and (labels == -1).any() and any(_is_sequence(labels, answers) for answers in outputs.values()):
        return "cer"
    if any(_is_beside(labels, answers) for answers in outputs.values()):
        return "iou" if labels.squeeze().ndim > 2 else "top-1"
    if labels.dtype.kind in "iu" and any(_is_sequence(labels, answers) for answers in outputs.values()):
        return "cer"
    if labels.ndim == 3 and labels.shape[2] == 5 and of_boxes.find_reader(outputs) is not None:
        return "map"
    return "mae"


def _is_beside(labels: Array, answers: Array) -> bool:
    return of_classes.beside(labels, answers) is not None


def _is_plain(labels: Array, answers: Array) -> bool:
    found = of_classes.beside(labels, answers)
    return found is not None and not found.is_map and found.scores is not None


def _is_map(labels: Array, answers: Array) -> bool:
    found = of_classes.beside(labels, answers)
    return found is not None and found.is_map


def _is_target(labels: Array, answers: Array) -> bool:
    return labels.dtype.kind == "f" and labels.shape == answers.shape


def _is_sequence(labels: Array, answers: Array) -> bool:
    return of_sequences.is_sequence(labels, answers)


_FITS: Mapping[str, Callable[[Array, Array], bool]] = {
    "top-1": _is_beside, "top-5": _is_plain, "auc": _is_plain, "f1": _is_beside, "iou": _is_map,
    "wer": _is_sequence, "cer": _is_sequence, "mae": _is_target, "rmse": _is_target, "r2": _is_target,
}  # fmt: skip


def _misfit(called: str, labels: Array, outputs: Outputs, source: str) -> SamplesError:
    shapes = ", ".join(str(answers.shape) for answers in outputs.values())
    told = f"{source}: labels {labels.dtype} of shape {labels.shape}"
    if called in _VALUES:
        hint = "class numbers (n,) for a classifier, class maps, tokens, boxes (n, most, 5), or floats of the output's shape"
        return SamplesError(f"{told} do not fit outputs {shapes}", hint=f"give {hint}")
    what = {"iou": "class maps", "wer": "sequences of tokens", "cer": "sequences of tokens"}.get(
        called, "class numbers"
    )
    shape = {"iou": "(n, h, w)", "wer": "(n, most), filled up with -1", "cer": "(n, most), filled up with -1"}
    hint = f"give whole numbers {shape.get(called, '(n,)')}, or choose another --metric"
    return SamplesError(f"{told} are no {what} for outputs {shapes}", hint=hint)


# --- classes ----------------------------------------------------------------------------------------------------------


def _of_classes(called: str, labels: Array, answers: Array, output: str, source: str) -> Metric:
    given = of_classes.beside(labels, answers)
    assert given is not None
    if given.scores is not None:
        _check_range(given, source)
    classes, is_map = given.classes, given.is_map
    if called == "top-5" and classes <= 5:
        raise SamplesError(f"top-5 of {classes} classes is always right", hint="take --metric top-1")

    def each(rows: Callable[[of_classes.Beside], Array]) -> Callable[[Array, Outputs], Array]:
        def of(labels: Array, outputs: Outputs) -> Array:
            found = of_classes.beside(labels, outputs[output])
            assert found is not None
            return rows(replace(found, classes=classes))  # of class numbers each set of answers may have others

        return of

    if called == "iou":
        return Metric("mean IoU", each(of_classes.overlaps), of_classes.mean_iou)
    if called == "auc":
        return Metric("AUC", each(of_classes.scored), of_classes.roc_auc)
    if called == "f1" and is_map:
        return Metric("F1", each(of_classes.overlaps), of_classes.f1_of_counts)
    if called == "f1":
        return Metric("F1", each(of_classes.pairs), lambda rows: of_classes.f1_of_pairs(rows, classes), of_classes=True)
    if called == "top-5":
        return Metric("top-5 accuracy", each(of_classes.in_top5), _mean, is_mean=True, of_classes=True)
    if is_map:
        return Metric("top-1 accuracy per position", each(of_classes.right_ones), of_sequences.ratio)
    return Metric("top-1 accuracy", each(of_classes.right_ones), _mean, is_mean=True, of_classes=True)


def _mean(rows: Array) -> float:
    return float(rows.mean())


def _check_range(given: of_classes.Beside, source: str) -> None:
    known = given.labels[given.counts]
    if not known.size:
        raise SamplesError(f"{source}: no label counts", hint="-1 and 255 mean that nobody knows the class")
    lowest, highest = int(known.min()), int(known.max())
    if lowest < 0 or highest >= given.classes:
        raise SamplesError(
            f"{source}: labels go from {lowest} to {highest}, the model has {given.classes} classes",
            hint=f"number the classes 0 to {given.classes - 1}, in the order of the model's outputs",
        )


# --- boxes, sequences, values -----------------------------------------------------------------------------------------


def _of_boxes(called: str, labels: Array, outputs: Outputs, source: str) -> Metric:
    reader = of_boxes.find_reader(outputs)
    if reader is None:
        shapes = ", ".join(f"{name} {answers.shape}" for name, answers in outputs.items())
        raise SamplesError(
            f"the outputs are no detections: {shapes}",
            hint="boxes (n, k, 4) with scores (n, k, classes), or as of TFLite_Detection_PostProcess, or (n, k, 6)",
        )
    if labels.ndim != 3 or labels.shape[2] != 5:
        raise SamplesError(
            f"{source}: labels of shape {labels.shape} are no objects",
            hint="give (n, most, 5): four corners and the class of each object, rows of -1 after the last",
        )
    objects = labels[labels[..., 4] >= 0]
    if not len(objects) or not (objects[:, 2:4] > objects[:, :2]).all():
        raise SamplesError(
            f"{source}: labels without objects, or of objects whose second corner is not beyond the first",
            hint="corners as the model's boxes have them, such as ymin, xmin, ymax, xmax; no widths and heights",
        )

    def each(labels: Array, outputs: Outputs) -> of_boxes.Matched:
        return of_boxes.matched(labels, reader(outputs))

    total = of_boxes.mean_average_precision if called == "map" else of_boxes.mean_precision_at_half
    metric = Metric("mAP@[.5:.95]" if called == "map" else "mAP@.5", each, total)
    if of_boxes.mean_precision_at_half(each(labels, outputs)) == 0:
        raise SamplesError(
            f"{source}: no object is where the float model finds one of its class",
            hint="labels take the units, the order of corners and the class numbers of the model's own outputs",
        )
    return metric


def _of_sequences(
    called: str, labels: Array, answers: Array, output: str, class_names: Sequence[str]
) -> Metric:  # fmt: skip
    if not (labels >= 0).any():
        raise SamplesError("the labels are all empty", hint="give token numbers, filled up with -1")
    blank, words = of_sequences.find_blank(labels, answers, class_names), called == "wer"

    def each(labels: Array, outputs: Outputs) -> Array:
        return of_sequences.edits_and_lengths(
            labels, outputs[output], blank=blank, class_names=class_names, words=words
        )

    said = "word error rate" if words else "character error rate"
    return Metric(said, each, of_sequences.ratio, lower_is_better=True)


def _error(name: str, rows: Callable[[Array, Array], Array], total: Callable[[Any], float], **options: bool) -> Any:
    return lambda output: Metric(
        name, lambda targets, outputs: rows(targets, outputs[output]), total, **{"in_points": False, **options}
    )


_VALUES: Mapping[str, Callable[[str], Metric]] = {
    "mae": _error("mean absolute error", of_values.absolute_errors, _mean, lower_is_better=True, is_mean=True),
    "rmse": _error("root mean square error", of_values.squared_errors, of_values.root_of_mean, lower_is_better=True),
    "r2": _error("R²", of_values.both, of_values.r2, in_points=True),
}
