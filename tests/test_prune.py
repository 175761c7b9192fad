"""What drop_unread leaves: everything somebody reads, under numbers that fit, in files that the interpreter still runs."""

from __future__ import annotations

from types import SimpleNamespace as Record

import numpy as np

from edgekit.convert.prune import drop_unread


def operator(code, inputs, outputs, intermediates=None):
    as_read = None if intermediates is None else np.array(intermediates, np.int32)
    return Record(opcodeIndex=code, inputs=np.array(inputs), outputs=np.array(outputs), intermediates=as_read)


def graph(tensors, operators, inputs, outputs):
    made = [Record(name=name, buffer=buffer) for name, buffer in tensors]
    return Record(tensors=made, operators=operators, inputs=np.array(inputs), outputs=np.array(outputs))


def model(graphs, codes=("A", "B", "C", "D"), buffers=6):
    return Record(
        subgraphs=graphs,
        operatorCodes=list(codes),
        buffers=[Record(data=bytes([number])) for number in range(buffers)],
        metadata=None,
        signatureDefs=[
            Record(
                subgraphIndex=number,
                inputs=[Record(tensorIndex=int(index)) for index in each.inputs],
                outputs=[Record(tensorIndex=int(index)) for index in each.outputs],
            )
            for number, each in enumerate(graphs)
        ],
    )


def names(made, side, number=0):
    graph = made.subgraphs[number]
    return [graph.tensors[index].name for index in getattr(graph, side)]


def test_a_chain_nobody_reads_goes_with_its_data_and_its_codes():
    tensors = [("unread", 1), ("x", 0), ("w", 2), ("y", 0), ("also unread", 0), ("w2", 3)]
    made = model(
        [graph(tensors, [operator(0, [1, 5], [0]), operator(1, [0], [4]), operator(2, [1, 2], [3])], [1], [3])]
    )
    drop_unread(made)
    assert [tensor.name for tensor in made.subgraphs[0].tensors] == ["x", "w", "y"]
    assert names(made, "inputs") == ["x"] and names(made, "outputs") == ["y"]
    assert made.operatorCodes == ["C"] and made.subgraphs[0].operators[0].opcodeIndex == 0
    assert [buffer.data for buffer in made.buffers] == [b"\0", None, b"\2", None, None, None]
    assert [entry.tensorIndex for entry in made.signatureDefs[0].outputs] == [2]


def test_a_left_out_input_stays_left_out():
    made = model([graph([("unread", 0), ("x", 0), ("y", 0)], [operator(0, [1, -1], [2])], [1], [2])])
    drop_unread(made)
    assert list(made.subgraphs[0].operators[0].inputs) == [0, -1]


def test_intermediates_as_a_file_has_them_are_kept_and_renumbered():
    tensors = [("unread", 0), ("x", 0), ("between", 0), ("y", 0)]
    made = model([graph(tensors, [operator(0, [1], [3], intermediates=[2])], [1], [3])])
    drop_unread(made)
    assert [made.subgraphs[0].tensors[i].name for i in made.subgraphs[0].operators[0].intermediates] == ["between"]


def test_an_operator_without_outputs_stays_with_all_it_reads():
    tensors = [("x", 0), ("state", 0), ("y", 0)]
    made = model([graph(tensors, [operator(0, [0, 1], []), operator(1, [0], [2])], [0], [2])])
    drop_unread(made)
    assert len(made.subgraphs[0].operators) == 2 and names(made, "outputs") == ["y"]


def test_every_subgraph_keeps_its_own_numbers_and_shares_the_codes():
    first = graph([("unread", 1), ("x", 0), ("y", 0)], [operator(3, [1], [2])], [1], [2])
    second = graph([("a", 0), ("b", 0), ("unread", 5)], [operator(1, [0], [1])], [0], [1])
    made = model([first, second])
    drop_unread(made)
    assert made.operatorCodes == ["B", "D"]
    assert [each.operators[0].opcodeIndex for each in made.subgraphs] == [1, 0]
    assert [[entry.tensorIndex for entry in each.outputs] for each in made.signatureDefs] == [[1], [1]]
    assert [len(each.tensors) for each in made.subgraphs] == [2, 2]
