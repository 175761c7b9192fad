"""A float model and its int8 form, made operator by operator, so that what a comparison should find is known."""

from __future__ import annotations

import numpy as np
from handmade_model import T, build

STEP = 1 / 16  # of the hidden layer and of the output


def pair(*, seed=0, hidden_step=STEP, renamed=False, shift=0, names=True):
    """(float, int8) bytes: 6 numbers to 8 hidden ones to 3 scores.

    `hidden_step`: the int8 scale of the hidden layer, too small for what it has to hold if under 1/32. `renamed`: int8
    calls its hidden tensor otherwise. `shift`: added to every int8 weight of the last layer.
    """
    random = np.random.default_rng(seed)
    w1 = random.integers(-60, 61, (8, 6)).astype(np.int8)
    w2 = random.integers(-60, 61, (3, 8)).astype(np.int8)
    zeros8, zeros3 = np.zeros(8, np.int32), np.zeros(3, np.int32)
    into, hidden, out = T("in", (1, 6)), T("hidden", (1, 8)), T("out", (1, 3))
    a, c = T("w1", (8, 6), data=w1.astype(np.float32) / 64), T("w2", (3, 8), data=w2.astype(np.float32) / 64)
    b, d = T("b1", (8,), data=zeros8.astype(np.float32)), T("b2", (3,), data=zeros3.astype(np.float32))
    io = {"x": "in", "scores": "out"} if names else None
    steps = [("FULLY_CONNECTED", [into, a, b], [hidden]), ("FULLY_CONNECTED", [hidden, c, d], [out])]
    real = build(steps, inputs=[into], outputs=[out], names=io)

    into = T("in", (1, 6), "int8", 1 / 64, 0)
    hidden = T("renamed" if renamed else "hidden", (1, 8), "int8", hidden_step, 0)
    out = T("out", (1, 3), "int8", STEP, 0)
    a, c = T("w1", (8, 6), "int8", 1 / 64, 0, w1), T("w2", (3, 8), "int8", 1 / 64, 0, (w2 + shift).astype(np.int8))
    b = T("b1", (8,), "int32", 1 / 64 / 64, 0, zeros8)
    d = T("b2", (3,), "int32", hidden_step / 64, 0, zeros3)
    steps = [("FULLY_CONNECTED", [into, a, b], [hidden]), ("FULLY_CONNECTED", [hidden, c, d], [out])]
    return real, build(steps, inputs=[into], outputs=[out], names=io)


def write_pair(folder, **options):
    """The pair as float.tflite and int8.tflite in `folder`: their paths."""
    paths = folder / "float.tflite", folder / "int8.tflite"
    for path, content in zip(paths, pair(**options), strict=True):
        path.write_bytes(content)
    return paths


def inputs(count=200, *, seed=1):
    """What the pair takes: (count, 6), -1 to 1."""
    return np.random.default_rng(seed).uniform(-1, 1, (count, 6)).astype(np.float32)


def labels(float_path, values):
    """The classes that the float model gives: labels on which it is always right."""
    from edgekit.runner.model import load

    return load(float_path)(values).argmax(axis=1)
