"""The layer comparison: SQNR where it is known, partners by name and by position, and what has none."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert", reason="pip install 'edgekit[convert]'")

from handmade_model import T, build
from model_pair import inputs, write_pair

from edgekit.convert.flatbuffer import read_model
from edgekit.convert.layers import compare_layers, loser_text, match_operators, short_name
from edgekit.runner.model import load


def compared(folder, values=None, **options):
    paths = write_pair(folder, **options)
    models = [load(path) for path in paths]
    return compare_layers(models[0], paths[0], models[1], paths[1], [inputs() if values is None else values])


def test_each_layer_has_the_sqnr_that_numpy_computes(tmp_path):
    found = compared(tmp_path)
    real, int8 = (load(tmp_path / f"{name}.tflite") for name in ("float", "int8"))
    from edgekit.convert.selection import spread

    values = inputs()[spread(200, 32)]
    signal, noise = np.square(real(values)).sum(), np.square(real(values) - int8(values)).sum()

    assert [(layer.operator, layer.index, layer.matched_by) for layer in found.layers] == [
        ("input", -1, "input"), ("FULLY_CONNECTED", 0, "name"), ("FULLY_CONNECTED", 1, "name")
    ]  # fmt: skip
    assert found.layers[-1].sqnr_db == pytest.approx(10 * np.log10(signal / noise), abs=0.3)
    assert (found.unmatched, found.float_unmatched, found.count) == ((), (), 32)


def test_a_range_that_is_too_narrow_is_the_layer_that_loses_most(tmp_path):
    found = compared(tmp_path, hidden_step=1 / 512)
    (worst, *_) = found.losers()

    assert worst.name == "hidden"
    assert worst.clipped > 0.2
    assert worst.lost_db > 10
    assert loser_text(worst).startswith("FULLY_CONNECTED 'hidden' (4")


def test_good_ranges_have_no_losers_to_speak_of(tmp_path):
    found = compared(tmp_path, hidden_step=1 / 40)

    assert all(layer.sqnr_db > 25 and layer.clipped == 0 for layer in found.layers)


def test_inputs_beyond_the_range_are_lost_before_the_first_operator(tmp_path):
    found = compared(tmp_path, values=inputs() * 100)

    assert found.losers()[0].operator == "input"
    assert found.layers[0].clipped > 0.9


def test_a_tensor_of_another_name_is_found_by_its_position(tmp_path):
    found = compared(tmp_path, renamed=True)

    assert [(layer.name, layer.float_name, layer.matched_by) for layer in found.layers[1:]] == [
        ("renamed", "hidden", "position"), ("out", "out", "name")
    ]  # fmt: skip


def test_what_only_one_model_has_is_said():
    a, b, c = T("a", (1, 4)), T("b", (1, 4)), T("c", (1, 4))
    left = build([("RELU", [a], [b]), ("LOGISTIC", [b], [c])], inputs=[a], outputs=[c])
    x, y = T("a", (1, 4)), T("z", (1, 4))
    right = build([("LOGISTIC", [x], [y])], inputs=[x], outputs=[y])

    pairs = match_operators(read_model(left), read_model(right))

    assert [how for _, _, how in pairs] == ["position"]
    assert read_model(left).subgraphs[0].tensors[pairs[0][0]].name == "c"


def test_operators_of_other_shapes_are_no_partners():
    a, b = T("a", (1, 4)), T("b", (1, 4))
    c, d = T("a", (1, 8)), T("b", (1, 8))
    left = build([("RELU", [a], [b])], inputs=[a], outputs=[b])
    right = build([("RELU", [c], [d])], inputs=[c], outputs=[d])

    assert match_operators(read_model(left), read_model(right)) == []


def test_the_bridges_between_float_and_int8_stand_for_nothing():
    a, b = T("a", (1, 4)), T("b", (1, 4))
    q, r, f = T("q", (1, 4), "int8", 0.1), T("r", (1, 4), "int8", 0.1), T("f", (1, 4))
    left = build([("RELU", [a], [b])], inputs=[a], outputs=[b])
    right = build([("QUANTIZE", [a], [q]), ("RELU", [q], [r]), ("DEQUANTIZE", [r], [f])], inputs=[a], outputs=[f])
    (pair,) = match_operators(read_model(left), read_model(right))

    assert read_model(right).subgraphs[0].tensors[pair[1]].name == "r"


def test_a_name_is_shown_as_a_person_would_say_it():
    fused = "model/conv/Relu;model/conv/BiasAdd;model/conv/Conv2D;bias/ReadVariableOp/resource"

    assert short_name(fused) == "model/conv/Relu"
    assert short_name("a_very_long_model_name_1.00_96_1/stage_1/block_12_project_1/convolution1") == (
        "…/stage_1/block_12_project_1/convolution1"
    )
    assert short_name("x" * 100) == "…" + "x" * 47
    assert short_name("") == ""


def test_a_partner_by_position_that_cannot_be_one_is_not_believed(tmp_path):
    """The hidden tensor changes its sign on the way and back: a position alone would call that -6 dB."""
    a, b, c = T("in", (1, 4)), T("one", (1, 4)), T("out", (1, 4))
    plus, minus = (T(name, (1, 4), data=np.full((1, 4), by, np.float32)) for name, by in (("p", 2.0), ("m", -2.0)))
    for name, by, middle in (("float", plus, b), ("int8", minus, T("two", (1, 4)))):
        content = build([("MUL", [a, by], [middle]), ("MUL", [middle, by], [c])], inputs=[a], outputs=[c])
        (tmp_path / f"{name}.tflite").write_bytes(content)
    paths = tmp_path / "float.tflite", tmp_path / "int8.tflite"
    found = compare_layers(load(paths[0]), paths[0], load(paths[1]), paths[1], [inputs()[:, :4]])

    assert [layer.name for layer in found.layers] == ["in", "out"]
    assert found.unmatched == ("MUL 'two': -6.02 dB although the answer has 300 dB: not the same tensor",)
