"""What convert decides without TensorFlow: which files it takes, which samples, how it judges, how it guards its child."""

from __future__ import annotations

import importlib.util
import os
import pickle
import sys
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert", reason="pip install 'edgekit[convert]'")

from edgekit.convert import convert, pipeline
from edgekit.convert.frontend import FRONT_ENDS, check_installed, converting, model_kind
from edgekit.convert.metrics import find_metric
from edgekit.convert.quality import agreement
from edgekit.convert.request import Request, read_request
from edgekit.convert.samples import Samples, read_samples, read_specs
from edgekit.convert.selection import spread
from edgekit.errors import (
    ConversionError,
    InputError,
    MissingLibrary,
    NotAModel,
    PreprocessError,
    SamplesError,
    UnknownTarget,
)


@pytest.fixture
def model(tmp_path) -> Path:
    """What looks like a .keras file from outside."""
    path = tmp_path / "net.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", "{}")
    return path


def saved(path: Path, **arrays) -> Path:
    np.savez(path, **arrays)
    return path


@pytest.fixture
def samples(tmp_path) -> Path:
    return saved(tmp_path / "samples.npz", x=np.zeros((40, 4), np.float32))


# --- models ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        (
            "net.pt",
            b"PK\x03\x04 whatever",
            "a pickle of PyTorch, which runs code when it is loaded; edgekit converts .keras",
        ),
        ("net.PTH", b"PK\x03\x04 whatever", "a pickle of PyTorch"),
        ("net.safetensors", b"\x40\x00\x00", "weights without a model"),
        ("frozen.pb", b"\x08\x01\x12\x00", "a frozen graph of TensorFlow 1"),
        ("net.caffemodel", b"\x0a\x03", "of another framework"),
        ("make.py", b"def net(): ...", "is Python code"),
        ("net.onnx", b"PK\x03\x04", "is not a .onnx file, whatever its name says"),
        ("net.pt2", b"\x08\x07\x12\x07pytorch", "is not a .pt2 file, whatever its name says"),
        (
            "notes.txt",
            b"hello",
            "edgekit converts .keras, .h5, SavedModel, .pt2, .onnx, file.py:function and float .tflite",
        ),
        ("net.keras", b"\x89HDF\r\n\x1a\n", "is not a .keras file, whatever its name says"),
        ("net.h5", b"PK\x03\x04", "is not a .h5 file, whatever its name says"),
        ("empty.keras", b"", "is not a .keras file"),
    ],
)
def test_a_file_that_is_no_model_is_refused_by_its_first_bytes(tmp_path, name, content, told):
    path = tmp_path / name
    path.write_bytes(content)

    with pytest.raises(NotAModel, match=told) as caught:
        model_kind(path)

    assert caught.value.hint


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("net.onnx", b"\x08\x0a\x12\x07pytorch", "onnx"),
        ("net.ONNX", b"\x08\x0a\x12\x07pytorch", "onnx"),
        ("net.pt2", b"PK\x03\x04", "pt2"),
        ("net.keras", b"PK\x03\x04", "keras"),
        ("net.tflite", b"\x1c\x00\x00\x00TFL3", "tflite"),
    ],
)
def test_a_file_is_known_by_its_name_and_its_first_bytes(tmp_path, name, content, kind):
    (tmp_path / name).write_bytes(content)

    assert model_kind(tmp_path / name) == kind


def test_a_function_of_a_file_is_known_unless_the_file_is_not_there(tmp_path):
    (tmp_path / "make.py").write_text("raise SystemExit('nobody runs this to look at it')")

    assert model_kind(tmp_path / "make.py:net") == "function"
    with pytest.raises(NotAModel, match=r"other\.py does not exist"):
        model_kind(tmp_path / "other.py:net")


@pytest.mark.parametrize("kind", FRONT_ENDS)
def test_a_front_end_that_is_not_installed_is_asked_for_by_its_extra(kind):
    front_end = replace(FRONT_ENDS[kind], imports=("sys", "no_such_library"))

    with pytest.raises(MissingLibrary, match=rf"converting with {front_end.name} needs no_such_library$") as caught:
        check_installed(front_end)

    assert caught.value.hint == f"pip install 'edgekit[{front_end.extra}]'"


def test_a_folder_without_a_saved_model_is_refused(tmp_path):
    with pytest.raises(NotAModel, match=r"folder without saved_model\.pb"):
        model_kind(tmp_path)


def test_a_path_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(NotAModel, match="does not exist"):
        model_kind(tmp_path / "no.keras")


# --- samples --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arrays", "told"),
    [
        ({"x": np.zeros((0, 4))}, "x has 0 samples, at least 2 are needed"),
        ({"x": np.zeros((1, 4))}, "x has 1 sample, at least 2 are needed"),
        ({"x": np.float32(3)}, "x has 0 samples"),
        ({"x": np.array([[1.0], [np.nan], [2.0]])}, r"x\[1\] is not finite"),
        ({"x": np.array([[1.0], [2.0], [-np.inf]])}, r"x\[2\] is not finite"),
        ({"x": np.array(["a", "b", "c"])}, "x holds <U1, not numbers"),
        ({"x": np.zeros((3, 4), complex)}, "x holds complex128, not numbers"),
        ({"x": np.zeros((3, 4)), "z": np.zeros((2, 4))}, r"different lengths \(x: 3, z: 2\)"),
        ({"x": np.zeros((3, 4)), "y": np.zeros(2, int)}, r"different lengths \(x: 3, y: 2\)"),
        ({"x": np.zeros((3, 4)), "y": np.array([0.0, np.nan, 1.0])}, r"y\[1\] is not finite"),
        ({"y": np.zeros(3, int)}, "has no inputs"),
    ],
)
def test_samples_that_are_of_no_use_are_refused(tmp_path, arrays, told):
    with pytest.raises(SamplesError, match=told) as caught:
        read_samples(saved(tmp_path / "s.npz", **arrays), with_labels=False)

    assert caught.value.hint


def test_labels_are_asked_for_by_their_name(tmp_path):
    path = saved(tmp_path / "s.npz", x=np.zeros((3, 4)), label=np.zeros(3, int))

    with pytest.raises(SamplesError, match=r"has no labels, only x, label") as caught:
        read_samples(path, with_labels=True)

    assert "y=labels" in caught.value.hint


class Trap:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (self.path,))


@pytest.mark.parametrize("kind", ["object array", "bare pickle", "object npy"])
def test_python_objects_are_refused_and_never_run(tmp_path, kind):
    path, trace = tmp_path / "s.npz", tmp_path / "ran"
    trap = np.array([Trap(str(trace)), None], object)
    if kind == "object array":
        np.savez(path, x=trap)
    elif kind == "object npy":
        path = tmp_path / "s.npy"
        np.save(path, trap)
    else:
        path.write_bytes(pickle.dumps(Trap(str(trace))))

    with pytest.raises(InputError, match=r"not a \.npz or \.npy file of plain numbers"):
        read_samples(path, with_labels=False)

    assert not trace.exists()


def test_text_given_as_samples_is_not_called_a_pickle_that_could_be_loaded(tmp_path):
    (tmp_path / "labels.txt").write_text("zero\none\n")
    with pytest.raises(InputError, match="neither their first bytes") as refused:
        read_samples(tmp_path / "labels.txt", with_labels=False)

    assert "allow_pickle" not in str(refused.value)


@pytest.mark.parametrize("place", ["file.txt/r.html", "folder"])
def test_a_report_that_cannot_be_written_is_refused_before_there_is_a_bundle(tmp_path, samples, place):
    (tmp_path / "file.txt").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "m.tflite").write_bytes(b"\x1c\0\0\0TFL3")
    with pytest.raises(InputError, match=r"cannot be written: .* is"):
        read_request(Request(tmp_path / "m.tflite", tmp_path / "b", samples, report=tmp_path / place))


def test_a_damaged_file_of_samples_is_refused(tmp_path, samples):
    whole = samples.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"text", whole[:60] + b"\xff" * 40 + whole[100:]):
        samples.write_bytes(content)

        with pytest.raises(InputError, match=r"is not a \.npz or \.npy file of plain numbers"):
            read_samples(samples, with_labels=False)


def test_arrays_find_their_inputs_by_name_or_by_being_alone(tmp_path):
    one, two = np.zeros((3, 4)), np.ones((3, 2))

    assert list(Samples("f", {"x": one}, None).of_inputs(["image"])) == ["image"]
    assert list(Samples("f", {"b": one, "a": two}, None).of_inputs(["a", "b"])) == ["a", "b"]
    with pytest.raises(SamplesError, match="has the arrays b, a; the model's inputs are a, c"):
        Samples("f", {"b": one, "a": two}, None).of_inputs(["a", "c"])


def test_samples_are_spread_over_all_there_are():
    assert spread(10, 4).tolist() == [0, 3, 6, 9]
    assert spread(3, 500).tolist() == [0, 1, 2]


# --- before TensorFlow takes its time -----------------------------------------------------------------------------------


def test_an_unknown_target_is_refused_with_the_nearest_one(model, samples, tmp_path):
    with pytest.raises(UnknownTarget, match="no target 'rpi44'") as caught:
        convert(model, tmp_path / "b", samples, target="rpi44")

    assert caught.value.hint.startswith("did you mean rpi4?")


def test_a_folder_that_is_not_a_bundle_is_left_alone(model, samples, tmp_path):
    mine = tmp_path / "thesis"
    mine.mkdir()
    (mine / "chapter.txt").write_text("years of work")

    with pytest.raises(InputError, match="exists and is not a bundle"):
        convert(model, mine, samples)

    assert (mine / "chapter.txt").read_text() == "years of work"


def test_an_output_below_a_file_is_refused_at_once(model, samples):
    with pytest.raises(InputError, match="is not a folder"):
        convert(model, samples / "bundle", samples)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_output_without_permission_is_refused_at_once(model, samples, tmp_path):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)

    with pytest.raises(InputError, match="cannot be written: no permission"):
        convert(model, closed / "bundle", samples)


def test_samples_and_evaluation_have_to_be_alike(model, samples, tmp_path):
    other = saved(tmp_path / "other.npz", x=np.zeros((5, 7), np.float32), y=np.zeros(5, int))

    with pytest.raises(SamplesError, match=r"other\.npz: inputs of shape \(7,\), the samples are \(4,\)"):
        convert(model, tmp_path / "b", samples, evaluate=other)


def test_a_preprocessing_for_another_input_is_refused(model, tmp_path):
    two = saved(tmp_path / "two.npz", left=np.zeros((3, 4)), right=np.zeros((3, 4)))
    spec = tmp_path / "p.toml"
    spec.write_text('[middle]\nkind = "generic"\n')

    with pytest.raises(PreprocessError, match="the preprocessing is for middle"):
        convert(model, tmp_path / "b", two, spec=spec)


def test_a_preprocessing_file_is_one_spec_or_one_for_each_input(tmp_path):
    spec = tmp_path / "p.toml"
    spec.write_text('kind = "generic"\nscale = 2.0\n')
    alone = read_specs(spec)
    spec.write_text('[a]\nkind = "generic"\n[b]\nkind = "generic"\noffset = 1.0\n')

    assert list(alone) == [""]
    assert list(read_specs(spec)) == ["a", "b"]


def test_labels_that_cannot_be_read_are_refused(model, samples, tmp_path):
    (tmp_path / "labels.txt").write_bytes(b"\xff\xfe\x00")

    with pytest.raises(InputError, match=r"labels\.txt cannot be read"):
        convert(model, tmp_path / "b", samples, labels=tmp_path / "labels.txt")


# --- judging --------------------------------------------------------------------------------------------------------


def test_sqnr_is_the_ratio_of_powers_in_decibel():
    exact = np.array([[3.0, 4.0]])

    assert agreement([exact], [exact + 0.05], "here", classes=False)[0].value == pytest.approx(36.99, abs=0.01)
    assert agreement([exact], [exact], "here", classes=False)[0].value == 300.0


def test_agreement_on_classes_is_only_for_classifiers():
    probabilities = np.array([[0.9, 0.1], [0.4, 0.6]])
    boxes = np.array([[5.0, 70.0], [3.0, 20.0]])

    assert [q.metric for q in agreement([probabilities], [probabilities[::-1]], "", classes=False)] == [
        "SQNR to float, dB", "same class as float"
    ]  # fmt: skip
    assert [q.metric for q in agreement([boxes], [boxes], "", classes=False)] == ["SQNR to float, dB"]
    assert agreement([boxes], [boxes], "", classes=True)[1].value == 1.0


def test_labels_are_judged_as_classes_or_as_targets():
    scores = np.array([[0.9, 0.1], [0.4, 0.6]])
    classes, targets = np.array([0, 0]), np.array([[1.0, 0.1], [0.4, 0.6]])

    right = find_metric(None, classes, {"out": scores}, source="e.npz")
    error = find_metric(None, targets, {"out": scores}, source="e.npz")

    assert (right.name, right.score(classes, {"out": scores})) == ("top-1 accuracy", 0.5)
    assert (error.name, round(error.score(targets, {"out": scores}), 9)) == ("mean absolute error", 0.025)
    assert Samples("f/e.npz", {"x": np.zeros((2, 4))}, classes).name == "e.npz"


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        (np.array([0, 2]), "labels go from 0 to 2, the model has 2 classes"),
        (np.array([-1, 1]), "labels go from -1 to 1"),
        (np.zeros((2, 5)), "do not fit outputs"),
        (np.zeros((2, 2), int), "do not fit outputs"),
    ],
)
def test_labels_that_do_not_fit_the_outputs_are_refused(labels, told):
    scores = np.array([[0.9, 0.1], [0.4, 0.6]])

    with pytest.raises(SamplesError, match=told):
        find_metric(None, labels, {"out": scores}, source="e.npz")


# --- the child process ----------------------------------------------------------------------------------------------

needs_tensorflow = pytest.mark.skipif(
    importlib.util.find_spec("tensorflow") is None, reason="without tensorflow no child is started"
)


@pytest.fixture
def child(tmp_path, monkeypatch):
    """Makes a shell script the child instead of Python; it is called with: -m MODULE KIND MODEL FOLDER."""

    def make(script: str) -> None:
        program = tmp_path / "child"
        program.write_text("#!/bin/sh\n" + script)
        program.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(program))

    return make


@needs_tensorflow
@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("echo boom >&2; kill -SEGV $$", "was killed by SIGSEGV while converting .*: boom"),
        ("kill -KILL $$", "was killed by SIGKILL"),
        ("exit 3", "ended with exit code 3 while converting .*: no output"),
        ("echo half > $5/result.json", "ended with exit code 0"),
    ],
)
def test_a_child_that_dies_is_a_conversion_error_with_its_last_words(child, model, samples, tmp_path, script, told):
    child(script)

    with pytest.raises(ConversionError, match=told):
        pipeline.convert(Request(model, tmp_path / "b", samples))
    assert not (tmp_path / "b").exists()


@needs_tensorflow
@pytest.mark.parametrize("ending", ["exec sleep 300", "exit 1"])
def test_neither_the_child_nor_what_it_started_lives_on(child, model, tmp_path, ending):
    child(f"sleep 300 & echo $! > {tmp_path}/pid\n{ending}")
    start = time.monotonic()

    with (
        pytest.raises(ConversionError, match=r"did not finish|exit code 1"),
        converting(model, {"x": np.zeros((2, 4))}, tmp_path, timeout_s=0.5),
    ):
        pass

    assert time.monotonic() - start < 5
    pid = int((tmp_path / "pid").read_text())
    assert gone(pid)


def gone(pid: int) -> bool:
    """Whether the process ends within a second; one that nobody has waited for yet counts as ended."""
    for _ in range(50):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.02)
    return False
