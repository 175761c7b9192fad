"""ResNet8 of MLPerf Tiny and the pictures it knows: a real network and real samples that need no TensorFlow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "mlperf-tiny"


def resnet8():
    """The float .tflite, its input's name, and 500 pictures as it sees them, (500, 1, 32, 32, 3)."""
    from edgekit.runner import load

    model, pictures = DATA / "pretrainedResnet.tflite", DATA / "cifar10_unlabelled_500.npz"
    if not model.exists() or not pictures.exists():
        pytest.skip("no ../shared/data/mlperf-tiny beside this checkout")
    with np.load(pictures) as arrays:
        x = arrays["x"].astype(np.float32)
    return model, load(model).inputs[0].name, x[:, None]
