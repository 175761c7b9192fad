"""Golden vectors: inputs with the answers that every machine has to give, and how far an answer may be from them."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from edgekit.convert.quality import answers
from edgekit.convert.samples import Samples
from edgekit.convert.selection import same_shape, spread
from edgekit.runner.interpreter import open_interpreter
from edgekit.runner.model import Model

GOLDEN_COUNT = 32  # golden vectors at most,
GOLDEN_BYTES = 1 << 20  # and at least two, but no more than that many bytes of inputs


def make_golden(
    models: Mapping[str, Model], paths: Mapping[str, Path], kept: Sequence[str], raw: Samples
) -> tuple[bytes, dict[str, float]]:
    """golden.npz, and for each variant how far an answer may be from it.

    The allowance is measured, not guessed: XNNPACK's kernels against the reference kernels on the same inputs, doubled
    (int8: at least 2 steps; float: at least 1e-4 of the largest answer), because a board's processor has kernels of
    its own that round differently.
    """
    inputs = raw.of_inputs([tensor.name for tensor in models["int8"].inputs])
    alike = same_shape(inputs)
    each = sum(array[alike[0]].nbytes for array in inputs.values())
    chosen = alike[spread(len(alike), min(GOLDEN_COUNT, max(2, GOLDEN_BYTES // max(each, 1))))]
    inputs = {name: np.stack(list(array[chosen])) for name, array in inputs.items()}
    arrays = {f"input/{name}": array for name, array in inputs.items()}
    tolerances = {}
    for variant in kept:
        model = models[variant]
        other = Model(model.variant, [open_interpreter(paths[variant], threads=1, reference=True)], model.specs)
        fast, plain = (answers(m, inputs, raw_out=True) for m in (model, other))
        arrays |= {f"output/{variant}/{t.name}": a for t, a in zip(model.outputs, fast, strict=True)}
        difference = max(
            float(np.abs(a.astype(np.float64) - b.astype(np.float64)).max()) for a, b in zip(fast, plain, strict=True)
        )
        least = 2.0 if variant == "int8" else 1e-4 * max(float(np.abs(a).max()) for a in fast)
        tolerances[variant] = float(f"{max(least, 2 * difference):.3g}")
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]  # numpy's stub takes the names for options
    return buffer.getvalue(), tolerances
