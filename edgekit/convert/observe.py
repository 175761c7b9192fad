"""What the tensors of a .tflite hold while it runs, in between too, as real numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np

from edgekit import preprocess
from edgekit.convert.calibrate import Feeds, shared_out
from edgekit.convert.flatbuffer import read_model
from edgekit.runner.interpreter import open_interpreter
from edgekit.runner.tensors import describe_variant, encoder

Read = Callable[[int], np.ndarray]  # index of a tensor -> its values, float32
_T = TypeVar("_T")


def observe(model: Path, feeds: Feeds, look: Callable[[int, Read], _T]) -> list[_T]:
    """What `look(sample, read)` returns after each sample has run, in the samples' order.

    `feeds` are real numbers, also for an int8 model. `look` is called from several threads, each with an interpreter of
    its own, without XNNPACK, which keeps what its operators wrote to itself.
    """
    graph = read_model(model).subgraphs[0]
    scales = {t.index: (np.float32(t.scale[0]), t.zero_point[0]) for t in graph.tensors if len(t.scale) == 1}
    keeps_state = any(tensor.is_variable for tensor in graph.tensors)

    def work(indexes: np.ndarray) -> list[_T]:
        interpreter = open_interpreter(model, 1, experimental_preserve_all_tensors=True)
        places = {details["name"]: details["index"] for details in interpreter.get_input_details()}
        inputs = describe_variant(interpreter, "", quantization="").inputs
        encoders = [(places[t.tensor], feeds[t.name], encoder(t, preprocess.Generic())) for t in inputs]

        def read(index: int) -> np.ndarray:
            values = np.asarray(interpreter.get_tensor(index))
            if index not in scales:
                return values.astype(np.float32, copy=False)
            scale, zero_point = scales[index]
            return np.asarray((values.astype(np.float32) - np.float32(zero_point)) * scale)

        found = []
        for sample in indexes:
            if keeps_state:
                interpreter.reset_all_variables()
            for place, array, encode in encoders:
                interpreter.set_tensor(place, encode(array[sample]))
            interpreter.invoke()
            found.append(look(int(sample), read))
        return found

    parts = shared_out(work, np.arange(len(next(iter(feeds.values())))))
    return [one for part in parts for one in part]
