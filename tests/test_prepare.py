"""A float graph is written as quantizers take it: the same answers, and nothing that they refuse or quietly get wrong."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert", reason="pip install 'edgekit[convert]'")

from handmade_model import T, build

from edgekit.convert import choose
from edgekit.convert.calibrate import measure_extremes
from edgekit.convert.flatbuffer import read_model
from edgekit.convert.prepare import prepare
from edgekit.convert.quality import sqnr_db
from edgekit.convert.quantize import quantize
from edgekit.convert.ranges import min_max
from edgekit.convert.rewrite import packed, unpacked
from edgekit.runner import load


def random() -> np.random.Generator:
    return np.random.default_rng(11)


def twin(path):
    """One layer for two inputs of very different size: it has the weights and the bias twice."""
    a, b = T("a", (1, 8)), T("b", (1, 8))
    weights = T("w", (8, 8), data=random().normal(size=(8, 8)).astype(np.float32))
    bias = T("bias", (8,), data=np.linspace(-2, 2, 8).astype(np.float32))
    of_a, of_b = T("of_a", (1, 8)), T("of_b", (1, 8))
    steps = [("FULLY_CONNECTED", [a, weights, bias], [of_a]), ("FULLY_CONNECTED", [b, weights, bias], [of_b])]
    names = {"a": "a", "b": "b", "x": "of_a", "y": "of_b"}
    path.write_bytes(build(steps, inputs=[a, b], outputs=[of_a, of_b], names=names))
    return {
        "a": random().normal(size=(40, 1, 8)).astype(np.float32),
        "b": 0.3 * random().random((40, 1, 8), np.float32),
    }


@pytest.mark.parametrize("mode", ["int8", "int16x8"])
def test_a_bias_that_two_layers_share_has_the_scale_that_each_of_them_needs(tmp_path, mode):
    feeds = twin(tmp_path / "twin.tflite")
    choice = choose.choose(tmp_path / "twin.tflite", mode, feeds, tmp_path / "c", policy="min-max")
    graph = read_model(choice.path).subgraphs[0]
    layers = [[graph.tensors[i] for i in op.inputs] for op in graph.operators if op.name == "FULLY_CONNECTED"]

    assert len(layers) == 2
    for into, weights, bias in layers:
        np.testing.assert_allclose(bias.scale, into.scale[0] * np.array(weights.scale), rtol=1e-5)


def test_what_shares_a_bias_answers_as_float_does(tmp_path):
    feeds = twin(tmp_path / "twin.tflite")
    choice = choose.choose(tmp_path / "twin.tflite", "int8", feeds, tmp_path / "c", policy="min-max")
    given = {name: array[:, 0] for name, array in feeds.items()}
    wanted, got = load(tmp_path / "twin.tflite")(given), load(choice.path)(given)

    assert sqnr_db([wanted["x"]], [got["x"]]) > 35
    assert sqnr_db([wanted["y"]], [got["y"]]) > 35


def test_litert_still_needs_a_bias_for_each_layer(tmp_path):
    """Why there are copies: should this fail one day, they can go."""
    feeds = twin(tmp_path / "twin.tflite")
    ranges = [min_max(measure_extremes(tmp_path / "twin.tflite", feeds))]
    made = quantize(tmp_path / "twin.tflite", "int8", ranges, tmp_path / "q", back_ends=["litert"])
    given = {name: array[:, 0] for name, array in feeds.items()}
    wanted, got = load(tmp_path / "twin.tflite")(given)["y"], load(made.paths[0])(given)["y"]

    assert sqnr_db([wanted], [got]) < 20


def operator(path, name, x):
    """The file of a network of one operator; its answers to `x`."""
    into, out = T("x", x.shape[1:]), T("y", x.shape[1:])
    path.write_bytes(build([(name, [into], [out])], inputs=[into], outputs=[out], names={"x": "x", "y": "y"}))
    return load(path)(x[:, 0])


@pytest.mark.parametrize("name", ["NEG", "SQUARE"])
def test_what_no_quantizer_takes_is_written_as_what_they_do(tmp_path, name):
    x = random().normal(size=(40, 1, 8)).astype(np.float32)
    wanted = operator(tmp_path / "one.tflite", name, x)
    model = unpacked((tmp_path / "one.tflite").read_bytes())

    assert prepare(model)
    (tmp_path / "prepared.tflite").write_bytes(packed(model))
    np.testing.assert_array_equal(load(tmp_path / "prepared.tflite")(x[:, 0]), wanted)

    choice = choose.choose(tmp_path / "one.tflite", "int8", {"x": x}, tmp_path / "c", policy="min-max")
    assert sqnr_db([wanted], [load(choice.path)(x[:, 0])]) > 30


def several(path, steps, into, out):
    path.write_bytes(build(steps, inputs=[into], outputs=[out], names={"x": into.name, "y": out.name}))
    return path


def total(path):
    """The sum over the rows."""
    into, out = T("x", (1, 16, 8)), T("y", (1, 8))
    axis = T("axis", (1,), "int32", data=np.array([1], np.int32))
    return several(path, [("SUM", [into, axis], [out])], into, out)


def softplus(path):
    into, out = T("x", (1, 16, 8)), T("y", (1, 16, 8))
    power, more = T("power", (1, 16, 8)), T("more", (1, 16, 8))
    one = T("one", (), data=np.array(1, np.float32))
    return several(path, [("EXP", [into], [power]), ("ADD", [power, one], [more]), ("LOG", [more], [out])], into, out)


def elu(path):
    into, out = T("x", (1, 16, 8)), T("y", (1, 16, 8))
    return several(path, [("ELU", [into], [out])], into, out)


@pytest.mark.parametrize("made", [total, softplus, elu])
def test_what_int8_does_badly_is_the_same_function_written_otherwise(tmp_path, made):
    """Without: 9 dB, 11 dB, and no file at all."""
    source = made(tmp_path / "source.tflite")
    x = 2 * random().normal(size=(60, 1, 16, 8)).astype(np.float32)
    wanted = load(source)(x[:, 0])
    model = unpacked(source.read_bytes())

    assert prepare(model)
    (tmp_path / "prepared.tflite").write_bytes(packed(model))
    np.testing.assert_allclose(load(tmp_path / "prepared.tflite")(x[:, 0]), wanted, rtol=1e-5, atol=1e-5)

    choice = choose.choose(source, "int8", {"x": x}, tmp_path / "c", policy="min-max")
    assert sqnr_db([wanted], [load(choice.path)(x[:, 0])]) > 33


def test_where_one_quantizer_does_it_badly_the_next_one_is_asked(tmp_path, monkeypatch):
    """LiteRT's does not refuse SUM, but gives its result the scale of what is added."""
    pytest.importorskip("litert_quantizer")
    source = total(tmp_path / "source.tflite")
    x = 2 * random().normal(size=(60, 1, 16, 8)).astype(np.float32)
    (tmp_path / "c").mkdir()
    monkeypatch.setattr(choose, "prepared", lambda model, *rest: model)  # as it came: nothing is written otherwise
    choice = choose.choose(source, "int8", {"x": x}, tmp_path / "c")

    assert choice.made_by.startswith("litert-quantizer")
    assert sqnr_db([load(source)(x[:, 0])], [load(choice.path)(x[:, 0])]) > 33


def test_softplus_does_not_overflow_where_its_plain_form_does(tmp_path):
    source = softplus(tmp_path / "source.tflite")
    model = unpacked(source.read_bytes())
    prepare(model)
    (tmp_path / "prepared.tflite").write_bytes(packed(model))
    x = np.full((1, 16, 8), 100.0, np.float32)

    assert np.isinf(load(source)(x)).all()
    np.testing.assert_allclose(load(tmp_path / "prepared.tflite")(x), 100.0)


def test_a_power_that_somebody_else_reads_too_stays(tmp_path):
    into, power, more = T("x", (1, 8)), T("power", (1, 8)), T("more", (1, 8))
    log, out = T("log", (1, 8)), T("y", (1, 8))
    one = T("one", (), data=np.array(1, np.float32))
    steps = [
        ("EXP", [into], [power]),
        ("ADD", [power, one], [more]),
        ("LOG", [more], [log]),
        ("MUL", [log, power], [out]),
    ]
    source = several(tmp_path / "source.tflite", steps, into, out)
    x = random().normal(size=(20, 8)).astype(np.float32)
    wanted = load(source)(x)
    model = unpacked(source.read_bytes())
    prepare(model)
    (tmp_path / "prepared.tflite").write_bytes(packed(model))

    np.testing.assert_allclose(load(tmp_path / "prepared.tflite")(x), wanted, rtol=1e-5)


def test_a_model_that_needs_nothing_is_left_alone(tmp_path):
    x = random().normal(size=(4, 1, 8)).astype(np.float32)
    operator(tmp_path / "one.tflite", "TANH", x)

    assert not prepare(unpacked((tmp_path / "one.tflite").read_bytes()))


@pytest.mark.parametrize("mode", ["int8", "int16x8"])
def test_a_squared_difference_has_kernels_in_both(tmp_path, mode):
    """Layer normalization; LiteRT has an int8 kernel for it and none for int16."""
    a, b, out = T("a", (1, 4, 6)), T("b", (1, 4, 1)), T("out", (1, 4, 6))
    path = tmp_path / "sd.tflite"
    names = {"a": "a", "b": "b", "y": "out"}
    path.write_bytes(build([("SQUARED_DIFFERENCE", [a, b], [out])], inputs=[a, b], outputs=[out], names=names))
    feeds = {name: random().normal(size=(40, *t.shape)).astype(np.float32) for name, t in (("a", a), ("b", b))}
    choice = choose.choose(path, mode, feeds, tmp_path / "c", policy="min-max")
    given = {name: array[:, 0] for name, array in feeds.items()}

    assert sqnr_db([load(path)(given)], [load(choice.path)(given)]) > (70 if mode == "int16x8" else 35)
