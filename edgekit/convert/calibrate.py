"""What every tensor of a float .tflite reaches on real samples: measured on all cores, without TensorFlow.

TFLiteConverter replaces every kernel by one that logs, without XNNPACK and on one thread: 54 ms a sample for
MobileNetV2-224 where this takes 4 ms (one thread) and plain inference 3.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from edgekit.convert.flatbuffer import read_model
from edgekit.errors import ConversionError, NotAModel, first_line
from edgekit.runner.interpreter import invoke, open_interpreter
from edgekit.runner.model import describe_variant

try:  # private to ai-edge-litert 2.3; without it the public, slower way below gives the same numbers
    from ai_edge_litert import _pywrap_tfl_calibration as _native
except ImportError:
    _native = None

# what it warns of, much memory, is what we want to spend here
warnings.filterwarnings("ignore", message="Warning: Enabling `experimental_preserve_all_tensors`", category=UserWarning)

BINS = 2048  # of a histogram, over the tensor's own range
VALUES_MOST = 1 << 15  # of a tensor in one sample that are counted, evenly spread
Feeds = Mapping[str, np.ndarray]  # name of an input -> (n, *shape of its tensor), what the model sees
_T = TypeVar("_T")


@dataclass(frozen=True)
class Extremes:
    """The least and the largest value of each tensor in each sample; float32 (samples, tensors)."""

    names: tuple[str, ...]
    low: np.ndarray
    high: np.ndarray

    def of(self, samples: np.ndarray) -> Extremes:
        """The same for some of the samples."""
        return Extremes(self.names, self.low[samples], self.high[samples])


@dataclass(frozen=True)
class Histograms:
    """How often each tensor had which value, over all samples: (tensors, BINS) between `low` and `high`."""

    names: tuple[str, ...]
    low: np.ndarray
    high: np.ndarray
    counts: np.ndarray


def measure_extremes(
    model: Path, feeds: Feeds, *, samples: np.ndarray | None = None, threads: int = 0, native: bool = True
) -> Extremes:
    """The extremes of all computed float tensors (of the primary subgraph) in each sample, or in `samples` (indexes).

    `threads` interpreters work side by side; 0: one for each core. `native=False` takes the public way, which reads
    every tensor back. Raises ConversionError where the model computes something that is not finite.
    """
    wanted = computed_floats(model)
    if native and _native is not None:
        options = {
            "experimental_disable_delegate_node_fusion": True,  # each tensor of the file is computed, none fused away
            "experimental_force_delegate_node_profiling": True,
        }
        look: Callable[[Any], dict[str, tuple[float, float]]] = _native_row
    else:
        options, look = {"experimental_preserve_all_tensors": True}, _public_row
    if samples is None:
        samples = np.arange(len(next(iter(feeds.values()))))
    rows = [row for part in _on_all_cores(model, feeds, samples, look, options, threads) for row in part]
    names = tuple(sorted(wanted & rows[0].keys()))
    both = np.array([[row[name] for name in names] for row in rows], np.float32).reshape(len(rows), len(names), 2)
    if not np.isfinite(both).all():
        sample, tensor = np.argwhere(~np.isfinite(both).all(axis=2))[0]
        raise ConversionError(
            f"tensor {names[tensor]!r} of the float model is not finite on sample {samples[sample]}",
            hint="do the samples look as the model wants them (range, --preprocess)? were its weights finite?",
        )
    return Extremes(names, both[:, :, 0], both[:, :, 1])


def measure_histograms(model: Path, feeds: Feeds, extremes: Extremes, *, threads: int = 0) -> Histograms:
    """The values of those tensors on these samples, counted."""
    low, high = extremes.low.min(axis=0), extremes.high.max(axis=0)
    places = {name: place for place, name in enumerate(extremes.names)}
    width = high - low
    steps = np.divide(BINS, width, out=np.zeros_like(width), where=width > 0)  # 0: one value, all in the first bin

    def look(interpreter: Any) -> Callable[[], np.ndarray]:
        found = [(d["index"], places[d["name"]]) for d in interpreter.get_tensor_details() if d["name"] in places]
        counts = np.zeros((len(places), BINS + 1), np.int64)

        def count() -> np.ndarray:
            for index, place in found:
                values = interpreter.tensor(index)().ravel()  # a view: nothing is copied
                bins = values[:: -(-values.size // VALUES_MOST) or 1] - low[place]
                bins *= steps[place]
                np.clip(bins, 0, BINS, out=bins)  # this interpreter may round otherwise than the one of the extremes
                counts[place] += np.bincount(bins.astype(np.intp), minlength=BINS + 1)
            return counts

        return count

    def work(indexes: np.ndarray) -> np.ndarray:
        interpreter = open_interpreter(model, 1, experimental_preserve_all_tensors=True)
        count = look(interpreter)
        counts = np.zeros((len(places), BINS + 1), np.int64)
        for _ in _fed(interpreter, feeds, indexes):
            invoke(interpreter)
            counts = count()
        return counts

    counts = np.sum(shared_out(work, np.arange(len(next(iter(feeds.values())))), threads), axis=0)
    counts[:, -2] += counts[:, -1]  # the greatest value of all belongs to the last bin
    return Histograms(extremes.names, low, high, counts[:, :-1])


def _on_all_cores(
    model: Path,
    feeds: Feeds,
    samples: np.ndarray,
    look: Callable[[Any], dict[str, tuple[float, float]]],
    options: Mapping[str, bool],
    threads: int,
) -> list[list[dict[str, tuple[float, float]]]]:
    def work(indexes: np.ndarray) -> list[dict[str, tuple[float, float]]]:
        interpreter = open_interpreter(model, 1, **options)
        return [look(interpreter) for _ in _fed(interpreter, feeds, indexes)]

    return shared_out(work, samples, threads)


def shared_out(work: Callable[[np.ndarray], _T], samples: np.ndarray, threads: int = 0) -> list[_T]:
    """`work` on equal parts of the samples (indexes), in their order, in so many threads; 0: one for each core."""
    workers = max(min(threads or cores(), len(samples)), 1)
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(work, np.array_split(samples, workers)))


def _fed(interpreter: Any, feeds: Feeds, indexes: Sequence[int] | np.ndarray) -> Any:
    """Puts one sample after the other into the interpreter's inputs."""
    indices = {details["name"]: details["index"] for details in interpreter.get_input_details()}
    inputs = describe_variant(interpreter, "", quantization="").inputs
    for i in indexes:
        for tensor in inputs:
            interpreter.set_tensor(indices[tensor.tensor], feeds[tensor.name][i])
        yield i


def _native_row(interpreter: Any) -> dict[str, tuple[float, float]]:
    try:
        found = _native.InvokeWithCalibration(interpreter._native_handle(), 0)
    except RuntimeError as error:
        raise ConversionError(
            f"LiteRT does not run it on the samples: {first_line(error)}",
            hint="do the samples look as the model wants them (range, --preprocess)? was its file damaged?",
        ) from error
    return {name: (row.min, row.max) for name, row in found.items()}


def _public_row(interpreter: Any) -> dict[str, tuple[float, float]]:
    invoke(interpreter)
    row = {}
    for details in interpreter.get_tensor_details():
        if details["dtype"] == np.float32 and details["name"] and 0 not in details["shape"]:
            try:
                values = interpreter.get_tensor(details["index"])
            except ValueError:  # a tensor that nothing computes
                continue
            row[details["name"]] = (float(values.min()), float(values.max()))
    return row


def computed_floats(model: Path) -> set[str]:
    """The names of the tensors that are no constants; NotAModel if two of them have the same."""
    graph = read_model(model).subgraphs[0]
    names = [tensor.name for tensor in graph.tensors if tensor.dtype == "float32" and not tensor.constant]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise NotAModel(
            f"two tensors are called {twice!r}: their ranges cannot be told apart",
            hint="convert the model again with a converter that names tensors uniquely",
        )
    return set(names)


def cores() -> int:
    """The processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
