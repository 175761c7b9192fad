"""A TRANSPOSE goes where what follows can do without it, stays where it cannot, and the answers are the same."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert", reason="pip install 'edgekit[convert]'")

from handmade_model import T, build

from edgekit.convert.describe import operator_counts
from edgekit.convert.flatbuffer import read_model
from edgekit.convert.prepare import prepare
from edgekit.convert.rewrite import packed, unpacked
from edgekit.convert.transposes import without_transposes
from edgekit.runner import load

RNG = np.random.default_rng(3)
SHAPE = (1, 4, 5, 3)  # NHWC


def constant(name, values):
    values = np.asarray(values)
    return T(name, values.shape, values.dtype.name, data=values)


def first(perm=(0, 3, 1, 2)):
    """The input and a TRANSPOSE of it."""
    x, y = T("x", SHAPE), T("nchw", tuple(SHAPE[i] for i in perm))
    return x, y, ("TRANSPOSE", [x, constant("perm", np.array(perm, np.int32))], [y])


def mean(axes):
    x, y, step = first()
    out = T("out", tuple(size for i, size in enumerate(y.shape) if i not in axes))
    return build([step, ("MEAN", [y, constant("axes", np.array(axes, np.int32))], [out])], inputs=[x], outputs=[out])


def dense(*, twice=False, also_given=False):
    x, y, step = first()
    flat, out = T("flat", (1, 60)), T("out", (1, 7))
    shape = constant("shape", np.array([1, 60], np.int32))
    weights = constant("w", RNG.normal(size=(7, 60)).astype(np.float32))
    bias = constant("b", RNG.normal(size=7).astype(np.float32))
    steps = [step, ("RESHAPE", [y, shape], [flat]), ("FULLY_CONNECTED", [flat, weights, bias], [out])]
    outputs = [out, *([y] if also_given else [])]
    if twice:
        again = T("again", (1, 7))
        steps.append(("FULLY_CONNECTED", [flat, weights, bias], [again]))
        outputs.append(again)
    return build(steps, inputs=[x], outputs=outputs)


def still():
    """Only a dimension of one element moves."""
    x, y = T("x", (1, 1, 6, 2)), T("y", (1, 6, 1, 2))
    out = T("out", (1, 12))
    steps = [("TRANSPOSE", [x, constant("perm", np.array([0, 2, 1, 3], np.int32))], [y])]
    steps.append(("RESHAPE", [y, constant("shape", np.array([1, 12], np.int32))], [out]))
    return build(steps, inputs=[x], outputs=[out])


def answers(path, content, shape=SHAPE):
    path.write_bytes(content)
    found = load(path)(np.random.default_rng(1).normal(size=shape[1:]).astype(np.float32))
    return list(found.values()) if isinstance(found, dict) else [found]


@pytest.mark.parametrize(
    ("content", "left"),
    [
        (mean((2, 3)), 0),
        (mean((1, 2, 3)), 0),
        (mean((1,)), 0),
        (mean((3,)), 1),  # (channels, height) of NHWC would be (height, channels)
        (dense(), 0),
        (dense(twice=True), 1),
        (dense(also_given=True), 1),
        (still(), 0),
    ],
    ids=["spatial", "all", "channels", "width", "dense", "twice", "given", "still"],
)
def test_a_transpose_stays_only_where_it_is_needed(tmp_path, content, left):
    model = unpacked(content)
    taken = without_transposes(model)
    shape = (1, 1, 6, 2) if content == still() else SHAPE

    after = packed(model)
    for wanted, got in zip(
        answers(tmp_path / "a.tflite", content, shape), answers(tmp_path / "b.tflite", after, shape), strict=True
    ):
        np.testing.assert_allclose(got, wanted, atol=1e-5)
    counts = operator_counts(read_model(tmp_path / "b.tflite"))
    assert taken == 1 - left
    assert counts.get("TRANSPOSE", (0, 0))[0] == left


def test_an_embedding_becomes_what_quantizers_take(tmp_path):
    tokens, out = T("tokens", (5,), "int32"), T("out", (5, 4))
    table = constant("table", RNG.normal(size=(9, 4)).astype(np.float32))
    content = build([("EMBEDDING_LOOKUP", [tokens, table], [out])], inputs=[tokens], outputs=[out])
    model = unpacked(content)
    changed = prepare(model)

    given = np.array([3, 0, 8, 8, 1], np.int32)
    found = []
    for name, each in (("a", content), ("b", packed(model))):
        (tmp_path / name).with_suffix(".tflite").write_bytes(each)
        found.append(load((tmp_path / name).with_suffix(".tflite"))(given))
    assert changed
    assert list(operator_counts(read_model(tmp_path / "b.tflite"))) == ["GATHER"]
    np.testing.assert_array_equal(found[1], table.data[given])
    np.testing.assert_array_equal(found[0], found[1])
