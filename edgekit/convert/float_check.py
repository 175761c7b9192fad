"""The float .tflite beside the model that it was made from: are their answers the same?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from edgekit.errors import ConversionError

COMPARED = 3  # samples, one at a time: 0.2 s each for Keras's MobileNetV2-224
MADE_UP = 1  # and an input of random numbers between the samples' least and largest
Answers = Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]


def float_difference(answer: Answers, float_model: Path, samples: Mapping[str, np.ndarray]) -> float:
    """Largest |float .tflite - source model| on some samples and on random inputs, relative to the largest output.

    `samples` are (n, *shape of the input) by name; `answer` takes one of each. Raises ConversionError for other outputs, and
    for answers to samples that are not finite.
    """
    from ai_edge_litert.interpreter import Interpreter

    run = Interpreter(model_path=str(float_model)).get_signature_runner()
    count = min(COMPARED, len(next(iter(samples.values()))))
    rows = {name: np.concatenate([array[:count], made_up(array)]) for name, array in samples.items()}
    largest = scale = 0.0
    for index in range(count + MADE_UP):
        given = {name: array[index] for name, array in rows.items()}
        wanted, got = answer(given), run(**given)
        if {n: np.shape(a) for n, a in wanted.items()} != {n: np.shape(a) for n, a in got.items()}:
            raise ConversionError("the float .tflite has other outputs than the model", hint="report it with the model")
        for name, array in wanted.items():
            exact, made = np.asarray(array, np.float64), np.asarray(got[name], np.float64)
            if index < count and not (np.isfinite(exact).all() and np.isfinite(made).all()):
                raise ConversionError(
                    f"output {name!r} of the float model is not finite on sample {index}",
                    hint="do the samples look as the model wants them (range, --preprocess)? were its weights finite?",
                )
            finite = np.isfinite(exact)  # random inputs may be what the model has no answer to
            apart = np.nan_to_num(np.abs(exact - made)[finite], nan=np.inf)
            largest = max(largest, float(apart.max(initial=0.0)))
            scale = max(scale, float(np.abs(exact)[finite].max(initial=0.0)))
    return largest / scale if scale else largest


def made_up(samples: np.ndarray) -> np.ndarray:
    """Random inputs of the samples' shape and dtype: between their extremes; of integers (tokens) only values they have."""
    rng = np.random.default_rng(0)
    shape = (MADE_UP, *samples.shape[1:])
    if samples.dtype.kind != "f":
        return rng.choice(samples.ravel(), shape).astype(samples.dtype)
    return rng.uniform(samples.min(), samples.max(), shape).astype(samples.dtype)
