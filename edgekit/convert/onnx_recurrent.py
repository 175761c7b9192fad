"""ONNX's RNN, GRU and LSTM, step by step: no quantizer takes a loop. The order of the gates is ONNX's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from edgekit.convert.onnx_node import Node
from edgekit.errors import ConversionError

_FUNCTIONS = {"Sigmoid": torch.sigmoid, "Tanh": torch.tanh, "Relu": torch.relu}
Step = Callable[[Any, "tuple[Any, ...]"], "tuple[Any, ...]"]  # what the input adds to the gates, states -> new states


def lstm(node: Node) -> tuple[Any, ...]:
    """LSTM: (all hidden states, the last one, the last cell). Gates: input, output, forget, cell."""
    if node.attribute("input_forget", 0) or (node.tensor(7) is not None and bool((node.tensor(7) != 0).any())):
        raise ConversionError(f"LSTM {node.proto.name!r} has peepholes or coupled gates", hint="replace the layer")
    sigmoid, tanh, last = _activations(node, ("Sigmoid", "Tanh", "Tanh"))

    def step(direction: int) -> Step:
        recurrent, bias = node.tensor(2)[direction], _bias(node, direction, 4)

        def run(gates: Any, states: tuple[Any, ...]) -> tuple[Any, ...]:
            hidden, cell = states
            i, o, f, c = (gates + F.linear(hidden, recurrent, bias)).chunk(4, dim=-1)
            cell = sigmoid(f) * cell + sigmoid(i) * tanh(c)
            return sigmoid(o) * last(cell), cell

        return run

    return _unrolled(node, step, states=2)


def gru(node: Node) -> tuple[Any, ...]:
    """GRU: (all hidden states, the last one). Gates: update, reset, hidden."""
    sigmoid, tanh = _activations(node, ("Sigmoid", "Tanh"))
    linear_first = bool(node.attribute("linear_before_reset", 0))

    def step(direction: int) -> Step:
        recurrent, bias = node.tensor(2)[direction], _bias(node, direction, 3)
        size = recurrent.shape[-1]

        def run(gates: Any, states: tuple[Any, ...]) -> tuple[Any, ...]:
            (hidden,) = states
            z, r = (gates[..., : 2 * size] + F.linear(hidden, recurrent[: 2 * size], bias[: 2 * size])).chunk(2, dim=-1)
            z, r = sigmoid(z), sigmoid(r)
            if linear_first:
                new = r * F.linear(hidden, recurrent[2 * size :], bias[2 * size :])
            else:
                new = F.linear(r * hidden, recurrent[2 * size :], bias[2 * size :])
            new = tanh(gates[..., 2 * size :] + new)
            return (new + z * (hidden - new),)

        return run

    return _unrolled(node, step, states=1)


def rnn(node: Node) -> tuple[Any, ...]:
    """RNN: (all hidden states, the last one)."""
    (function,) = _activations(node, ("Tanh",))

    def step(direction: int) -> Step:
        recurrent, bias = node.tensor(2)[direction], _bias(node, direction, 1)
        return lambda gates, states: (function(gates + F.linear(states[0], recurrent, bias)),)

    return _unrolled(node, step, states=1)


def _activations(node: Node, default: tuple[str, ...]) -> tuple[Callable[[Any], Any], ...]:
    names = [name.decode() for name in node.attribute("activations", [])] or list(default)
    if set(names) - _FUNCTIONS.keys() or names[: len(default)] * (len(names) // len(default)) != names:
        raise ConversionError(
            f"{node.proto.op_type} {node.proto.name!r} has the activations {', '.join(names)}", hint="replace the layer"
        )
    if node.attributes.get("clip"):
        raise ConversionError(f"{node.proto.op_type} {node.proto.name!r} clips its gates", hint="replace the layer")
    return tuple(_FUNCTIONS[name] for name in names[: len(default)])


def _bias(node: Node, direction: int, gates: int) -> Any:
    """The half of the bias that belongs to the recurrent weights."""
    size = gates * node.tensor(2).shape[-1]
    return torch.zeros(size) if node.tensor(3) is None else node.tensor(3)[direction, size:]


def _unrolled(node: Node, make_step: Callable[[int], Step], *, states: int) -> tuple[Any, ...]:
    """Each direction's steps one after the other: what the layer gives."""
    x, weights = node.tensor(0), node.tensor(1)
    lengths = node.constant(4)
    batch_first = bool(node.attribute("layout", 0))
    x = x.transpose(0, 1) if batch_first else x  # (steps, batch, features)
    if lengths is not None and any(int(length) != x.shape[0] for length in lengths):
        raise ConversionError(
            f"{node.proto.op_type} {node.proto.name!r}: sequences of several lengths", hint="use one length"
        )
    direction = node.attribute("direction", "forward")
    columns, ends = [], []
    for number in range(weights.shape[0]):
        backwards = direction == "reverse" or number == 1
        size, hidden = weights.shape[1], node.tensor(2).shape[-1]
        bias = None if node.tensor(3) is None else node.tensor(3)[number, :size]
        state = tuple(_initial(node, 5 + i, number, x.shape[1], hidden, batch_first) for i in range(states))
        step, column = make_step(number), []
        steps = range(x.shape[0])
        for time in reversed(steps) if backwards else steps:
            state = step(F.linear(x[time], weights[number], bias), state)
            column.append(state[0])
        columns.append(torch.stack(column[::-1] if backwards else column))
        ends.append(state)
    together = torch.stack(columns, dim=1)  # (steps, directions, batch, hidden)
    last = [torch.stack([end[i] for end in ends]) for i in range(states)]
    if batch_first:
        return together.permute(2, 0, 1, 3), *(each.transpose(0, 1) for each in last)
    return together, *last


def _initial(node: Node, index: int, direction: int, batch: int, hidden: int, batch_first: bool) -> Any:
    given = node.tensor(index)
    if given is None:
        return torch.zeros(batch, hidden)
    return given[:, direction] if batch_first else given[direction]
