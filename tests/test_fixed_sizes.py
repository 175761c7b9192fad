"""A .tflite with a free batch: what computes shapes becomes constants, where sizes do not depend on values."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert", reason="pip install 'edgekit[convert]'")

from handmade_model import T, build

from edgekit.convert.fixed_sizes import fix_sizes
from edgekit.convert.flatbuffer import read_model
from edgekit.convert.rewrite import packed, unpacked
from edgekit.runner.interpreter import open_interpreter


def numbers(name, *values):
    return T(name, (len(values),), "int32", data=np.array(values, np.int32))


def free(*, by_value=False):
    """(batch, 2, 3) becomes (batch, 6) as TFLiteConverter writes Flatten; `by_value`: of what is not zero only."""
    into, shape, batch, sizes = (
        T("in", (1, 2, 3)),
        T("shape", (3,), "int32"),
        T("batch", (), "int32"),
        T("sizes", (2,), "int32"),
    )
    six, flat, out = T("six", (), "int32", data=np.int32(6)), T("flat", (1, 6)), T("out", (1, 6))
    begin, end, one = numbers("begin", 0), numbers("end", 1), numbers("one", 1)
    operators = [
        ("SHAPE", [into], [shape], {"outType": 2}),
        ("STRIDED_SLICE", [shape, begin, end, one], [batch], {"shrinkAxisMask": 1}),
        ("PACK", [batch, six], [sizes], {"valuesCount": 2}),
        ("RESHAPE", [into, sizes], [flat]),
        ("ADD", [flat, flat], [out]),
    ]  # fmt: skip
    outputs = [out]
    if by_value:
        found = T("found", (1, 2), "int64")
        operators += [("CAST", [out], [T("is", (1, 6), "bool")])]
        operators += [("WHERE", [operators[-1][2][0]], [found])]
        outputs = [out, found]
    model = unpacked(build(operators, inputs=[into], outputs=outputs))
    for tensor in model.subgraphs[0].tensors:
        if tensor.name in (b"in", b"flat", b"out"):
            tensor.shapeSignature = [-1, *tensor.shape[1:]]
    return packed(model)


def answer(path):
    interpreter = open_interpreter(path, 1)
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], np.arange(6, dtype=np.float32).reshape(1, 2, 3))
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


def test_what_computes_shapes_is_gone_and_the_answers_are_the_same(tmp_path):
    path = tmp_path / "m.tflite"
    path.write_bytes(free())
    before = answer(path)

    assert fix_sizes(path)

    graph = read_model(path).subgraphs[0]
    assert [operator.name for operator in graph.operators] == ["RESHAPE", "ADD"]
    assert not any(-1 in (tensor.shape_signature or ()) for tensor in graph.tensors)
    assert (answer(path) == before).all()


def test_sizes_that_depend_on_values_are_left_alone(tmp_path):
    path = tmp_path / "m.tflite"
    path.write_bytes(free(by_value=True))

    assert not fix_sizes(path)
    assert path.read_bytes() == free(by_value=True)


def test_a_model_of_keras_with_a_free_batch_becomes_int8_without_shapes(tmp_path):
    from edgekit import convert

    (tmp_path / "free.tflite").write_bytes(free())
    np.savez(tmp_path / "x.npz", x=np.random.default_rng(0).random((40, 2, 3), np.float32))
    result = convert(tmp_path / "free.tflite", tmp_path / "b", tmp_path / "x.npz", report=False)

    operators = {
        operator.name for operator in read_model(tmp_path / "b" / "models" / "int8.tflite").subgraphs[0].operators
    }
    assert "SHAPE" not in operators
    assert not any("batch" in warning for warning in result.warnings)
