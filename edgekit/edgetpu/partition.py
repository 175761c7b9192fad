"""Where the Edge TPU's part of a graph ends: the first run of supported operators, as TensorFlow Lite divides a graph."""

from __future__ import annotations

from collections.abc import Sequence

from edgekit.convert.flatbuffer import Subgraph, TensorInfo


def live_operators(graph: Subgraph) -> frozenset[int]:
    """Positions of operators that an output of the graph needs; the compiler drops the others."""
    wanted = set(graph.outputs)
    live = set()
    for position in reversed(range(len(graph.operators))):
        operator = graph.operators[position]
        if wanted & set(operator.outputs) - {-1}:
            live.add(position)
            wanted.update(operator.inputs)
    return frozenset(live)


def first_partition(graph: Subgraph, supported: Sequence[bool]) -> frozenset[int]:
    """Positions of the operators that one Edge TPU operator replaces; `supported` says it for each position.

    TensorFlow Lite collects operators in turns, first of the kind of the first one that can run, and each turn takes all
    that can run without the other kind. The compiler replaces the first turn of supported ones and nothing after it: a
    supported operator behind a CPU operator stays on the CPU, unless that one can run before the Edge TPU starts.
    """
    live = live_operators(graph)
    made_later = {index for position in live for index in graph.operators[position].outputs}
    ready = set(range(-1, len(graph.tensors))) - made_later
    left = [position for position in range(len(graph.operators)) if position in live]
    runnable = (position for position in left if set(graph.operators[position].inputs) <= ready)
    first = next(runnable, None)
    if first is None:
        return frozenset()
    if not supported[first]:
        _take(graph, [position for position in left if not supported[position]], ready)
    return frozenset(_take(graph, [position for position in left if supported[position]], ready))


def _take(graph: Subgraph, positions: Sequence[int], ready: set[int]) -> list[int]:
    """Those of `positions` that can run now, one after the other; `ready` gets what they make.

    Operators stand in the order in which they run, so one pass finds all.
    """
    taken = []
    for position in positions:
        operator = graph.operators[position]
        if set(operator.inputs) <= ready:
            taken.append(position)
            ready.update(operator.outputs)
    return taken


def boundary(graph: Subgraph, on_tpu: frozenset[int]) -> tuple[list[TensorInfo], list[TensorInfo]]:
    """What goes to the Edge TPU and what comes back, each tensor once, in the order of use."""
    inside = [graph.operators[position] for position in sorted(on_tpu)]
    made = dict.fromkeys(index for operator in inside for index in operator.outputs if index >= 0)
    read = dict.fromkeys(index for operator in inside for index in operator.inputs if index >= 0)
    live = live_operators(graph)
    outside = {index for position in live - on_tpu for index in graph.operators[position].inputs}.union(graph.outputs)
    goes = [graph.tensors[index] for index in read if index not in made]
    return (
        [tensor for tensor in goes if not tensor.constant and not tensor.is_variable],
        [graph.tensors[index] for index in made if index in outside],
    )
