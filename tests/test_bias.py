"""What rounded weights shift, biases take back: on paper, and on a real network with samples held out."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert", reason="pip install 'edgekit[convert]'")

from handmade_model import T, build, sum_and_product
from model_pair import STEP, write_pair
from real_networks import resnet8

from edgekit.convert.bias import correct_bias
from edgekit.convert.choose import choose
from edgekit.convert.constants import read_constants
from edgekit.convert.flatbuffer import read_model
from edgekit.convert.held_out import HeldOut
from edgekit.convert.quantize import check_mode, quantize
from edgekit.runner import load


def samples(count: int = 200) -> np.ndarray:
    """What the pair of models takes, of a mean that is not zero."""
    return np.random.default_rng(1).uniform(0, 1, (count, 1, 6)).astype(np.float32)


@pytest.mark.parametrize("shift", [6, -9])
def test_weights_that_are_all_too_large_shift_nothing_any_more(tmp_path, shift):
    real, quantized = write_pair(tmp_path, shift=shift)
    output = tmp_path / "out.tflite"
    x = samples()
    before = load(real)(x[:, 0]) - load(quantized)(x[:, 0])

    assert correct_bias(real, quantized, output, {"x": x}) == 1  # the first layer's weights are what they should be

    after = load(real)(x[:, 0]) - load(output)(x[:, 0])

    assert np.abs(before.mean(axis=0)).min() > 2 * STEP
    assert np.abs(after.mean(axis=0)).max() < STEP / 4


def test_only_biases_are_changed_and_a_second_time_nothing(tmp_path):
    real, quantized = write_pair(tmp_path, shift=2)
    output = tmp_path / "out.tflite"
    correct_bias(real, quantized, output, {"x": samples()})
    before, after = read_constants(quantized), read_constants(output)
    names = {index: read_model(output).subgraphs[0].tensors[index].name for index in after}

    assert {names[index] for index in after if before[index] != after[index]} == {"b2"}
    assert quantized.stat().st_size == output.stat().st_size
    assert correct_bias(real, output, tmp_path / "again.tflite", {"x": samples()}) == 0
    assert not (tmp_path / "again.tflite").exists()


def test_layers_of_another_network_are_not_corrected_by_this_one(tmp_path):
    (tmp_path / "other").mkdir()
    real, _ = write_pair(tmp_path / "other", seed=5)
    _, quantized = write_pair(tmp_path, shift=2)

    assert correct_bias(real, quantized, tmp_path / "out.tflite", {"x": samples()}) == 0


def dense(path, dtype, bias):
    """One layer of 6 numbers to 3, float or int8, with or without a bias; int8 weights are two steps too large."""
    steps = np.random.default_rng(0).integers(-50, 50, (3, 6))
    if dtype == "float32":
        into, out = T("in", (1, 6)), T("out", (1, 3))
        constants = [T("w", (3, 6), data=(steps / 64).astype(np.float32)), T("b", (3,), data=np.zeros(3, np.float32))]
    else:
        into, out = T("in", (1, 6), "int8", 1 / 64, 0), T("out", (1, 3), "int8", 1 / 16, 0)
        constants = [T("w", (3, 6), "int8", 1 / 64, 0, (steps + 2).astype(np.int8))]
        constants += [T("b", (3,), "int32", 1 / 64 / 64, 0, np.zeros(3, np.int32))]
    into_layer = [into, *constants[: 2 if bias else 1]]
    steps = [("FULLY_CONNECTED", into_layer, [out])]
    path.write_bytes(build(steps, inputs=[into], outputs=[out], names={"x": "in", "y": "out"}))
    return path


@pytest.mark.parametrize("has_bias", [True, False])
def test_a_layer_without_a_bias_stays_as_it_is(tmp_path, has_bias):
    real, quantized = (dense(tmp_path / f"{d}.tflite", d, has_bias) for d in ("float32", "int8"))

    assert correct_bias(real, quantized, tmp_path / "out.tflite", {"x": samples()}) == has_bias


def test_a_model_without_such_layers_stays_as_it_is(tmp_path):
    path = tmp_path / "float.tflite"
    path.write_bytes(sum_and_product())
    a, b = np.ones((2, 4, 1, 3), np.float32)

    assert correct_bias(path, path, tmp_path / "out.tflite", {"a": a, "b": b}) == 0


@pytest.mark.parametrize(
    "mode", ["weights4", *(pytest.param(mode, marks=pytest.mark.slow) for mode in ("dynamic", "weights8"))]
)
def test_biases_that_are_real_numbers_are_corrected_too(tmp_path, mode):
    pytest.importorskip("litert_quantizer", reason="these modes are made by litert-quantizer")
    model, name, x = resnet8()
    quantized = quantize(model, mode, [], tmp_path / "q").paths[0]
    output = tmp_path / "q" / "corrected.tflite"

    assert correct_bias(model, quantized, output, {name: x[:60]}) == 10

    before, after = HeldOut(model, {name: x[300:400]}, tmp_path).judge([quantized, output], ["", ""])
    check_mode(output, mode)

    assert after.sqnr_db >= before.sqnr_db + 2


@pytest.mark.parametrize(("mode", "count"), [("int8", 100), ("int16x8", 16)])  # int16 has slow kernels only
def test_a_real_network_is_nearer_to_float_on_samples_held_out(tmp_path, mode, count):
    model, name, x = resnet8()
    feeds = {name: x[:count]}
    quantized = choose(model, mode, feeds, tmp_path / "q", policy="min-max").path
    output = tmp_path / "q" / "corrected.tflite"

    assert correct_bias(model, quantized, output, feeds) == 10

    check_mode(output, mode)
    before, after = HeldOut(model, {name: x[200 : 200 + count]}, tmp_path).judge([quantized, output], ["", ""])

    assert after.sqnr_db >= before.sqnr_db + 0.4
