"""Real conversions of PyTorch and ONNX models: answers against torch's and onnxruntime's own, recorded beforehand."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest

from edgekit.convert.frontend import FRONT_ENDS, check_installed
from edgekit.errors import ConversionError, MissingLibrary, NotAModel, SamplesError

try:
    check_installed(FRONT_ENDS["onnx"])
except MissingLibrary as missing:
    pytest.skip(f"{missing}: {missing.hint}", allow_module_level=True)

from edgekit.cli.main import main
from edgekit.convert import convert
from edgekit.convert.describe import full_int8_findings, operator_counts
from edgekit.convert.flatbuffer import read_model
from edgekit.runner import load

pytestmark = pytest.mark.slow

MAKE_PY = r"""
import torch
from torch import nn
from torch.nn import functional as F

class Net(nn.Module):  # NCHW
    def __init__(self, flat):
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 8, 3, padding=1, stride=2), nn.BatchNorm2d(8)
        self.wise, self.point, self.flat = nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Conv2d(8, 16, 1), flat
        self.dense, self.drop = nn.Linear(16 * 4 * 4 if flat else 16, 10), nn.Dropout(0.5)

    def forward(self, image):
        x = F.max_pool2d(F.relu6(self.point(self.wise(torch.relu(self.norm(self.first(image)))))), 2)
        return self.dense(self.drop(x.flatten(1) if self.flat else x.mean((2, 3))))

class Steps(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.steps, self.dense = kind(4, 6, batch_first=True, bidirectional=True), nn.Linear(12, 2)

    def forward(self, x):
        return self.dense(self.steps(x)[0][:, -1])

class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.words, self.layers, self.dense = nn.Embedding(50, 16), nn.TransformerEncoder(layer, 1), nn.Linear(16, 3)

    def forward(self, tokens):
        return self.dense(self.layers(self.words(tokens)).mean(1))

class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.size, self.place = nn.Linear(6, 5), nn.Linear(12, 5), nn.Linear(5, 1), nn.Linear(5, 3)

    def forward(self, left, right):
        h = torch.relu(self.a(left) + self.b(right.flatten(1)))
        return {"size": self.size(h), "place": self.place(h)}

class Up(nn.Module):  # as in a U-Net: NCHW in and out
    def __init__(self):
        super().__init__()
        self.down, self.up, self.out = nn.Conv2d(3, 6, 3, 2, 1), nn.ConvTranspose2d(6, 4, 2, 2), nn.Conv2d(7, 2, 1)

    def forward(self, image):
        low = F.leaky_relu(self.down(image), 0.1)
        high = torch.cat([self.up(low), F.interpolate(image, scale_factor=1.0)], 1)
        wide = F.interpolate(low, scale_factor=2.0, mode="bilinear", align_corners=False)
        return torch.sigmoid(self.out(high) + wide[:, :2])

def made(kind, *arguments):
    torch.manual_seed(0)
    return kind(*arguments)  # left in training mode: edgekit takes care of that

net, flat = lambda: made(Net, False), lambda: made(Net, True)
lstm, gru = lambda: made(Steps, nn.LSTM), lambda: made(Steps, nn.GRU)
encoder, two, up = lambda: made(Encoder), lambda: made(Two), lambda: made(Up)

def wrong():
    return "a string"

def failing():
    raise RuntimeError("no weights here")
"""

MAKE_MODELS = r"""
import inspect, warnings
import numpy as np, onnxruntime, torch
import make

warnings.simplefilter("ignore")
rng = np.random.default_rng(0)
images = rng.random((48, 16, 16, 3)).astype("f")
arrays = {
    "net": {"image": images}, "flat": {"image": images}, "up": {"image": images},
    "lstm": {"x": rng.normal(size=(48, 7, 4)).astype("f")}, "gru": {"x": rng.normal(size=(48, 7, 4)).astype("f")},
    "encoder": {"tokens": rng.integers(0, 50, (48, 12))},
    "two": {"left": rng.normal(size=(48, 6)).astype("f"), "right": rng.normal(size=(48, 4, 3)).astype("f")},
}
for name, given in arrays.items():
    model = getattr(make, name)().eval()
    tensors = tuple(torch.from_numpy(a if a.ndim < 4 else a.transpose(0, 3, 1, 2).copy()) for a in given.values())
    first = tuple(t[:1] for t in tensors)
    torch.export.save(torch.export.export(model, first), f"{name}.pt2")
    inputs = list(inspect.signature(model.forward).parameters)
    outputs = ["size", "place"] if name == "two" else ["answer"]
    free = {each: {0: "batch"} for each in inputs}
    torch.onnx.export(model, first, f"{name}.onnx", dynamo=False, input_names=inputs, output_names=outputs, dynamic_axes=free)
    np.savez(f"{name}.npz", **given)
    with torch.no_grad():
        answers = model(*tensors)
    session = onnxruntime.InferenceSession(f"{name}.onnx")
    theirs = [session.run(outputs, {k: t[i : i + 1].numpy() for k, t in zip(inputs, tensors)}) for i in range(8)]
    told = answers if isinstance(answers, dict) else {"answer": answers}
    np.savez(f"{name}.answers.npz", **{k: v.numpy()[:8] for k, v in told.items()})
    np.savez(f"{name}.onnx.answers.npz", **{k: np.concatenate([row[i] for row in theirs]) for i, k in enumerate(outputs)})
np.savez("nchw.npz", image=images.transpose(0, 3, 1, 2))
batch = torch.export.Dim("batch")
model = make.net().eval()
torch.export.save(torch.export.export(model, (torch.rand(2, 3, 16, 16),), dynamic_shapes=({0: batch},)), "free.pt2")
torch.save(model.state_dict(), "weights.pth")
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("torch")
    (folder / "make.py").write_text(MAKE_PY)
    (folder / "make_models.py").write_text(MAKE_MODELS)
    done = subprocess.run([sys.executable, "make_models.py"], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


def source(made: Path, name: str, kind: str) -> Path:
    return made / {"function": f"make.py:{name}", "pt2": f"{name}.pt2", "onnx": f"{name}.onnx"}[kind]


def answers_of(bundle: Path, variant: str, arrays: dict[str, np.ndarray]) -> list[np.ndarray]:
    model = load(bundle, variant=variant)
    given = {name: array[:8] for name, array in arrays.items()}
    answers = model(given if len(given) > 1 else next(iter(given.values())))
    return list(answers.values()) if isinstance(answers, dict) else [answers]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *((name, "function") for name in ("net", "lstm", "two")),
        *((name, "pt2") for name in ("flat", "gru", "encoder", "two")),
        *((name, "onnx") for name in ("net", "flat", "lstm", "gru", "encoder", "two")),
    ],
)
def test_a_model_becomes_full_int8_and_its_float_file_answers_as_the_source(made, tmp_path, name, kind):
    result = convert(
        source(made, name, kind), tmp_path / "b", made / f"{name}.npz", modes=("int8", "float32"), report=False
    )

    with (
        np.load(made / f"{name}.npz") as arrays,
        np.load(made / f"{name}{'.onnx' * (kind == 'onnx')}.answers.npz") as told,
    ):
        got = answers_of(tmp_path / "b", "float32", dict(arrays))
        wanted = [told[key] for key in told.files]
    assert [array.shape for array in got] == [array.shape for array in wanted]
    scale = max(np.abs(array).max() for array in wanted)
    assert max(np.abs(g - w).max() for g, w in zip(got, wanted, strict=True)) <= 1e-5 * scale
    assert result.float_difference <= 1e-5
    int8 = read_model(tmp_path / "b/models/int8.tflite")
    assert full_int8_findings(int8) == []
    assert not {"WHILE", *({"TRANSPOSE"} if name in ("net", "flat") else ())} & operator_counts(int8).keys()
    assert result.bundle.manifest.variants[0].inputs[0].shape[0] == 1


def test_an_image_model_takes_what_the_samples_are_channels_last_or_first(made, tmp_path):
    for samples, shape in (("net.npz", (1, 16, 16, 3)), ("nchw.npz", (1, 3, 16, 16))):
        result = convert(made / "net.onnx", tmp_path / "b", made / samples, modes=("float32",), report=False)

        assert result.bundle.manifest.variants[0].inputs[0].shape == shape
        assert result.float_difference <= 1e-5


def test_an_image_that_comes_out_keeps_the_order_of_the_source(made, tmp_path):
    for model in ("make.py:up", "up.onnx"):
        result = convert(made / model, tmp_path / "b", made / "up.npz", report=False)

        assert result.bundle.manifest.variants[0].outputs[0].shape == (1, 2, 16, 16)
        assert result.float_difference <= 1e-5


def test_a_free_batch_becomes_one(made, tmp_path):
    result = convert(made / "free.pt2", tmp_path / "b", made / "net.npz", modes=("float32",), report=False)

    assert result.bundle.manifest.variants[0].inputs[0].shape == (1, 16, 16, 3)
    assert result.float_difference <= 1e-5


def test_a_folder_of_photos_is_enough_for_an_nchw_model(made, tmp_path, capsys):
    image = pytest.importorskip("PIL.Image")
    rng = np.random.default_rng(2)
    for i in range(12):
        (tmp_path / "photos").mkdir(exist_ok=True)
        image.fromarray(rng.integers(0, 256, (20 + i, 24, 3), dtype=np.uint8)).save(tmp_path / f"photos/{i}.png")
    spec = tmp_path / "image.toml"
    spec.write_text('kind = "image"\nheight = 16\nwidth = 16\nmean = [0]\nstd = [255]\nantialias = true\n')
    output = str(tmp_path / "b")

    code = main(
        [
            "convert",
            str(made / "net.pt2"),
            "-o",
            output,
            "--samples",
            str(tmp_path / "photos"),
            "--preprocess",
            str(spec),
            "--json",
        ]
    )

    told = json.loads(capsys.readouterr().out)
    assert code == 0 and told["float_difference"] <= 1e-5
    assert "TRANSPOSE" not in operator_counts(read_model(tmp_path / "b/models/int8.tflite"))


def test_the_same_source_makes_the_same_bundle_to_the_byte(made, tmp_path):
    ids = [convert(made / "net.onnx", tmp_path / str(i), made / "net.npz", report=False).bundle.id for i in range(2)]

    assert ids[0] == ids[1]


@pytest.mark.parametrize(
    ("model", "kind", "told"),
    [
        ("make.py:wrong", NotAModel, "wrong gave str, not a torch.nn.Module"),
        ("make.py:failing", NotAModel, r"failing raised RuntimeError: no weights here, line \d+"),
        ("make.py:nothing", None, "has no function nothing"),
        ("make.py:net", SamplesError, r"the model does not take samples of shape x \(n, 7, 4\)"),
        ("net.pt2", SamplesError, r"samples of shape \(n, 7, 4\) do not fit input 'image', which is \(n, 3, 16, 16\)"),
        ("net.onnx", SamplesError, r"samples of shape \(n, 7, 4\) do not fit input 'image', which is \(n, 3, 16, 16\)"),
        ("weights.pth", NotAModel, "a pickle of PyTorch"),
        ("cut.onnx", NotAModel, "damaged or not an ONNX model"),
        ("cut.pt2", NotAModel, "damaged or not a .pt2 file"),
    ],
)
def test_what_cannot_be_converted_is_refused_with_its_name_and_leaves_nothing(made, tmp_path, model, kind, told):
    for whole in ("net.onnx", "net.pt2"):
        content = (made / whole).read_bytes()
        (made / whole.replace("net", "cut")).write_bytes(content[: len(content) // 2])

    with pytest.raises(kind or Exception, match=told) as caught:
        convert(made / model, tmp_path / "b", made / "lstm.npz", report=False)

    assert Path(model.partition(":")[0]).name in str(caught.value)
    assert caught.value.hint
    assert list(tmp_path.iterdir()) == []


class Hostile:
    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_a_pickle_in_a_pt2_file_runs_only_for_those_who_say_so(made, tmp_path):
    """PyTorch itself falls back to unpickling anything, and loads weights marked so without its restrictions."""
    import torch

    trap = tmp_path / "trap"
    torch.save(Hostile(trap), tmp_path / "payload.pt")
    with zipfile.ZipFile(made / "net.pt2") as old, zipfile.ZipFile(tmp_path / "bad.pt2", "w") as new:
        for member in old.namelist():
            content = old.read(member)
            new.writestr(member, (tmp_path / "payload.pt").read_bytes() if "sample_inputs" in member else content)

    with pytest.raises(NotAModel, match="cannot be loaded"):
        convert(tmp_path / "bad.pt2", tmp_path / "b", made / "net.npz", report=False)
    assert not trap.exists()
    with pytest.raises(NotAModel, match="cannot be loaded"):  # it is no example input, whatever else it did
        convert(tmp_path / "bad.pt2", tmp_path / "b", made / "net.npz", report=False, trust=True)
    assert trap.exists()


def test_a_bare_pickle_is_never_loaded(tmp_path):
    (tmp_path / "net.pt2").write_bytes(pickle.dumps(Hostile(tmp_path / "trap")))

    with pytest.raises(NotAModel, match=r"is not a \.pt2 file"):
        convert(tmp_path / "net.pt2", tmp_path / "b", tmp_path / "none.npz")
    assert not (tmp_path / "trap").exists()


# --- ONNX's own tests -----------------------------------------------------------------------------------------------

# what PyTorch has no kernel for, or what is a matter of taste: order of equals, nothing to reduce, half precision
_APART = r"uint(16|32|64)|same_values|empty_set|fp16|float16"


def test_every_operator_answers_as_in_the_tests_that_onnx_brings_or_is_refused():
    import re

    import torch
    from onnx import numpy_helper
    from onnx.backend.test.case import node as cases

    from edgekit.convert.onnx_graph import _KNOWN, Graph

    warnings.simplefilter("ignore")
    passed, refused, wrong = 0, [], []
    for case in cases.collect_testcases(None):
        given, wanted = case.data_sets[0] if case.data_sets else ([], [])
        operators = {each.op_type for each in case.model.graph.node}
        plain = all(isinstance(array, np.ndarray) and array.dtype.kind in "fiub" for array in (*given, *wanted))
        if not given or not plain or not operators <= _KNOWN or re.search(_APART, case.name):
            continue
        if operators & {"LayerNormalization", "Dropout"}:  # the other outputs are for training
            del case.model.graph.output[1:]
            wanted = wanted[:1]
        names = [value.name for value in case.model.graph.input]
        free = min(
            1 if "Where" in operators else 0, len(names) - 1
        )  # the others are constants, as weights and sizes are
        rest = [pair for i, pair in enumerate(zip(names, given, strict=False)) if i != free]
        case.model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in rest)
        try:
            with torch.no_grad():
                got = Graph(case.model)(torch.from_numpy(np.array(given[free])))
            for ours, theirs in zip(got, wanted, strict=True):
                assert ours.shape == theirs.shape
                np.testing.assert_allclose(ours.numpy().astype(theirs.dtype), theirs, rtol=1e-3, atol=1e-5)
            passed += 1
        except ConversionError:
            refused.append(case.name)
        except Exception as error:
            wrong.append(f"{case.name}: {type(error).__name__}")

    assert wrong == []
    assert passed > 700
    assert len(refused) < 60


@pytest.mark.parametrize(("limit", "kept"), [([0.0], 0), ([0.5], 1), ([2.0**25], 1)], ids=["whole", "half", "large"])
def test_whole_numbers_are_compared_without_a_cast_where_that_is_the_same(tmp_path, limit, kept):
    """As tf2onnx writes a Keras embedding: negative places count from the end."""
    import torch
    from onnx import TensorProto, helper, numpy_helper, save

    from edgekit.convert.onnx_graph import load_onnx

    nodes = [
        helper.make_node("Cast", ["x"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("Less", ["real", "limit"], ["below"]),
        helper.make_node("Add", ["x", "count"], ["from_end"]),
        helper.make_node("Where", ["below", "from_end", "x"], ["y"]),
    ]
    constants = [
        numpy_helper.from_array(np.array(limit, np.float32), "limit"),
        numpy_helper.from_array(np.array([7], np.int32), "count"),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.INT32, [1, 5]) for name in "xy"]
    graph = helper.make_graph(nodes, "places", ends[:1], ends[1:], constants)
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), tmp_path / "m.onnx")
    source = load_onnx(tmp_path / "m.onnx")
    x = np.array([[-3, -1, 0, 2, 6]], np.int32)

    (ours,) = source.module(torch.from_numpy(x))

    assert (ours.numpy() == source.answer({"x": x})["y"]).all()
    assert [node.op_type for node in source.module._graph.node].count("Cast") == kept
