"""The Edge TPU compiler's place in a conversion: its log and files, dense weights of one scale, what is told without it.

The compiler itself cannot be had here: a program of its name prints a log in its form and hands out what the real one wrote.
"""

from __future__ import annotations

import json
import os
import stat
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from fake_library import fake_library
from handmade_model import T, build, classifier, compiled_classifier, make_bundle

from edgekit.bundle import read_bundle
from edgekit.cli.compile_edgetpu import edgetpu_command, finish
from edgekit.convert.coral import edgetpu_findings, for_edgetpu, units_of, wants_edgetpu, with_dense_per_tensor
from edgekit.convert.flatbuffer import read_model
from edgekit.convert.variants import Made
from edgekit.edgetpu.compile import MAPPED, find_compiler, read_log
from edgekit.edgetpu.versions import refusals
from edgekit.errors import ConversionError, InputError, MissingLibrary
from edgekit.manifest import Delegate
from edgekit.runner.interpreter import open_interpreter
from edgekit.target import load_target

pytest.importorskip("ai_edge_litert")
REAL = Path(__file__).resolve().parents[2] / "shared" / "data" / "edgetpu" / "models"
LOG = """\
Edge TPU Compiler version 16.0.384591198
Started a compilation timeout timer of 180 seconds.

Model compiled successfully in 12 ms.

Input model: model.tflite
Input size: 6.50KiB
Number of Edge TPU subgraphs: 1
Total number of operations: 9
Operation log: ./model_edgetpu.log
See the operation log file for individual operation details.

Operator                       Count      Status

CONV_2D                        4          Mapped to Edge TPU
RESIZE_BILINEAR                2          Mapped to Edge TPU
RESIZE_BILINEAR                2          Operation is otherwise supported, but not mapped due to some unspecified limitation
ARG_MAX                        1          Operation not supported
Compilation child process completed within timeout period.
Compilation succeeded!
"""


@pytest.fixture
def bundle(tmp_path):
    name = "mobilenet_v1_0.25_128_quant"
    if not (REAL / f"{name}.tflite").exists():
        pytest.skip("no ../shared/data/edgetpu beside this checkout")
    raw = np.random.default_rng(0).uniform(0, 1, (2, 128, 128, 3)).astype(np.float32)
    return make_bundle(tmp_path / "b", (REAL / f"{name}.tflite").read_bytes(), raw=raw, tolerance=1)


@pytest.fixture
def compiler(tmp_path, monkeypatch):
    """A function that puts a program called edgetpu_compiler on PATH, which hands out that file."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    def install(
        hands_out: Path | None, *, says: str = LOG, code: int = 0, name: str = "edgetpu_compiler", before: str = ""
    ):
        (tmp_path / "says").write_text(says)
        copy = f"cp {hands_out} model_edgetpu.tflite" if hands_out else ""
        program = folder / name
        program.write_text(
            f'#!/bin/sh\necho "$@" > {tmp_path}/arguments\n{before}\n{copy}\ncat {tmp_path}/says\nexit {code}\n'
        )
        program.chmod(program.stat().st_mode | stat.S_IXUSR)

    return install


def run(*words):
    done = CliRunner().invoke(edgetpu_command, [str(word) for word in words])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.output


# --- log and file ---------------------------------------------------------------------------------------------------


def test_the_log_is_counted_by_operator_and_status():
    log = read_log(LOG)

    assert log.version == "16.0.384591198"
    assert log.counts[("RESIZE_BILINEAR", MAPPED)] == 2
    assert log.mapped == 6
    assert sum(log.left.values()) == 3 and log.left[("ARG_MAX", "Operation not supported")] == 1
    assert read_log("Internal compiler error. Aborting!").counts == {}


def test_a_compiled_file_goes_into_the_bundle_with_a_delegate_in_front(bundle, compiler, tmp_path):
    compiler(REAL / "mobilenet_v1_0.25_128_quant_edgetpu.tflite")
    found = json.loads(run(bundle.path, "--device", "usb:0", "--performance", "High", "--json"))
    made = read_bundle(bundle.path)
    first, second = made.manifest.variants[0].delegates

    assert found["id"] == made.id
    assert first == Delegate(
        "edgetpu", {"device": "usb:0", "performance": "High", "file": "models/int8_edgetpu.tflite"}
    )
    assert second.name == "cpu"
    real = (REAL / "mobilenet_v1_0.25_128_quant_edgetpu.tflite").read_bytes()
    assert made.file("models/int8_edgetpu.tflite").read_bytes() == real
    assert found["compiled"]["int8"]["compiled"]["packages"][0]["min_runtime"] > 9
    assert found["compiled"]["int8"]["differs"] == []
    assert (tmp_path / "arguments").read_text() == "-s -o . model.tflite\n"


def test_a_second_compilation_replaces_the_first(bundle, compiler):
    compiler(REAL / "mobilenet_v1_0.25_128_quant_edgetpu.tflite")
    run(bundle.path)
    run(bundle.path)

    assert [d.name for d in read_bundle(bundle.path).manifest.variants[0].delegates] == ["edgetpu", "cpu"]


def test_what_was_compiled_elsewhere_is_read_before_it_is_believed(bundle, tmp_path):
    run(bundle.path, "--compiled", REAL / "mobilenet_v1_0.25_128_quant_edgetpu.tflite", "-o", tmp_path / "with")

    assert [d.name for d in read_bundle(tmp_path / "with").manifest.variants[0].delegates] == ["edgetpu", "cpu"]
    with pytest.raises(ConversionError, match="nothing was mapped"):
        run(bundle.path, "--compiled", REAL / "mobilenet_v1_0.25_128_quant.tflite")


def test_success_with_nothing_mapped_is_a_failure(bundle, compiler):
    compiler(REAL / "mobilenet_v1_0.25_128_quant.tflite")
    before = (bundle.path / "manifest.json").read_bytes()

    with pytest.raises(ConversionError, match="nothing was mapped"):
        run(bundle.path)
    assert (bundle.path / "manifest.json").read_bytes() == before


def test_a_failure_is_told_in_the_compilers_words(bundle, compiler):
    compiler(None, says="ERROR: Didn't find op for builtin opcode 'CONV_2D' version '6'.\nInvalid model\n", code=1)

    with pytest.raises(ConversionError, match="Didn't find op for builtin opcode 'CONV_2D' version '6'"):
        run(bundle.path)


def test_without_the_compiler_nothing_is_written_and_the_way_to_get_it_is_told(bundle, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    before = sorted(bundle.path.rglob("*"))

    with pytest.raises(MissingLibrary) as raised:
        run(bundle.path)
    assert "docker build" in raised.value.hint and "signed-by" in raised.value.hint
    assert f"edgekit edgetpu {bundle.path} --compiled int8_edgetpu.tflite" in raised.value.hint
    assert sorted(bundle.path.rglob("*")) == before


def test_a_container_gets_the_folder_no_network_and_the_image_that_was_named(bundle, compiler, tmp_path):
    enter = 'for word; do case $word in *:/work) cd "${word%:/work}";; esac; done'
    compiler(REAL / "mobilenet_v1_0.25_128_quant_edgetpu.tflite", name="podman", before=enter)
    run(bundle.path, "--compiler", "podman:a/b:16")
    words = (tmp_path / "arguments").read_text().split()

    assert words[:4] == ["run", "--rm", "--network", "none"]
    assert words[-6:] == ["a/b:16", "edgetpu_compiler", "-s", "-o", ".", "model.tflite"]
    with pytest.raises(InputError):
        find_compiler("podman:--privileged")
    with pytest.raises(InputError, match="is not a program"):
        find_compiler("/nowhere/compiler")


# --- what a model needs -----------------------------------------------------------------------------------------------


def dense(channels=6, seed=0):
    """A dense layer whose channels have scales of their own, as newer quantizers write it: version 12."""
    random = np.random.default_rng(seed)
    x, y = T("x", (1, 16), "int8", 0.05), T("y", (1, channels), "int8", 0.1)
    w = T("w", (channels, 16), "int8", 0.01, data=random.integers(-127, 128, (channels, 16), np.int8))
    b = T("b", (channels,), "int32", 0.0005, data=random.integers(-4000, 4000, channels, np.int32))
    from edgekit.convert.rewrite import packed, unpacked

    model = unpacked(build([("FULLY_CONNECTED", [x, w, b], [y])], inputs=[x], outputs=[y], version=12))
    scales = random.uniform(0.002, 0.01, channels)
    for tensor in model.subgraphs[0].tensors:
        if tensor.name in (b"w", b"b"):
            factor = 1.0 if tensor.name == b"w" else 0.05
            tensor.quantization.scale = [float(s) * factor for s in scales]
            tensor.quantization.zeroPoint = [0] * channels
    return packed(model)


def answers(content, path, x):
    path.write_bytes(content)
    interpreter = open_interpreter(path, 1, reference=True)
    found = []
    for row in x:
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], row[None])
        interpreter.invoke()
        found.append(interpreter.get_tensor(interpreter.get_output_details()[0]["index"])[0])
    return np.array(found, np.int16)


def test_dense_weights_get_one_scale_a_version_the_compiler_reads_and_nearly_the_same_answers(tmp_path):
    content = dense()
    changed = with_dense_per_tensor(content)
    x = np.random.default_rng(1).integers(-128, 128, (50, 16), np.int8)
    before, after = (answers(each, tmp_path / f"{i}.tflite", x) for i, each in enumerate((content, changed)))

    (operator,) = read_model(tmp_path / "1.tflite").subgraphs[0].operators
    assert refusals(read_model(tmp_path / "0.tflite").subgraphs[0].operators)
    assert not refusals([operator]) and operator.version == 4
    weights = read_model(tmp_path / "1.tflite").subgraphs[0].tensors[operator.inputs[1]]
    assert len(weights.scale) == 1
    assert np.abs(before - after).max() <= 2
    assert np.abs(before).max() > 20
    assert with_dense_per_tensor(changed) is None


def test_only_what_is_meant_for_an_edge_tpu_is_changed(tmp_path):
    (tmp_path / "m.tflite").write_bytes(dense())
    made = Made("int8", tmp_path / "m.tflite", None, "a quantizer", ())
    coral, pi = load_target("coral-usb-rpi4"), load_target("rpi4")

    assert for_edgetpu(made, pi, (), tmp_path / "x") is made
    assert for_edgetpu(replace(made, mode="float32"), coral, (), tmp_path / "x").path == made.path
    assert for_edgetpu(made, coral, (), tmp_path / "x").path != made.path
    assert for_edgetpu(made, None, (Delegate("edgetpu", {}),), tmp_path / "x").path != made.path
    assert wants_edgetpu(coral, ()) and not wants_edgetpu(coral, (Delegate("cpu", {}),))


def test_what_will_not_map_is_told_with_the_change_that_helps(tmp_path):
    a, b, c, d = (T(name, shape, "int8", 0.5) for name, shape in
                  (("a", (1, 40, 40, 72)), ("b", (1, 40, 40, 72)), ("c", (1, 72, 40, 40)), ("d", (1, 72, 40, 40))))  # fmt: skip
    order = T("p", (4,), "int32", data=np.array([0, 3, 1, 2], np.int32))
    steps = [("LEAKY_RELU", [a], [b], {"alpha": 0.1}), ("TRANSPOSE", [b, order], [c]), ("LOGISTIC", [c], [d])]
    (tmp_path / "m.tflite").write_bytes(build(steps, inputs=[a], outputs=[d]))
    found = edgetpu_findings(Made("int8", tmp_path / "m.tflite", None, "", ()), load_target("coral-x86-64"), ())
    told = {finding.layer: finding for finding in found}

    assert told["LEAKY_RELU 0"].fix.startswith("use ReLU or ReLU6")
    assert "NHWC samples" in told["TRANSPOSE 1"].fix
    assert all("(predicted)" in finding.evidence for finding in found)
    assert edgetpu_findings(Made("int8", tmp_path / "m.tflite", None, "", ()), load_target("x86-64"), ()) == []


def test_an_edge_tpu_is_in_the_manifest_only_with_its_file():
    listed = units_of(load_target("coral-usb-rpi4").delegates, 3)

    assert listed == (Delegate("cpu", {"threads": 3}),)
    assert units_of([Delegate("edgetpu", {"file": "models/a.tflite"})], 1)[0].name == "edgetpu"
    assert units_of([Delegate("edgetpu", {})], None) == (Delegate("cpu", {}),)


def test_a_conversion_for_coral_ends_with_the_compiler_or_with_the_recipe(
    bundle, compiler, capsys, monkeypatch, tmp_path
):
    monkeypatch.setenv("PATH", "/nowhere")
    same = finish(bundle, "coral-usb-rpi4", (), None, quiet=True)

    assert same is bundle
    assert "no edgetpu_compiler on PATH" in capsys.readouterr().err
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    compiler(REAL / "mobilenet_v1_0.25_128_quant_edgetpu.tflite")
    made = finish(bundle, "coral-usb-rpi4", (), None, quiet=True)
    assert made.manifest.variants[0].delegates[0].options["device"] == "usb:0"
    assert finish(made, "rpi4", (), None, quiet=True) is made


def test_a_bundle_that_was_compiled_serves_on_the_unit(compiler, tmp_path, monkeypatch):
    """From the compiler's file to answers, with a FAKE library in place of libedgetpu."""
    from edgekit.runner import load

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    raw = np.random.default_rng(0).random((4, 8, 8, 1), np.float32)
    compiled = {"models/int8_edgetpu.tflite": compiled_classifier()}
    asked = [f"edgetpu:file=models/int8_edgetpu.tflite,library={fake_library()}", "cpu"]
    made = make_bundle(tmp_path / "b", classifier(), raw=raw, delegates=asked, more=compiled)

    assert load(made.path).placement.label == "FAKE edgetpu"
