"""Weights rounded with regard to one another: beside an exhaustive search, and on a real network with samples held out."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert", reason="pip install 'edgekit[convert]'")

from handmade_model import T, build
from real_networks import resnet8

from edgekit.convert.bias import correct_bias
from edgekit.convert.choose import choose
from edgekit.convert.constants import read_constants
from edgekit.convert.flatbuffer import read_model
from edgekit.convert.held_out import HeldOut
from edgekit.convert.linear import find_twins
from edgekit.convert.quantize import check_mode, quantize
from edgekit.convert.rounding import fed_back, round_weights


def inputs(random: np.random.Generator, size: int, rows: int = 200) -> np.ndarray:
    """Rows whose columns go together."""
    return random.normal(size=(rows, size)) @ random.normal(size=(size, size)) + random.normal(size=size)


@pytest.mark.parametrize("size", [3, 6, 9])
def test_most_of_what_an_exhaustive_search_gains_is_gained(size):
    """The best of all ways to round up or down, 200 times."""
    random = np.random.default_rng(size)
    errors = []
    for _ in range(200):
        rows, weights = inputs(random, size), random.uniform(-20, 20, size)
        squares = rows.T @ rows / len(rows)
        every = np.array([np.rint(weights), *(np.floor(weights) + up for up in product((0, 1), repeat=size))])
        off = np.array([fed_back(weights[None, None], squares[None])[0, 0], *every]) - weights
        error = ((off @ squares) * off).sum(axis=1)
        errors.append((error[1], error[0], error[1:].min()))
    nearest, ours, best = np.mean(errors, axis=0)

    assert (nearest - ours) / (nearest - best) >= 0.8


def test_weights_whose_inputs_have_nothing_in_common_go_to_the_nearest_step():
    weights = np.random.default_rng(0).uniform(-100, 100, (2, 5, 300))
    alone = np.eye(300)[None] * np.array([1.0, 0.0])[:, None, None]  # and inputs that are always zero

    np.testing.assert_array_equal(fed_back(weights, alone), np.rint(weights))


def test_steps_stay_within_int8():
    random = np.random.default_rng(0)
    rows = inputs(random, 40)
    weights = random.choice([-127.0, 126.6, 0.4], (1, 30, 40))
    steps = fed_back(weights, (rows.T @ rows)[None])

    assert np.abs(steps).max() <= 127
    np.testing.assert_array_equal(steps, np.rint(steps))


def test_a_real_network_is_nearer_to_float_on_samples_held_out(tmp_path):
    """Than with corrected biases alone. All that differs in the file is weights and biases."""
    model, name, x = resnet8()
    feeds = {name: x[:100]}
    quantized = choose(model, "int8", feeds, tmp_path / "q", policy="min-max").path
    biased, rounded = tmp_path / "q" / "biased.tflite", tmp_path / "q" / "rounded.tflite"
    correct_bias(model, quantized, biased, feeds)
    said = []

    assert round_weights(model, quantized, rounded, feeds, progress=said.append) == 10

    before, after = HeldOut(model, {name: x[100:400]}, tmp_path).judge([biased, rounded], ["", ""])
    old, new = read_constants(quantized), read_constants(rounded)
    changed = {index for index in new if new[index] != old[index]}
    layers = [operator.inputs[1:3] for operator in read_model(rounded).subgraphs[0].operators if "CON" in operator.name]

    assert after.sqnr_db >= before.sqnr_db + 0.1
    check_mode(rounded, "int8")
    assert changed <= {index for pair in layers for index in pair}
    assert said[-1] == "round weights, layer 10 of 10"


@pytest.mark.parametrize(("mode", "gain_db"), [("weights4", 8), pytest.param("weights8", 5, marks=pytest.mark.slow)])
def test_where_weights_make_all_the_error_much_is_gained(tmp_path, mode, gain_db):
    pytest.importorskip("litert_quantizer", reason="these modes are made by litert-quantizer")
    model, name, x = resnet8()
    quantized = quantize(model, mode, [], tmp_path / "q").paths[0]
    output = tmp_path / "q" / "rounded.tflite"

    assert round_weights(model, quantized, output, {name: x[:60]}) == 10

    before, after = HeldOut(model, {name: x[300:400]}, tmp_path).judge([quantized, output], ["", ""])
    check_mode(output, mode)

    assert after.sqnr_db >= before.sqnr_db + gain_db
    assert after.same_class >= before.same_class - 0.02  # a picture or two between two classes


def separable(path):
    """A float network with a depthwise layer of two outputs for each channel, and samples of it."""
    random = np.random.default_rng(4)

    def constant(name, *shape):
        return T(name, shape, data=(random.normal(size=shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32))

    x, a, b, c = T("x", (1, 8, 8, 3)), T("a", (1, 8, 8, 6)), T("b", (1, 4, 4, 12)), T("c", (1, 4, 4, 5))
    relu = {"fusedActivationFunction": 1, "strideW": 1, "strideH": 1}
    halved = {**relu, "strideW": 2, "strideH": 2, "depthMultiplier": 2}
    steps = [
        ("CONV_2D", [x, constant("w1", 6, 3, 3, 3), constant("b1", 6)], [a], relu),
        ("DEPTHWISE_CONV_2D", [a, constant("w2", 1, 3, 3, 12), constant("b2", 12)], [b], halved),
        ("CONV_2D", [b, constant("w3", 5, 1, 1, 12), constant("b3", 5)], [c], {"strideW": 1, "strideH": 1}),
    ]
    path.write_bytes(build(steps, inputs=[x], outputs=[c], names={"x": "x", "y": "c"}))
    smooth = np.cumsum(random.normal(size=(120, 1, 8, 8, 3)), axis=3).astype(np.float32)
    return path, smooth


def test_weights_of_each_layer_lose_less_on_samples_held_out(tmp_path):
    """The output error of each layer alone, as LiteRT's own inputs of that layer tell."""
    from edgekit.convert.observe import observe

    model, x = separable(tmp_path / "float.tflite")
    quantized = choose(model, "int8", {"x": x[:80]}, tmp_path / "q", policy="min-max").path
    output = tmp_path / "q" / "rounded.tflite"

    assert round_weights(model, quantized, output, {"x": x[:80]}) == 3

    for old, new in zip(find_twins(model, quantized), find_twins(model, output), strict=True):
        layer = old.layer
        runs = observe(quantized, {"x": x[80:]}, lambda _, read, layer=layer: layer.patches(read(layer.x), 10**6, 0))
        rows = np.concatenate(runs)
        rows = rows - rows.mean(axis=0)  # the bias takes up the mean
        if layer.is_depthwise:
            each = np.repeat(rows, 2, axis=2)
            lost = [np.square(np.einsum("nkc,ck->nc", each, twins.error)).mean() for twins in (old, new)]
        else:
            lost = [np.square(rows.reshape(len(rows), -1) @ twins.error.T).mean() for twins in (old, new)]

        assert lost[1] < lost[0]


def test_few_samples_judge_nothing_so_nothing_is_done(tmp_path):
    model, x = separable(tmp_path / "float.tflite")
    quantized = choose(model, "int8", {"x": x[:9]}, tmp_path / "q", policy="min-max").path

    assert round_weights(model, quantized, tmp_path / "out.tflite", {"x": x[:9]}) == 0
    assert not (tmp_path / "out.tflite").exists()


def test_the_same_samples_make_the_same_file(tmp_path):
    model, x = separable(tmp_path / "float.tflite")
    quantized = choose(model, "int8", {"x": x}, tmp_path / "q", policy="min-max").path
    for name in ("one", "two"):
        round_weights(model, quantized, tmp_path / name, {"x": x})

    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
