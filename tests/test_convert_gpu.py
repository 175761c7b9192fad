"""Int8 for LiteRT's GPU accelerator: strided 1 x 1 convolutions in a form that it computes right."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert", reason="pip install 'edgekit[convert]'")

from handmade_model import T, build

from edgekit.bundle import Delegate
from edgekit.convert.flatbuffer import read_model
from edgekit.convert.gpu import for_gpu, without_strided_pointwise
from edgekit.convert.variants import Made
from edgekit.runner.interpreter import open_interpreter


def strided(size, *, padding=0, kernel=1, stride=2, dtype="int8"):
    """Two convolutions that read the same weights, the first with a stride."""
    random = np.random.default_rng(0)
    is_int8 = dtype == "int8"
    values = random.integers(-127, 128, (4, kernel, kernel, 4)).astype(np.int8)
    weights = T(
        "w", values.shape, dtype, 0.01 if is_int8 else None, data=values if is_int8 else values.astype(np.float32)
    )
    bias = T("b", (4,), "int32", 0.005, data=random.integers(-900, 900, 4).astype(np.int32))
    bias = bias if is_int8 else T("b", (4,), data=np.ones(4, np.float32))
    half = -(-size // stride) if padding == 0 else (size - kernel) // stride + 1
    into = T("in", (1, size, size, 4), dtype, 0.5 if is_int8 else None, 7 if is_int8 else 0)
    middle = T("middle", (1, half, half, 4), dtype, 0.9 if is_int8 else None, -5 if is_int8 else 0)
    out = T("out", (1, half, half, 4), dtype, 1.1 if is_int8 else None, 3 if is_int8 else 0)
    return build(
        [
            ("CONV_2D", [into, weights, bias], [middle], {"strideH": stride, "strideW": stride, "padding": padding}),
            ("CONV_2D", [middle, weights, bias], [out], {"strideH": 1, "strideW": 1}),
        ],
        inputs=[into],
        outputs=[out],
    )  # fmt: skip


def answer(content, folder):
    (folder / "m.tflite").write_bytes(content)
    interpreter = open_interpreter(folder / "m.tflite", 1)
    details = interpreter.get_input_details()[0]
    interpreter.set_tensor(
        details["index"], np.random.default_rng(1).integers(-128, 128, details["shape"]).astype(np.int8)
    )
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


@pytest.mark.parametrize("size", [1, 2, 7, 8])
@pytest.mark.parametrize("padding", [0, 1], ids=["same", "valid"])
def test_the_answers_stay_the_same_to_the_bit(tmp_path, size, padding):
    content = strided(size, padding=padding)
    changed = without_strided_pointwise(content)

    (tmp_path / "c.tflite").write_bytes(changed)
    kernels = [
        read_model(tmp_path / "c.tflite").subgraphs[0].tensors[operator.inputs[1]].shape[1:3]
        for operator in read_model(tmp_path / "c.tflite").subgraphs[0].operators
    ]
    assert kernels == [(2, 2), (1, 1)]  # the one without a stride keeps its own
    assert (answer(changed, tmp_path) == answer(content, tmp_path)).all()
    assert without_strided_pointwise(changed) is None


@pytest.mark.parametrize("options", [{"stride": 1}, {"kernel": 3}, {"dtype": "float32"}])
def test_what_the_accelerator_does_right_is_left_alone(options):
    assert without_strided_pointwise(strided(8, **options)) is None


def test_only_a_variant_for_a_gpu_is_changed(tmp_path):
    (tmp_path / "m.tflite").write_bytes(strided(8))
    made = Made("int8", tmp_path / "m.tflite", "min-max", "somebody", ())

    assert for_gpu(made, None, (Delegate("cpu", {}),), tmp_path / "g") is made
    changed = for_gpu(made, None, (Delegate("gpu", {}), Delegate("cpu", {})), tmp_path / "g")
    assert changed.path == tmp_path / "g" / "int8.tflite"
    assert changed.made_by == "somebody, strided 1 x 1 convolutions as 2 x 2 by edgekit"
