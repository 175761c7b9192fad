"""What runs where: which unit was asked for, which one serves, and how many operators each of them has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dataclasses import dataclass
else:
    from edgekit.values import dataclass


class FellBack(RuntimeWarning):
    """Another unit serves than the one that was asked for."""


@dataclass(frozen=True)
class Attempt:
    """One delegate that was tried."""

    delegate: str  # as delegates.parse_delegate reads it
    outcome: str  # "serves", or why not: "unavailable", "refused", "crashed", "hung", "wrong"
    reason: str  # "" for the one that serves
    cached: bool  # True: known from an earlier trial of the same library, not tried again


@dataclass(frozen=True)
class Placement:
    """Where a model runs. None: the runtime does not tell."""

    requested: str  # the first delegate of the list
    delegate: str  # the one that serves
    unit: str  # "cpu", "gpu", "edgetpu", "external"
    operators: int | None  # of the file that runs there; one that is compiled for an Edge TPU counts as one
    on_unit: int | None  # of them, how many are on the unit; for cpu: how many XNNPACK took
    on_xnnpack: int | None  # of the others, how many XNNPACK took on the processor
    parts: int | None  # in how many runs the unit got them
    left: Mapping[str, int]  # operator -> how many of it stay on the processor's plain kernels
    device: str  # what the unit says of itself: adapter, library version; "" when nothing
    fake: bool  # a delegate made for tests: its times mean nothing
    software: bool  # a "GPU" that is a program on the processor: its times mean nothing either
    attempts: Sequence[Attempt]

    @property
    def fell_back(self) -> bool:
        """True if another unit serves than the first that was asked for, or the same one with other settings."""
        return self.requested != self.delegate

    @property
    def label(self) -> str:
        """The unit as a person should read it: FAKE and software ones say so."""
        return f"FAKE {self.unit}" if self.fake else f"software {self.unit}" if self.software else self.unit


@dataclass(frozen=True)
class Shares:
    """How an interpreter's operators are divided."""

    operators: int
    on_unit: int
    on_xnnpack: int
    parts: int
    left: Mapping[str, int]


def count_shares(interpreter: Any, before: int | None) -> Shares | None:
    """How the operators of an interpreter, tensors allocated, are divided; None where the runtime does not tell.

    `before`: its nodes (`node_count`) when the external delegate had taken its share and XNNPACK had not; None without one.
    A delegate's node stands behind all others, and those that it replaced stay in the list: they are found by walking
    from what the delegate makes back to what it is given.
    """
    try:
        nodes = interpreter._get_ops_details()
    except (AttributeError, ValueError):  # of the second kind: a tensor's name that is no text
        return None
    plain = [node for node in nodes if node["op_name"] != "DELEGATE"]
    makers = {int(tensor): node for node in plain for tensor in node["outputs"]}
    unit: set[int] = set()
    xnnpack: set[int] = set()
    parts = 0
    for node in nodes:
        if node["op_name"] == "DELEGATE":
            is_unit = before is not None and node["index"] < before
            parts += is_unit or before is None
            (unit if is_unit else xnnpack).update(_replaced(node, makers))
    left: dict[str, int] = {}
    for node in plain:
        if node["index"] not in unit | xnnpack:
            left[node["op_name"]] = left.get(node["op_name"], 0) + 1
    if before is None:
        return Shares(len(plain), len(xnnpack), 0, parts, left)
    return Shares(len(plain), len(unit), len(xnnpack - unit), parts, left)


def parts_of(interpreter: Any) -> list[tuple[str, list[tuple[int, str]]]]:
    """What runs as one, in the order of its first operator: ("XNNPACK" or "plain kernel", its (index, operator)).

    Of an interpreter without foreign delegates. What XNNPACK fuses inside a part it does not tell.
    """
    nodes = interpreter._get_ops_details()
    plain = {node["index"]: node for node in nodes if node["op_name"] != "DELEGATE"}
    makers = {int(tensor): node for node in plain.values() for tensor in node["outputs"]}
    taken = [sorted(_replaced(node, makers)) for node in nodes if node["op_name"] == "DELEGATE"]
    inside = {index for part in taken for index in part}
    parts = [("XNNPACK", part) for part in taken] + [("plain kernel", [i]) for i in plain if i not in inside]
    return [
        (unit, [(index, plain[index]["op_name"]) for index in part])
        for unit, part in sorted(parts, key=lambda p: p[1][:1])
    ]


def node_count(interpreter: Any) -> int:
    """All nodes, those of delegates among them; 0 where the runtime does not tell."""
    try:
        return len(interpreter._get_ops_details())
    except (AttributeError, ValueError):
        return 0


def _replaced(node: Mapping[str, Any], makers: Mapping[int, Mapping[str, Any]]) -> set[int]:
    given = {int(tensor) for tensor in node["inputs"]}
    found: set[int] = set()
    waiting = [int(tensor) for tensor in node["outputs"]]
    while waiting:
        maker = makers.get(waiting.pop())
        if maker is not None and maker["index"] not in found:
            found.add(maker["index"])
            waiting += [int(tensor) for tensor in maker["inputs"] if int(tensor) not in given and tensor >= 0]
    return found


def words(placement: Placement) -> str:
    """One line: the unit and its share of the operators."""
    unit = placement.label + (f" ({placement.device})" if placement.device else "")
    if placement.operators is None or placement.on_unit is None:
        return f"{unit}: how many operators run there is not told"
    kind = "XNNPACK" if placement.unit == "cpu" else placement.unit
    text = f"{unit}: {placement.on_unit} of {placement.operators} operators on {kind}"
    if placement.on_xnnpack:
        text += f", {placement.on_xnnpack} on XNNPACK"
    if placement.left:
        text += ", on plain kernels " + ", ".join(f"{n} x {name}" for name, n in sorted(placement.left.items()))
    return text


def fallback_lines(placement: Placement) -> list[str]:
    """What to tell a person when something else serves than was asked for; nothing when all is as it was asked for."""
    if not placement.fell_back:
        return []
    lines = [f"delegate {placement.requested} was asked for, {placement.delegate} serves"]
    for attempt in placement.attempts:
        if attempt.outcome != "serves":
            known = " (known from before; check tries it again)" if attempt.cached else ""
            lines.append(f"  {attempt.delegate} {attempt.outcome}: {attempt.reason}{known}")
    return lines
