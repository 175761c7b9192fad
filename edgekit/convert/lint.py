"""What is known to cost accuracy in int8, or not to run, found before quantizing: by the graph, its ranges and the samples.

    for finding in lint(read_model("net.tflite"), target=load_target("rpi4")):
        print(finding.layer, finding.evidence, finding.fix)

Every rule needs evidence in numbers or in the graph. What cannot be told from these is not guessed: whether the channels of
an image are RGB or BGR shows only with labels (`trial.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from math import prod

import numpy as np

from edgekit.convert import kernels
from edgekit.convert.describe import float_operators, quantization
from edgekit.convert.extremes import Extremes
from edgekit.convert.finding import SEVERITIES, Finding, listed
from edgekit.convert.flatbuffer import Model, OperatorInfo
from edgekit.convert.lint_ranges import range_findings, span
from edgekit.convert.lint_samples import sample_findings
from edgekit.convert.wiring import Wiring, shaped_by_channel, short
from edgekit.target import Target

# What of an int8 SOFTMAX's fixed step, 1/256, is left for the mean probability of so many classes.
SOFTMAX_STEPS = 256
_LAYERS = {"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV"}
_FUSED_RNN = {"UNIDIRECTIONAL_SEQUENCE_LSTM", "BIDIRECTIONAL_SEQUENCE_LSTM", "LSTM"}
_FUSED_RNN |= {"UNIDIRECTIONAL_SEQUENCE_RNN", "BIDIRECTIONAL_SEQUENCE_RNN", "RNN"}


def lint(
    model: Model,
    *,
    extremes: Extremes | None = None,
    target: Target | None = None,
    samples: Mapping[str, np.ndarray] | None = None,
) -> list[Finding]:
    """What is suspicious about a model (float or quantized) on its way to `target`, warnings first.

    `extremes`: lowest and highest value of each tensor, by name (see extremes.py); a quantized model brings its own.
    `samples`: what the model sees, by input name, (n, ...). Without one of them its rules are left out.
    """
    wiring = Wiring.of(model.subgraphs[0])
    known = extremes or {}
    found = [finding for rule in _RULES for finding in rule(model, wiring, known, target)]
    varied = any(len(array) and (array[1:] != array[0]).any() for array in (samples or {}).values() if array.ndim)
    found += range_findings(wiring, known, varied=varied)
    if samples:
        found += sample_findings(model, wiring, known, samples)
    found += runtime_findings(model, target)
    return sorted(found, key=lambda finding: SEVERITIES.index(finding.severity))


def runtime_findings(model: Model, target: Target | None) -> list[Finding]:
    """Operators that an interpreter of the target's systems does not have in that version; none without a target."""
    found = []
    for runtime, systems in kernels.runtimes(target).items() if target is not None else ():
        missing = kernels.too_new(model, runtime)
        told = [
            f"{name} version {version} ({'it has none' if highest is None else f'it has up to {highest}'})"
            for (name, version), (highest, _) in missing.items()
        ]
        if told:
            first_name, first_version = next(iter(missing))
            found.append(
                Finding(
                    "operator-version",
                    f"{first_name} {missing[first_name, first_version][1]}",
                    f"{runtime}, which {listed(systems)} gets, does not load {listed(told)}",
                    "use a newer system on the board, or convert with an older TensorFlow",
                )
            )
    return found


def has_edge_tpu(target: Target | None) -> bool:
    """Whether the board has an Edge TPU, used already or not."""
    return target is not None and (
        target.name.startswith("coral") or any(d.name == "edgetpu" for d in target.delegates)
    )


# --- rules: (model, wiring of its main graph, extremes, target) -> findings -----------------------------------------


def _silu(model: Model, wiring: Wiring, extremes: Extremes, target: Target | None) -> Iterator[Finding]:
    """x · sigmoid(x) is -0.28 at its lowest and has no upper end: one step has to serve both."""
    silus = [op for op in wiring.graph.operators if op.name == "HARD_SWISH" or _is_silu(wiring, op)]
    if not silus:
        return
    kind = "HARD_SWISH" if silus[0].name == "HARD_SWISH" else "SiLU (LOGISTIC and MUL)"
    evidence = f"{len(silus)} x {kind}"
    spans = [
        s for op in silus for s in [span(extremes, wiring.tensors(op.outputs)[0])] if s is not None and s[1] > s[0]
    ]
    if spans:
        low, high = max(spans, key=lambda s: s[1] - s[0])
        steps = 255 * -min(low, 0.0) / (high - low)
        evidence += (
            f"; the widest goes from {low:.3g} to {high:.3g}, of 255 steps {steps:.0f} are for its negative side"
        )
    tpu = has_edge_tpu(target)
    if tpu and any(op.name == "HARD_SWISH" for op in silus):
        evidence += "; HARD_SWISH is not among the operators that the Edge TPU compiler maps (coral.ai/docs/edgetpu/models-intro)"
    yield Finding(
        "silu",
        wiring.layer(silus[0]) + (f" and {len(silus) - 1} more" if silus[1:] else ""),
        evidence,
        "use ReLU6 (or ReLU) instead and train on for a while, if int8 turns out to be too far from float",
        "warning" if tpu else "info",
    )


def _is_silu(wiring: Wiring, operator: OperatorInfo) -> bool:
    if operator.name != "MUL" or len(operator.inputs) != 2 or not wiring.tensors(operator.outputs):
        return False
    for gate, x in (operator.inputs, operator.inputs[::-1]):
        writer = wiring.writer.get(gate)
        read = writer.inputs[:1] if writer is not None and writer.name == "LOGISTIC" else ()
        if read and wiring.origin(read[0]) == wiring.origin(x):
            return True
    return False


def _batch_norm(model: Model, wiring: Wiring, extremes: Extremes, target: Target | None) -> Iterator[Finding]:
    """A multiplication by a constant for each channel behind a layer, which could be in that layer's weights."""
    for behind_activation in (False, True):
        found = []
        for operator in wiring.graph.operators:
            inputs = wiring.activations(operator)
            if operator.name != "MUL" or len(inputs) != 1 or not any(shaped_by_channel(wiring, operator)):
                continue
            before = wiring.writer.get(inputs[0].index)
            if before is None or before.name not in _LAYERS or len(wiring.readers[inputs[0].index]) > 1:
                continue
            if (before.options.get("fused_activation_function", "NONE") not in ("NONE", 0)) == behind_activation:
                found.append(operator)
        if not found:
            continue
        where = "behind the activation of a layer" if behind_activation else "directly behind a layer"
        yield Finding(
            "unfolded-batch-norm",
            wiring.layer(found[0]) + (f" and {len(found) - 1} more" if found[1:] else ""),
            f"{len(found)} x MUL by a constant per channel {where}: as in a batch norm that was not folded, each quantized anew",
            "put the batch norm between layer and activation: it is then folded into the weights"
            if behind_activation
            else "export the model for inference (training=False), so that the converter folds it into the weights",
            "info" if behind_activation else "warning",
        )


def _live_batch_norm(model: Model, wiring: Wiring, extremes: Extremes, target: Target | None) -> Iterator[Finding]:
    """A mean over all axes but the channels', the batch included, and the variance around it."""
    found = []
    for operator in wiring.graph.operators:
        tensors = wiring.tensors(operator.inputs)
        if operator.name != "MEAN" or len(tensors) != 2 or not tensors[1].constant or not tensors[0].shape:
            continue
        axes, shape = prod(tensors[1].shape), tensors[0].shape
        readers = [reader.name for reader in wiring.readers[tensors[0].index]]
        left = prod(wiring.tensors(operator.outputs)[0].shape) if operator.outputs else 0
        if axes == len(shape) - 1 and left == shape[-1] and "SQUARED_DIFFERENCE" in readers:
            found.append(operator)
    if found:
        yield Finding(
            "unfolded-batch-norm",
            wiring.layer(found[0]) + (f" and {len(found) - 1} more" if found[1:] else ""),
            f"{len(found)} x MEAN over everything but the channels, and the variance around it: a batch norm in training mode "
            "computes both anew for each input",
            "export the model for inference (training=False): both are constants then, in the weights of the layer before",
        )


def _recurrent(model: Model, wiring: Wiring, extremes: Extremes, target: Target | None) -> Iterator[Finding]:
    loops = [op for op in wiring.graph.operators if op.name == "WHILE"]
    fused = [op for op in wiring.graph.operators if op.name in _FUSED_RNN]
    if loops:
        inside = sum(len(graph.operators) for graph in model.subgraphs[1:])
        yield Finding(
            "rolled-rnn",
            wiring.layer(loops[0]) + (f" and {len(loops) - 1} more" if loops[1:] else ""),
            f"{len(loops)} x WHILE with {inside} operators in the bodies, as a rolled LSTM or GRU has it: TensorFlow 2.21 and "
            "LiteRT 2.3 crash while quantizing it to int8",
            "build the layer with unroll=True",
        )
    if fused:
        yield Finding(
            "fused-rnn",
            wiring.layer(fused[0]) + (f" and {len(fused) - 1} more" if fused[1:] else ""),
            f"{len(fused)} x {fused[0].name}: keeps its state from one inference to the next",
            "reset the state between sequences, or build the layer with unroll=True",
            "info",
        )


def _softmax(model: Model, wiring: Wiring, extremes: Extremes, target: Target | None) -> Iterator[Finding]:
    inner = [
        (op, wiring.tensors(op.outputs)[0].shape[-1:])
        for op in wiring.graph.operators
        if op.name == "SOFTMAX" and wiring.tensors(op.outputs) and not wiring.reaches_output(op.outputs[0])
    ]
    if not inner:
        return
    widest, classes = max(inner, key=lambda pair: pair[1])
    count = classes[0] if classes else 1
    few = count >= SOFTMAX_STEPS
    yield Finding(
        "inner-softmax",
        wiring.layer(widest) + (f" and {len(inner) - 1} more" if inner[1:] else ""),
        f"{len(inner)} x SOFTMAX inside the model; its int8 step is fixed at 1/256, and its mean over {count} values is "
        f"{1 / max(count, 1):.2g}" + (": most become 0" if few else ""),
        "attend to fewer positions at a time, or keep this part in float"
        if few
        else "fine for attention over few positions",
        "warning" if few else "info",
    )


def _float_only(model: Model, wiring: Wiring, extremes: Extremes, target: Target | None) -> Iterator[Finding]:
    without_int8 = kernels.float_only()
    fine = _rewritten(model, wiring)
    by_name: dict[str, list[tuple[Wiring, OperatorInfo]]] = {}
    for graph, operator in float_operators(model):
        if operator.name in without_int8 and not (graph is wiring.graph and operator.name in fine):
            where = wiring if graph is wiring.graph else Wiring.of(graph)
            by_name.setdefault(operator.name, []).append((where, operator))
    for name, operators in by_name.items():
        where, first = operators[0]
        yield Finding(
            "float-only",
            where.layer(first) + (f" and {len(operators) - 1} more" if operators[1:] else ""),
            f"{len(operators)} x {name}: TensorFlow 2.21 and litert-quantizer 0.11 have no int8 form of it",
            without_int8[name],
        )


def _rewritten(model: Model, wiring: Wiring) -> set[str]:
    """The operators that edgekit writes otherwise before it quantizes: of a float model, where none is of whole numbers."""
    known = kernels.rewritten().keys()
    outputs = [t for op in wiring.graph.operators if op.name in known for t in wiring.tensors(op.outputs)]
    is_float = quantization(model) == "none" and all(tensor.dtype == "float32" for tensor in outputs)
    return set(known) if is_float else set()


def _custom(model: Model, wiring: Wiring, extremes: Extremes, target: Target | None) -> Iterator[Finding]:
    found = {op.name: op for op in wiring.graph.operators if op.custom and op.name not in kernels.custom_operators()}
    for name, operator in found.items():
        if name == "edgetpu-custom-op" and (target is None or has_edge_tpu(target)):
            continue
        yield Finding(
            "custom-operator",
            wiring.layer(operator),
            f"{name} is in no interpreter that edgekit installs",
            "it needs a board with an Edge TPU"
            if name == "edgetpu-custom-op"
            else "replace that layer by built-in operators, or end the model before it",
        )


def _dynamic(model: Model, wiring: Wiring, extremes: Extremes, target: Target | None) -> Iterator[Finding]:
    for tensor in wiring.tensors(wiring.graph.inputs):
        free = [place for place, size in enumerate(tensor.shape_signature or ()) if size < 0 and place > 0]
        if free:
            yield Finding(
                "dynamic-shape",
                f"input {short(tensor.name)}",
                f"dimension {', '.join(map(str, free))} of {list(tensor.shape_signature or ())} is free: "
                f"an interpreter takes it as {list(tensor.shape)}",
                "export the model with the size that the device will use",
            )
    shaping = [op for op in wiring.graph.operators if op.name == "SHAPE" and not _is_constant_shape(wiring, op)]
    if shaping:
        yield Finding(
            "dynamic-shape",
            wiring.layer(shaping[0]) + (f" and {len(shaping) - 1} more" if shaping[1:] else ""),
            f"{len(shaping)} x SHAPE: sizes are computed while it runs, which delegates refuse",
            "export the model with every size fixed, a batch of 1",
            "warning" if has_edge_tpu(target) else "info",
        )


def _is_constant_shape(wiring: Wiring, operator: OperatorInfo) -> bool:
    return all(tensor.constant for tensor in wiring.tensors(operator.inputs))


_RULES: tuple[Callable[[Model, Wiring, Extremes, Target | None], Iterator[Finding]], ...] = (
    _silu, _batch_norm, _live_batch_norm, _recurrent, _softmax, _float_only, _custom, _dynamic,
)  # fmt: skip
