"""Channels between layers are rescaled: no answer changes, and nothing is touched where one would."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert", reason="pip install 'edgekit[convert]'")

from handmade_model import T, build

from edgekit.convert.bias import correct_bias
from edgekit.convert.choose import choose
from edgekit.convert.constants import read_constants
from edgekit.convert.equalize import equalized
from edgekit.convert.flatbuffer import read_model
from edgekit.convert.frontend import converting
from edgekit.convert.held_out import HeldOut
from edgekit.convert.quality import sqnr_db
from edgekit.runner import load

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "mlperf-tiny"
RELU, RELU6 = 1, 3  # ActivationFunctionType in schema.fbs
WINDOW = {"strideW": 1, "strideH": 1, "padding": 0}  # SAME
POOL = {"strideW": 2, "strideH": 2, "filterWidth": 2, "filterHeight": 2, "padding": 1}
FLOAT_DB = 100.0


def random() -> np.random.Generator:
    return np.random.default_rng(3)


def weights(name: str, shape: tuple[int, ...], axis: int = 0) -> T:
    """Random ones that differ in size by channel, up to a hundredfold; rising with output channels, falling with others."""
    size = 10.0 ** np.linspace(-1, 1, shape[axis])[:: -1 if axis == 1 else 1]
    along = [-1 if place == axis else 1 for place in range(len(shape))]
    return T(name, shape, data=(random().normal(size=shape) * size.reshape(along)).astype(np.float32))


def bias(name: str, channels: int) -> T:
    return T(name, (channels,), data=random().normal(size=channels).astype(np.float32))


X, OUT = T("x", (1, 8, 8, 3)), T("out", (1, 5))
FIRST = T("first", (1, 8, 8, 6))


def layer(activation: int = RELU) -> tuple:
    return (
        "CONV_2D",
        [X, weights("w", (6, 3, 3, 3)), bias("b", 6)],
        [FIRST],
        {**WINDOW, "fusedActivationFunction": activation},
    )


def dense(into: T, features: int) -> tuple:
    return "FULLY_CONNECTED", [into, weights("w2", (5, features), 1), bias("b2", 5)], [OUT]


def axes(*numbers: int) -> T:
    return T("axes", (len(numbers),), "int32", data=np.array(numbers, np.int32))


def written(path: Path, steps: list[tuple]) -> Path:
    path.write_bytes(build(steps, inputs=steps[0][1][:1], outputs=steps[-1][2], names={"x": "x", "out": "out"}))
    return path


def answers(path: Path) -> np.ndarray:
    found = load(path)(random().normal(size=(20, 8, 8, 3)).astype(np.float32))
    return found["out"] if isinstance(found, dict) else found


FLAT = T("flat", (1, 384))
MEAN = T("mean", (1, 6))
PADDED = T("padded", (1, 10, 10, 6))
SECOND = T("second", (1, 8, 8, 12))
HALF = T("half", (1, 4, 4, 6))
PADDING = T("padding", (4, 2), "int32", data=np.array([[0, 0], [1, 1], [1, 1], [0, 0]], np.int32))
CHAINS = {
    "conv, reshape, dense": [layer(), ("RESHAPE", [FIRST], [FLAT]), dense(FLAT, 384)],
    "without an activation function": [layer(0), ("RESHAPE", [FIRST], [FLAT]), dense(FLAT, 384)],
    "mean over places": [layer(), ("MEAN", [FIRST, axes(1, 2)], [MEAN]), dense(MEAN, 6)],
    "relu by itself": [
        layer(0),
        ("RELU", [FIRST], [T("relu", FIRST.shape)]),
        ("MEAN", [T("relu", FIRST.shape), axes(1, 2)], [MEAN]),
        dense(MEAN, 6),
    ],
    "max pool": [
        layer(),
        ("MAX_POOL_2D", [FIRST], [HALF], POOL),
        ("RESHAPE", [HALF], [T("flat", (1, 96))]),
        dense(T("flat", (1, 96)), 96),
    ],
    "average pool": [
        layer(),
        ("AVERAGE_POOL_2D", [FIRST], [HALF], POOL),
        ("MEAN", [HALF, axes(-3, -2)], [MEAN]),
        dense(MEAN, 6),
    ],
    "pad, depthwise with two outputs for each channel": [
        layer(),
        ("PAD", [FIRST, PADDING], [PADDED]),
        (
            "DEPTHWISE_CONV_2D",
            [PADDED, weights("dw", (1, 3, 3, 12), 3), bias("db", 12)],
            [SECOND],
            {"strideW": 1, "strideH": 1, "padding": 1, "depthMultiplier": 2, "fusedActivationFunction": RELU6},
        ),
        ("RESHAPE", [SECOND], [T("flat", (1, 768))]),
        dense(T("flat", (1, 768)), 768),
    ],
}


def same(steps: list[tuple]) -> list[tuple]:
    """The steps with one tensor for each name, as `build` wants it, and constants of their own."""
    known: dict[str, T] = {}

    def own(tensors: list[T]) -> list[T]:
        return [known.setdefault(t.name, replace(t, data=None if t.data is None else t.data.copy())) for t in tensors]

    return [(name, own(into), own(out), *rest) for name, into, out, *rest in steps]


@pytest.mark.parametrize("samples", [False, True], ids=["by weights", "by samples"])
@pytest.mark.parametrize("chain", CHAINS)
def test_a_pair_is_rescaled_and_the_answers_stay(tmp_path, chain, samples):
    model, changed = written(tmp_path / "float.tflite", same(CHAINS[chain])), tmp_path / "changed.tflite"
    feeds = {"x": random().normal(size=(8, 1, 8, 8, 3)).astype(np.float32)} if samples else None
    before, wanted = model.read_bytes(), answers(model)

    assert equalized(model, changed, strength=0.5, feeds=feeds) == 1
    assert sqnr_db([wanted], [answers(changed)]) >= FLOAT_DB
    assert changed.read_bytes() != before == model.read_bytes()


LEFT_ALONE = {
    "relu6 between": [layer(RELU6), ("MEAN", [FIRST, axes(1, 2)], [MEAN]), dense(MEAN, 6)],
    "two readers": [
        layer(),
        ("ADD", [FIRST, FIRST], [T("twice", FIRST.shape)]),
        ("ADD", [T("twice", FIRST.shape), FIRST], [T("sum", FIRST.shape)]),
        ("MEAN", [T("sum", FIRST.shape), axes(1, 2)], [MEAN]),
        dense(MEAN, 6),
    ],
    "sigmoid between": [
        layer(),
        ("LOGISTIC", [FIRST], [T("sigmoid", FIRST.shape)]),
        ("MEAN", [T("sigmoid", FIRST.shape), axes(1, 2)], [MEAN]),
        dense(MEAN, 6),
    ],
    "mean over channels": [
        ("CONV_2D", [X, weights("w", (8, 3, 3, 3)), bias("b", 8)], [T("first", (1, 8, 8, 8))], WINDOW),
        ("MEAN", [T("first", (1, 8, 8, 8)), axes(3)], [T("mean", (1, 8, 8))]),
        ("RESHAPE", [T("mean", (1, 8, 8))], [T("flat", (8, 8))]),
        ("FULLY_CONNECTED", [T("flat", (8, 8)), weights("w2", (5, 8), 1), bias("b2", 5)], [T("out", (8, 5))]),
    ],
    "the bias read by both": [
        ("CONV_2D", [X, weights("w", (5, 3, 3, 3)), bias("b", 5)], [T("first", (1, 8, 8, 5))], WINDOW),
        ("MEAN", [T("first", (1, 8, 8, 5)), axes(1, 2)], [T("mean", (1, 5))]),
        ("FULLY_CONNECTED", [T("mean", (1, 5)), weights("w2", (5, 5), 1), bias("b", 5)], [OUT]),
    ],
}


@pytest.mark.parametrize("chain", LEFT_ALONE)
def test_what_would_change_an_answer_is_left_alone(tmp_path, chain):
    model = written(tmp_path / "float.tflite", same(LEFT_ALONE[chain]))

    assert equalized(model, tmp_path / "changed.tflite") == 0
    assert not (tmp_path / "changed.tflite").exists()


def test_what_is_an_answer_too_is_left_alone(tmp_path):
    steps = same(CHAINS["mean over places"])
    path = tmp_path / "float.tflite"
    names = {"x": "x", "out": "out", "first": "first"}
    path.write_bytes(build(steps, inputs=[steps[0][1][0]], outputs=[steps[-1][2][0], steps[0][2][0]], names=names))

    assert equalized(path, tmp_path / "changed.tflite") == 0


def test_dead_channels_stay_as_they_are(tmp_path):
    steps = same(CHAINS["mean over places"])
    steps[0][1][1].data[2] = 0
    steps[0][1][2].data[2] = 0
    model = written(tmp_path / "float.tflite", steps)
    feeds = {"x": random().normal(size=(8, 1, 8, 8, 3)).astype(np.float32)}
    assert equalized(model, tmp_path / "changed.tflite", feeds=feeds) == 1
    graph = read_model(tmp_path / "changed.tflite").subgraphs[0]
    (index,) = [tensor.index for tensor in graph.tensors if tensor.name == "w2"]
    read = [
        np.frombuffer(read_constants(path)[index], np.float32).reshape(5, 6)[:, 2]
        for path in (model, tmp_path / "changed.tflite")
    ]

    np.testing.assert_array_equal(*read)


def test_channels_come_nearer_to_one_another(tmp_path):
    model = written(tmp_path / "float.tflite", same(CHAINS["mean over places"]))
    equalized(model, tmp_path / "changed.tflite", strength=0.5)
    spreads = []
    for path in (model, tmp_path / "changed.tflite"):
        constants = read_constants(path)
        graph = read_model(path).subgraphs[0]
        first = np.frombuffer(constants[graph.operators[0].inputs[1]], np.float32).reshape(6, -1)
        size = np.abs(first).max(axis=1)
        spreads.append(size.max() / size.min())

    assert spreads[1] < spreads[0] / 5


@pytest.mark.parametrize("samples", [False, True], ids=["by weights", "by samples"])
def test_a_real_network_answers_as_before(tmp_path, samples):
    """ResNet8 of MLPerf Tiny on real pictures."""
    model, pictures = DATA / "pretrainedResnet.tflite", DATA / "cifar10_unlabelled_500.npz"
    if not model.exists():
        pytest.skip("no ../shared/data/mlperf-tiny beside this checkout")
    with np.load(pictures) as arrays:
        x = arrays["x"][:80].astype(np.float32)
    feeds = {load(model).inputs[0].name: x[:40, None]} if samples else None

    assert equalized(model, tmp_path / "changed.tflite", feeds=feeds) == 3
    assert sqnr_db([load(model)(x[40:])], [load(tmp_path / "changed.tflite")(x[40:])]) >= FLOAT_DB


@pytest.mark.slow
def test_a_separable_network_is_nearer_to_float_in_int8(tmp_path):
    """DS-CNN of MLPerf Tiny, keywords held out: 30.5 dB becomes 32.5, and 32.8 with corrected biases."""
    pytest.importorskip("tensorflow", reason="the model is a SavedModel")
    if not (DATA / "kws_ref_model").exists():
        pytest.skip("no ../shared/data/mlperf-tiny beside this checkout")
    with np.load(DATA / "kws01.npz") as arrays:
        x = arrays["x"][random().permutation(len(arrays["x"]))].astype(np.float32)
    with converting(DATA / "kws_ref_model", {"x": x[:4]}, tmp_path, timeout_s=600) as source:
        made = source.finish()
    tensor = load(made.float_model).inputs[0]
    x = x.reshape(len(x), *tensor.shape)
    feeds, changed = {tensor.name: x[:100]}, tmp_path / "changed.tflite"

    assert equalized(made.float_model, changed, feeds=feeds) == 9

    before, after = (
        choose(model, "int8", feeds, tmp_path / model.stem, policy="min-max").path
        for model in (made.float_model, changed)
    )
    corrected = tmp_path / "corrected.tflite"
    correct_bias(changed, after, corrected, feeds)
    held_out = HeldOut(made.float_model, {tensor.name: x[100:500]}, tmp_path)
    decibel = [one.sqnr_db for one in held_out.judge([before, after, corrected], ["", "", ""])]

    assert decibel[1] >= decibel[0] + 1.0
    assert decibel[2] >= decibel[0] + 1.0
