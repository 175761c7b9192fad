"""What interpreters have: the table is what the installed one says, and a target's systems get the one that deploying sends."""

from __future__ import annotations

from dataclasses import replace
from importlib import metadata

import pytest

pytest.importorskip("ai_edge_litert", reason="pip install 'edgekit[convert]'")

import flatbuffers
from ai_edge_litert import schema_py_generated as tfl
from handmade_model import T, build

from edgekit.convert import kernels
from edgekit.convert.flatbuffer import Model, read_model
from edgekit.target import load_target, target_names

INSTALLED = f"ai-edge-litert=={metadata.version('ai-edge-litert')}"


def listing(code: int, version: int) -> bytes:
    """A model that names one operator in one version, and does not use it."""
    model, graph, tensor, listed = tfl.ModelT(), tfl.SubGraphT(), tfl.TensorT(), tfl.OperatorCodeT()
    listed.builtinCode, listed.deprecatedBuiltinCode, listed.version = code, min(code, 127), version
    tensor.name, tensor.shape = b"x", [1]
    graph.tensors, graph.inputs, graph.outputs, graph.operators = [tensor], [0], [0], []
    model.version, model.operatorCodes, model.subgraphs, model.buffers = 3, [listed], [graph], [tfl.BufferT()]
    builder = flatbuffers.Builder(256)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def is_known(code: int, version: int) -> bool:
    from ai_edge_litert.interpreter import Interpreter

    try:
        Interpreter(model_content=listing(code, version))
    except ValueError as error:
        return "Didn't find op" not in str(error)
    return True


@pytest.mark.skipif(kernels.versions(INSTALLED) is None, reason=f"{INSTALLED} was not measured yet")
def test_the_table_says_what_the_installed_interpreter_says():
    table = kernels.versions(INSTALLED)
    codes = {name: code for name, code in vars(tfl.BuiltinOperator).items() if isinstance(code, int)}
    del codes["CUSTOM"], codes["PLACEHOLDER_FOR_GREATER_OP_CODES"]

    wrong = [
        name
        for name, code in codes.items()
        if (name in table and not is_known(code, table[name])) or is_known(code, table.get(name, 0) + 1)
    ]

    assert wrong == []


def test_every_interpreter_that_a_target_gets_was_measured():
    needed = {runtime for name in target_names() for runtime in kernels.runtimes(load_target(name))}

    assert {runtime for runtime in needed if kernels.versions(runtime) is None} == set()
    assert "tflite-runtime==2.13.0" in needed


def test_a_system_whose_python_is_too_old_counts_with_the_one_beside_it():
    assert kernels.runtimes(load_target("coral-dev-board")) == {
        "tflite-runtime==2.13.0": ["Mendel Linux 5 (Debian 10)"]
    }


def dense(version: int) -> Model:
    into, weights, out = T("in", (1, 4)), T("w", (2, 4)), T("out", (1, 2))
    model = read_model(build([("FULLY_CONNECTED", [into, weights], [out])], inputs=[into, weights], outputs=[out]))
    graph = model.subgraphs[0]
    newer = replace(graph, operators=tuple(replace(op, version=version) for op in graph.operators))
    return replace(model, subgraphs=(newer,))


@pytest.mark.parametrize(
    ("version", "runtime", "found"),
    [
        (10, "tflite-runtime==2.13.0", {}),
        (12, "tflite-runtime==2.13.0", {("FULLY_CONNECTED", 12): (10, 0)}),
        (12, "ai-edge-litert==2.1.0", {}),
        (99, "an interpreter that nobody measured", {}),
    ],
)
def test_an_operator_is_too_new_for_an_interpreter_that_has_only_older_ones(version, runtime, found):
    assert kernels.too_new(dense(version), runtime) == found


@pytest.mark.parametrize("name", kernels.rewritten())
def test_what_the_table_says_is_written_otherwise_is(name):
    from edgekit.convert.prepare import prepare
    from edgekit.convert.rewrite import packed, unpacked

    into, out = T("in", (1, 4)), T("out", (1, 4))
    model = unpacked(build([(name, [into], [out])], inputs=[into], outputs=[out]))

    assert prepare(model)
    left = {operator.name for operator in read_model(packed(model)).subgraphs[0].operators}
    assert left & kernels.float_only().keys() == set()
