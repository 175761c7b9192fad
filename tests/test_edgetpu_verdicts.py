"""Predictions for the Edge TPU against what its real compiler did, operator by operator, on 193 models that others compiled."""

from __future__ import annotations

import gzip
import json
import re
from math import prod
from pathlib import Path

import pytest

from edgekit.convert.flatbuffer import Model, OperatorInfo, Subgraph, TensorInfo
from edgekit.edgetpu import limits
from edgekit.edgetpu.partition import live_operators
from edgekit.edgetpu.predict import predict

VERDICTS = Path(__file__).resolve().parents[2] / "shared" / "data" / "edgetpu" / "compiler_verdicts.json.gz"
WORDS = {"padding": ("SAME", "VALID"), "fused_activation_function": ("NONE", "RELU", "RELU_N1_TO_1", "RELU6")}


@pytest.fixture(scope="module")
def compiled():
    """[(what the file says of a model, the same as a Model)]."""
    if not VERDICTS.exists():
        pytest.skip("no ../shared/data/edgetpu beside this checkout")
    with gzip.open(VERDICTS) as file:
        return [(said, model_of(said)) for said in json.load(file)]


def model_of(said) -> Model:
    """A Model without constants' values and scales, which the file does not have."""
    tensors = tuple(
        TensorInfo(
            index=index,
            name=tensor["name"],
            shape=tuple(tensor["shape"]),
            shape_signature=None,
            dtype=tensor["dtype"].lower(),
            constant=tensor["constant_bytes"] > 0,
            bytes=tensor["constant_bytes"],
            scale=(1.0,) * (2 if tensor["per_channel"] else 1) if tensor["quantized"] else (),
            zero_point=(0,) * (2 if tensor["per_channel"] else 1) if tensor["quantized"] else (),
            quantized_dimension=0,
            is_variable=False,
        )
        for index, tensor in enumerate(said["tensors"])
    )
    operators = []
    for index, operator in enumerate(said["ops"]):
        name = operator["op"].removeprefix("CUSTOM:")
        options = {re.sub(r"(?<!^)(?=[A-Z])", "_", key).lower(): value for key, value in operator["options"].items()}
        options |= {key: WORDS[key][options[key]] for key in WORDS.keys() & options.keys()}
        ends = tuple(operator["inputs"]), tuple(operator["outputs"])
        custom = name != operator["op"]
        operators.append(OperatorInfo(index, name, operator["version"], *ends, custom=custom, options=options))
    graph = Subgraph("main", tuple(said["inputs"]), tuple(said["outputs"]), tensors, tuple(operators))
    return Model(said["model"], 3, 0, 0, {}, (graph,))


def wrong_operators(said, model) -> list[str]:
    """Where prediction and compiler differ; operators that nothing needs are in the compiled file nowhere."""
    live = live_operators(model.subgraphs[0])
    found = zip(said["ops"], predict(model).operators, strict=True)
    return [
        f"{said['model']} {unit.index} {unit.name}: predicted {unit.unit} ({unit.reason})"
        for position, (operator, unit) in enumerate(found)
        if position in live and (unit.unit == "tpu") != operator["mapped"]
    ]


def test_at_least_99_percent_of_models_are_right_in_every_operator(compiled):
    wrong = [differences for said, model in compiled if (differences := wrong_operators(said, model))]

    assert len(compiled) == 193
    assert len(wrong) / len(compiled) <= 0.01, "\n".join(line for lines in wrong for line in lines)


@pytest.mark.parametrize("left_out", ["source", "operators"])
def test_limits_found_without_a_family_of_models_hold_for_it(compiled, monkeypatch, left_out):
    """Limits whose value comes from compilations are found again without each repository, or each kind of network."""
    families = {}
    for said, model in compiled:
        key = said["source"] if left_out == "source" else tuple(operator["op"] for operator in said["ops"])
        families.setdefault(key, []).append((said, model))
    right = 0
    for family in families.values():
        others = [pair for pair in compiled if all(pair[0] is not said for said, _ in family)]
        for name, value in limits_of(others).items():
            monkeypatch.setattr(limits, name, value)
        right += sum(not wrong_operators(said, model) for said, model in family)

    print(f"{right} of {len(compiled)} right with limits found without their {left_out}, {len(families)} families")
    assert right / len(compiled) >= 0.95


def limits_of(compiled) -> dict[str, float]:
    """What these compilations say of the limits that documents do not give, or give wrong."""
    seen = {"SOFTMAX": ([16_000.0], []), "RESIZE_BILINEAR": ([1.0], [])}
    for said, model in compiled:
        tensors = model.subgraphs[0].tensors
        behind = set()  # a CPU operator: says nothing of what stands there
        for operator in said["ops"]:
            if operator["op"] in seen and not behind & set(operator["inputs"]):
                new, old = (tensors[operator[side][0]] for side in ("outputs", "inputs"))
                if new.dtype.endswith("int8"):
                    factor = new.shape[1] / old.shape[1] if operator["op"] == "RESIZE_BILINEAR" else 0
                    size = factor or float(prod(new.shape))
                    seen[operator["op"]][0 if operator["mapped"] else 1].append(size)
            if not operator["mapped"]:
                behind |= set(operator["outputs"])
    between = {name: _between(max(mapped), left) for name, (mapped, left) in seen.items()}
    return {"SOFTMAX_MOST": between["SOFTMAX"], "RESIZE_MOST": between["RESIZE_BILINEAR"]}


def _between(most, left) -> float:
    """Where two sides of a limit are known, the geometric mean; else what was mapped, or no limit if nothing was refused."""
    return (most * min(left)) ** 0.5 if left else (most if most > 1 else float("inf"))


@pytest.mark.parametrize(
    ("name", "published_ms"),
    [
        ("mobilenet_v2_1.0_224_quant", 2.6),
        ("mobilenet_v1_1.0_224_quant_embedding_extractor", 2.4),
        ("deeplabv3_mnv2_pascal_quant", 52),
    ],
)
def test_published_times_lie_in_the_predicted_range(compiled, name, published_ms):
    """coral.ai/docs/edgetpu/benchmarks, a USB 3 accelerator on a desktop; the extractor lacks MobileNet v1's last layer."""
    spans = [predict(model).payoff.with_tpu_ms for said, model in compiled if said["model"] == name]

    assert spans and all(least <= published_ms <= most for least, most in spans)
