"""The command as a Python function: the same options, the same bundle, and samples that are in memory."""

from __future__ import annotations

import filecmp
import inspect
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert", reason="pip install 'edgekit[convert]'")

from handmade_model import T, build, classifier

import edgekit
from edgekit.convert import api
from edgekit.convert.request import Request
from edgekit.convert.samples import read_samples
from edgekit.convert.samples_memory import samples_of
from edgekit.errors import InputError, NotAModel, SamplesError

ROOT = Path(__file__).resolve().parents[1]
IMAGES = np.random.default_rng(0).random((40, 8, 8, 1)).astype(np.float32)
CLASSES = np.arange(40) % 10


@pytest.fixture
def model(tmp_path) -> Path:
    path = tmp_path / "net.tflite"
    path.write_bytes(classifier(dtype="float32"))
    return path


# how results are shown; and convert does not talk to devices: a program fetches samples with edgekit.deploy and gives them
COMMAND_ONLY = {"json", "no_report", "from_device", "compiler"}  # compiler: edgekit.edgetpu.bundled, on the bundle


def option_names():
    """What is typed: --max-drop as max_drop; an argument by its name; --no-report says something about report."""
    from edgekit.cli.convert import convert_command

    names = {}
    for parameter in convert_command.params:
        longest = max(parameter.opts, key=len)
        names[longest.lstrip("-").replace("-", "_")] = parameter
    return names


def test_the_function_has_the_options_of_the_command_and_no_others():
    typed = set(option_names()) - COMMAND_ONLY

    assert set(inspect.signature(edgekit.convert).parameters) - {"progress"} == typed


def test_what_is_left_out_means_the_same_in_both():
    from edgekit.cli.convert import convert_command

    typed, taken = option_names(), inspect.signature(api.convert).parameters
    values = convert_command.make_context("convert", ["m", "-o", "o", "--samples", "s"]).params
    said = {name: values[typed[name].name] for name in set(typed) - COMMAND_ONLY - {"model", "output", "samples"}}
    defaults = {name: taken[name].default for name in said}

    assert (said.pop("mode"), said.pop("report")) == ((defaults.pop("mode"),), None)
    assert defaults.pop("report") is True
    assert said == defaults


def test_every_option_arrives(monkeypatch):
    """What edgekit.convert.request.Request has, apart from the command line that only a command has."""
    got = {}
    monkeypatch.setattr(api, "convert_files", lambda *paths, **options: got.update(options))
    given = {name: f"given {name}" for name in inspect.signature(api.convert).parameters} | {"report": False}
    api.convert(**given)
    wanted = {field.name for field in fields(Request)} - {"model", "output", "samples", "command"} | {"progress"}

    assert set(got) == wanted
    assert {str(value).replace("given ", "") for value in got.values() if value} >= {"metric", "max_drop", "timeout"}
    assert (got["spec"], got["modes"], got["report"]) == (Path("given preprocess"), ("given mode",), False)


def test_the_package_is_called_like_the_command(model, tmp_path):
    np.savez(tmp_path / "s.npz", x=IMAGES)
    np.savez(tmp_path / "e.npz", x=IMAGES, y=CLASSES)
    from edgekit.cli.main import main

    result = edgekit.convert(
        str(model), str(tmp_path / "a"), samples=tmp_path / "s.npz", evaluate=str(tmp_path / "e.npz"),
        mode=["int8", "float32"], max_drop=100, name="net", report=False,
    )  # fmt: skip
    typed = ["convert", model, "-o", tmp_path / "b", "--samples", tmp_path / "s.npz", "--evaluate", tmp_path / "e.npz",
             "--mode", "int8", "--mode", "float32", "--max-drop", "100", "--no-report", "--name", "net"]  # fmt: skip
    code = main([str(word) for word in typed])
    files = [name for name in result.bundle.manifest.files if name != "manifest.json"]

    assert code == 0
    assert isinstance(result, edgekit.ConversionResult)
    assert filecmp.cmpfiles(tmp_path / "a", tmp_path / "b", files, shallow=False) == (files, [], [])
    assert result.verdicts["int8"].metric == "top-1 accuracy"


def test_what_a_server_may_take_is_in_the_manifest(model, tmp_path):
    def limits(name, **given):
        return edgekit.convert(
            model, tmp_path / name, IMAGES, report=False, mode="float32", **given
        ).bundle.manifest.limits

    assert limits("a") is None
    assert limits("b", max_memory=64) == {"rss_bytes": 64 << 20}
    assert limits("c", max_memory=0.5, max_p95=20) == {"rss_bytes": 1 << 19, "p95_ms": 20.0}
    with pytest.raises(InputError):
        limits("d", max_p95=0)
    assert not (tmp_path / "d").exists()


def test_samples_in_memory_make_the_bundle_that_a_file_makes(model, tmp_path):
    np.savez(tmp_path / "s.npz", x=IMAGES, y=CLASSES)
    of_file = edgekit.convert(model, tmp_path / "a", tmp_path / "s.npz", report=False).bundle
    of_memory = edgekit.convert(model, tmp_path / "b", (IMAGES, CLASSES), report=False).bundle
    again = edgekit.convert(model, tmp_path / "c", {"image": IMAGES, "y": CLASSES}, report=False).bundle

    assert filecmp.cmp(of_file.path / "models/int8.tflite", of_memory.path / "models/int8.tflite", shallow=False)
    assert of_memory.manifest.files["models/int8.tflite"] == again.manifest.files["models/int8.tflite"]
    assert set(of_memory.manifest.made_from) == {"net.tflite", "samples"}
    assert (
        of_memory.manifest.made_from["samples"]
        != edgekit.convert(model, tmp_path / "d", IMAGES[:30], report=False).bundle.manifest.made_from["samples"]
    )


class Tensor:
    """What TensorFlow and PyTorch give: an object that knows its own array."""

    def __init__(self, array):
        self.array = array

    def numpy(self):
        return self.array


@pytest.mark.parametrize(
    "given",
    [
        IMAGES, list(IMAGES), {"x": IMAGES}, {"x": list(IMAGES)}, (IMAGES, CLASSES), {"x": IMAGES, "y": CLASSES},
        [(image, number) for image, number in zip(IMAGES, CLASSES, strict=True)],
        [(Tensor(image), Tensor(number)) for image, number in zip(IMAGES, CLASSES, strict=True)],
        [{"x": image} for image in IMAGES],
    ],
)  # fmt: skip
def test_samples_are_taken_in_every_usual_form(given):
    found = samples_of(given, "samples", most=None)
    labelled = isinstance(given, tuple) or "y" in given if not isinstance(given, (list, np.ndarray)) else (
        isinstance(given, list) and isinstance(given[0], tuple)
    )  # fmt: skip

    assert np.array_equal(found.arrays["x"], IMAGES)
    assert (found.labels is not None) == labelled
    assert found.labels is None or np.array_equal(found.labels, CLASSES)


def test_no_more_is_asked_of_a_generator_than_is_used():
    asked = []

    def endless():
        while True:
            asked.append(1)
            yield np.zeros(3)

    assert samples_of(endless(), "samples", most=7).count == 7
    assert len(asked) <= 8


def test_labels_of_several_lengths_are_filled_up():
    given = ([np.zeros(4)] * 3, [[1, 2], [3], []])
    found = read_samples(samples_of(given, "evaluate", most=None), with_labels=True)

    assert found.labels.tolist() == [[1, 2], [3, -1], [-1, -1]]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (np.float32(3), "single float32"), (7, "not samples"), (iter(()), "gave no samples"), (np.zeros((1, 4)), "has 1 sample"),
        (np.full((4, 4), np.nan), "is not finite"), (np.array(["a", "b"]), "not numbers"),
        ((np.zeros((4, 2)), np.zeros(3)), "different lengths"),
    ],
)  # fmt: skip
def test_what_is_in_memory_and_no_samples_is_a_message(model, tmp_path, given, told):
    with pytest.raises(SamplesError, match=told) as caught:
        edgekit.convert(model, tmp_path / "b", given)

    assert caught.value.hint
    assert not (tmp_path / "b").exists()


def test_a_generator_that_fails_is_a_message():
    def failing():
        yield np.zeros(3)
        raise OSError("the camera is gone")

    with pytest.raises(SamplesError, match="samples raised OSError: the camera is gone"):
        samples_of(failing(), "samples", most=None)


def test_errors_are_the_commands(tmp_path):
    with pytest.raises(NotAModel):
        edgekit.convert(tmp_path / "nothing.keras", tmp_path / "b", IMAGES)
    with pytest.raises(InputError, match="no metric"):
        edgekit.convert(classifier_file(tmp_path), tmp_path / "b", IMAGES, evaluate=(IMAGES, CLASSES), metric="bleu")


def classifier_file(folder):
    into, out = T("x", (1, 4)), T("y", (1, 4))
    (folder / "bare.tflite").write_bytes(build([("ADD", [into, into], [out])], inputs=[into], outputs=[out]))
    return folder / "bare.tflite"


def test_importing_edgekit_costs_nothing():
    heavy = "import sys, edgekit; print([m for m in ('numpy', 'edgekit.convert', 'inspect') if m in sys.modules])"
    said = subprocess.run([sys.executable, "-S", "-c", heavy], cwd=ROOT, capture_output=True, text=True)
    package = subprocess.run(
        [sys.executable, "-c", "import sys, edgekit.convert; print('numpy' in sys.modules)"],
        capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip

    assert said.stdout.strip() == "[]", said.stderr
    assert package.stdout.strip() == "False", package.stderr


def test_a_board_has_no_convert(tmp_path):
    (tmp_path / "edgekit").mkdir()
    (tmp_path / "edgekit" / "__init__.py").write_bytes((ROOT / "edgekit" / "__init__.py").read_bytes())
    code = "import edgekit; print(hasattr(edgekit, 'convert'), edgekit.__version__)"
    said = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)

    assert said.stdout.split() == ["False", edgekit.__version__], said.stderr


USE = """
from pathlib import Path
import edgekit
from edgekit.convert import convert as stage
from edgekit.convert.metrics import find_metric
result: edgekit.ConversionResult = edgekit.convert("m.keras", Path("out"), samples="s.npz", mode="int8")
reveal_type(result.bundle.id)
edgekit.convert("m.keras", "out", "s.npz", max_dorp=1)
"""


@pytest.mark.slow
def test_type_checkers_know_the_call(tmp_path):
    pytest.importorskip("mypy")
    (tmp_path / "use.py").write_text(USE)
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--config-file",
        str(ROOT / "pyproject.toml"),
        "--no-incremental",
    ]
    said = subprocess.run([*command, str(tmp_path / "use.py")], cwd=ROOT, capture_output=True, text=True).stdout

    assert 'Revealed type is "str"' in said.replace("builtins.str", "str")
    assert 'Unexpected keyword argument "max_dorp"' in said
    assert "Found 1 error" in said
