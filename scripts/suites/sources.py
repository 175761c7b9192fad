"""A child process: a trained network as the other files that people bring: SOURCES[kind](network, one sample, out)."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

Sample = Mapping[str, np.ndarray]  # (1, ...) by the name of the input


def h5(network: Path, sample: Sample, out: Path) -> None:
    """Keras's older file."""
    _loaded(network).save(out)


def saved_model(network: Path, sample: Sample, out: Path) -> None:
    """What TensorFlow serves: a folder."""
    _loaded(network).export(str(out), verbose=False)


def pt2(network: Path, sample: Sample, out: Path) -> None:
    """The same layers on PyTorch, as torch.export writes them."""
    import torch

    model = _loaded(network).eval()

    class Named(torch.nn.Module):  # by the names of its inputs, as whoever writes a forward() has them
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, **given):
            tensors = [given[tensor.name] for tensor in model.inputs]
            return self.model(tensors if len(tensors) > 1 else tensors[0])

    given = {tensor.name: torch.from_numpy(sample[tensor.name]) for tensor in model.inputs}
    torch.export.save(torch.export.export(Named().eval(), (), given, strict=False), out)


def onnx(network: Path, sample: Sample, out: Path) -> None:
    """Keras's own export."""
    model = _loaded(network)
    model(_fed(model, sample, np.asarray))  # what was never called is not exported
    model.export(str(out), format="onnx", verbose=False)


SOURCES: Mapping[str, tuple[Callable[[Path, Sample, Path], None], str, str]] = {  # function, file, backend of Keras
    "h5": (h5, "source.h5", "tensorflow"),
    "SavedModel": (saved_model, "source.saved", "tensorflow"),
    "pt2": (pt2, "source.pt2", "torch"),
    "onnx": (onnx, "source.onnx", "tensorflow"),
}


def _loaded(network: Path):
    import keras

    return keras.models.load_model(network, compile=False)


def _fed(model, sample: Sample, convert: Callable[[np.ndarray], object]):
    """What the model is called with: one tensor, or a list of them in the order of its inputs."""
    tensors = [convert(sample[tensor.name]) for tensor in model.inputs]
    return tensors if len(tensors) > 1 else tensors[0]


if __name__ == "__main__":
    function, _, backend = SOURCES[sys.argv[1]]
    os.environ["KERAS_BACKEND"] = backend
    with np.load(sys.argv[3]) as arrays:
        function(Path(sys.argv[2]), {name: arrays[name][:1] for name in arrays.files}, Path(sys.argv[4]))
