"""Golden vectors: inputs with the answers that every machine has to give, and how far an answer may be from them."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from edgekit.convert.flatbuffer import read_model
from edgekit.convert.quality import answers
from edgekit.convert.reference_child import reference_answers
from edgekit.convert.samples import Samples
from edgekit.convert.selection import same_shape, spread
from edgekit.errors import ConversionError
from edgekit.runner.model import Model

GOLDEN_COUNT = 32  # golden vectors at most,
GOLDEN_BYTES = 1 << 20  # and at least two, but no more than that many bytes of inputs


# of the largest answer; dynamic: activations are rounded to 8 bits while it runs, by each processor's kernels as they like
_LEAST_SHARE = {"dynamic": 1e-2, "float16": 1e-3}


def make_golden(models: Mapping[str, Model], paths: Mapping[str, Path], raw: Samples) -> tuple[bytes, dict[str, float]]:
    """golden.npz, and for each variant how far an answer may be from it.

    The allowance is measured, not guessed: XNNPACK's kernels against the reference kernels on the same inputs, doubled
    (integers: at least 2 steps; all: at least 1e-4 of the largest answer), because a board's processor has kernels of
    its own that round differently.
    """
    inputs = raw.of_inputs([tensor.name for tensor in next(iter(models.values())).inputs])
    alike = same_shape(inputs)
    each = sum(array[alike[0]].nbytes for array in inputs.values())
    chosen = alike[spread(len(alike), min(GOLDEN_COUNT, max(2, GOLDEN_BYTES // max(each, 1))))]
    inputs = {name: np.stack(list(array[chosen])) for name, array in inputs.items()}
    arrays = {f"input/{name}": array for name, array in inputs.items()}
    tolerances = {}
    for variant, model in models.items():
        fast = answers(model, inputs, raw_out=True)
        arrays |= {f"output/{variant}/{t.name}": a for t, a in zip(model.outputs, fast, strict=True)}
        difference = _difference(fast, model, paths[variant], inputs)
        least = max(_least_steps(model, paths[variant]), _LEAST_SHARE.get(variant, 1e-4) * _largest(fast))
        tolerances[variant] = float(f"{max(least, 2 * difference):.3g}")
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]  # numpy's stub takes the names for options
    return buffer.getvalue(), tolerances


def _difference(fast: list[np.ndarray], model: Model, path: Path, inputs: Mapping[str, np.ndarray]) -> float:
    """The largest difference to the reference kernels' answers; 0 if these refuse the file, or die of it.

    XNNPACK takes scales that they abort on (nearly dead layers, such as those of untrained networks): hence a child.
    """
    with tempfile.TemporaryDirectory(prefix="edgekit-golden-") as scratch:
        folder = Path(scratch)
        try:
            plain = reference_answers(path, model, inputs, folder)
        except ConversionError:
            return 0.0
    return max(
        float(np.abs(a.astype(np.float64) - b.astype(np.float64)).max(initial=0.0))
        for a, b in zip(fast, plain, strict=True)
    )


def _least_steps(model: Model, path: Path) -> float:
    """Two steps of a quantized output, in its own units: 2 for integers, for floats what DEQUANTIZE makes of them."""
    if any(tensor.scale is not None for tensor in model.outputs):
        return 2.0
    graph = read_model(path).subgraphs[0]
    into = [op.inputs[0] for op in graph.operators if op.name == "DEQUANTIZE" and op.outputs[0] in graph.outputs]
    return 2.0 * max((graph.tensors[index].scale[0] for index in into if graph.tensors[index].scale), default=0.0)


def _largest(answers: list[np.ndarray]) -> float:
    return max(float(np.abs(array.astype(np.float64)).max(initial=0.0)) for array in answers)
