"""Layers as matrices: weights times patches is what LiteRT computes, for every form of a layer."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert", reason="pip install 'edgekit[convert]'")

from handmade_model import T, build
from hypothesis import given as given_values
from hypothesis import strategies as st
from model_pair import write_pair
from real_networks import resnet8

from edgekit.convert.flatbuffer import read_model
from edgekit.convert.linear import find_layers, find_twins
from edgekit.convert.observe import observe
from edgekit.convert.patch import own_constants, pack, unpack
from edgekit.convert.quantize import quantize

SAME, VALID = 0, 1


def random() -> np.random.Generator:
    return np.random.default_rng(2)


def convolution(path, *, kernel=(3, 3), stride=(1, 1), dilation=(1, 1), padding=SAME, multiplier=0, size=(9, 12)):
    """One float convolution of 4 channels, depthwise with a multiplier; its padding as LiteRT computes it."""
    sizes = zip(size, kernel, stride, dilation, strict=True)
    rows, columns = (-(-n // s) if padding == SAME else -(-(n - (k - 1) * d) // s) for n, k, s, d in sizes)
    made = 4 * multiplier if multiplier else 5
    shape = (1, *kernel, made) if multiplier else (made, *kernel, 4)
    x, y = T("x", (1, *size, 4)), T("y", (1, rows, columns, made))
    w = T("w", shape, data=random().normal(size=shape).astype(np.float32))
    b = T("b", (made,), data=random().normal(size=made).astype(np.float32))
    options = {"padding": padding, "strideH": stride[0], "strideW": stride[1]}
    options |= {"dilationHFactor": dilation[0], "dilationWFactor": dilation[1]}
    name = "DEPTHWISE_CONV_2D" if multiplier else "CONV_2D"
    if multiplier:
        options["depthMultiplier"] = multiplier
    path.write_bytes(build([(name, [x, w, b], [y], options)], inputs=[x], outputs=[y]))
    return x.shape


FORMS = {
    "plain": {},
    "strides": {"stride": (2, 3)},
    "without padding": {"padding": VALID, "stride": (1, 2)},
    "dilated": {"dilation": (2, 3)},
    "dilated without padding": {"dilation": (2, 1), "padding": VALID},
    "an even kernel": {"kernel": (2, 4), "stride": (2, 2)},
    "as large as the picture": {"kernel": (9, 12), "padding": VALID},
    "one by one": {"kernel": (1, 1), "stride": (2, 2)},
    "depthwise": {"multiplier": 1},
    "depthwise, three outputs for each channel": {"multiplier": 3, "stride": (2, 2)},
    "depthwise, dilated": {"multiplier": 2, "dilation": (3, 2), "padding": VALID},
}


@pytest.mark.parametrize("form", FORMS)
def test_weights_times_patches_are_what_litert_computes(tmp_path, form):
    path = tmp_path / "one.tflite"
    shape = convolution(path, **FORMS[form])
    (layer,) = find_layers(read_model(path).subgraphs[0])
    constants = own_constants(bytearray(path.read_bytes()))
    x = random().normal(size=(2, *shape)).astype(np.float32)
    runs = observe(path, {"x": x}, lambda _, read: (read(layer.x), read(layer.y)))
    matrix = layer.matrix(constants[layer.w])
    for given, wanted in runs:
        patches = layer.patches(given, 10**6, 0)
        if layer.is_depthwise:
            each = np.repeat(patches, layer.channels_out // 4, axis=2)  # (places, kernel places, out)
            found = np.einsum("nkc,ck->nc", each, matrix)
        else:
            found = patches.reshape(len(patches), -1) @ matrix.T
        found = found + constants[layer.b]

        np.testing.assert_allclose(found, wanted.reshape(found.shape), rtol=1e-5, atol=1e-4)
        np.testing.assert_allclose(layer.mean_patch(given), patches.mean(axis=0), atol=1e-5)
    np.testing.assert_array_equal(layer.weights(matrix), constants[layer.w])


def test_drawn_patches_are_some_of_all_and_the_same_each_time(tmp_path):
    shape = convolution(tmp_path / "one.tflite")
    (layer,) = find_layers(read_model(tmp_path / "one.tflite").subgraphs[0])
    x = random().normal(size=shape).astype(np.float32)
    every = {patch.tobytes() for patch in layer.patches(x, 10**6, 0)}
    drawn = layer.patches(x, 30, 7)

    assert len({patch.tobytes() for patch in drawn} & every) == 30
    np.testing.assert_array_equal(drawn, layer.patches(x, 30, 7))


def test_twins_are_a_layer_in_float_and_in_int8(tmp_path):
    first, second = find_twins(*write_pair(tmp_path, shift=3))

    assert (first.error == 0).all()  # the weights are whole steps
    np.testing.assert_allclose(second.error, -3 / 64)
    assert second.input_scale == 1 / 16


def test_four_bit_weights_are_what_litert_makes_of_them(tmp_path):
    """Every layer of ResNet8: steps times scale beside what the file's own DEQUANTIZE writes."""
    pytest.importorskip("litert_quantizer", reason="int4 is made by litert-quantizer")
    model, name, x = resnet8()
    path = quantize(model, "weights4", [], tmp_path).paths[0]
    graph = read_model(path).subgraphs[0]
    every = find_twins(model, path)
    given = [graph.operators[twins.layer.operator.index].inputs[1] for twins in every]
    (wanted,) = observe(path, {name: x[:1]}, lambda _, read: [read(index) for index in given])

    assert len(every) == 10
    for twins, weights in zip(every, wanted, strict=True):
        np.testing.assert_allclose(twins.steps * twins.scale[:, None], twins.layer.matrix(weights), rtol=1e-6)
        assert np.abs(twins.steps).max() <= 7


@given_values(st.lists(st.integers(-8, 7), max_size=9))
def test_four_bit_values_are_packed_in_pairs_and_come_back(values):
    stored = pack(np.array(values, np.int8))

    assert len(stored) == (len(values) + 1) // 2
    assert unpack(stored, len(values)).tolist() == values


def test_what_is_written_to_a_constant_is_in_the_file(tmp_path):
    _, path = write_pair(tmp_path)
    content = bytearray(path.read_bytes())
    graph = read_model(path).subgraphs[0]
    index = graph.operators[1].inputs[2]
    own_constants(content)[index][...] = [7, -8, 9]
    before = path.read_bytes()

    assert own_constants(bytearray(bytes(content)))[index].tolist() == [7, -8, 9]
    assert len(content) == len(before)
    assert sum(a != b for a, b in zip(content, before, strict=True)) <= 12
