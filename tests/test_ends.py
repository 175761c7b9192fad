"""uint8 at the ends of an int8 model: the same answers, as TFLiteConverter's own files have it."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert", reason="pip install 'edgekit[convert]'")

from handmade_model import T, build, classifier, identity

import edgekit
from edgekit.cli.main import main
from edgekit.convert.describe import full_int8_findings, operator_counts, quantization
from edgekit.convert.ends import changed_ends, with_ends
from edgekit.convert.flatbuffer import read_model
from edgekit.convert.variants import Made
from edgekit.errors import ConversionError, InputError
from edgekit.runner.check import check_release
from edgekit.runner.model import load

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 1)).astype(np.uint8)


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "net.tflite"
    path.write_bytes(classifier(dtype="float32"))
    return path


@pytest.fixture
def spec(tmp_path):
    (tmp_path / "spec.toml").write_text(f'kind = "generic"\nscale = {1 / 255!r}\n')
    return tmp_path / "spec.toml"


def made(model, spec, folder, **options):
    return edgekit.convert(model, folder, PIXELS, preprocess=spec, report=False, **options)


@pytest.mark.parametrize("ends", [("uint8", "uint8"), ("uint8", "int8"), ("int8", "uint8")])
def test_the_answers_are_those_of_int8(model, spec, tmp_path, ends):
    plain, other = (
        load(made(model, spec, tmp_path / name, input_type=a, output_type=b).bundle.path)
        for name, (a, b) in (("a", ("int8", "int8")), ("b", ends))
    )

    assert (other.inputs[0].dtype, other.outputs[0].dtype) == ends
    assert other.inputs[0].name == plain.inputs[0].name == "image"
    assert np.array_equal(plain(PIXELS), other(PIXELS))


def test_raw_camera_bytes_are_what_a_uint8_model_takes(model, spec, tmp_path):
    result = made(model, spec, tmp_path / "b", input_type="uint8", output_type="uint8")
    runs = load(result.bundle.path)
    (tensor,) = runs.inputs

    assert (tensor.scale, tensor.zero_point) == (pytest.approx(1 / 255, rel=1e-2), 0)
    bytes_in, prepared = runs(PIXELS, raw_in=True), runs(PIXELS)
    assert (
        np.abs(bytes_in - prepared).max() <= 2 * runs.outputs[0].scale
    )  # the range is that of the samples, not 0..255
    assert runs(PIXELS[0], raw_in=True, raw_out=True).dtype == np.uint8


def test_the_bundle_is_full_int8_and_gives_its_golden_answers(model, spec, tmp_path, capsys):
    result = made(model, spec, tmp_path / "b", input_type="uint8", output_type="uint8", mode=("int8", "int8-float-io"))
    file = read_model(result.bundle.path / "models/int8.tflite")
    first, second = (agreement for agreement, _ in check_release(result.bundle.path))

    assert (full_int8_findings(file), quantization(file)) == ([], "full int8")
    assert operator_counts(file)["QUANTIZE"] == (2, 1)
    assert [t.dtype for v in result.variants for t in (*v.inputs, *v.outputs)] == ["uint8"] * 2 + ["float32"] * 2
    assert (first.ok, first.bit_equal, first.count, second.ok) == (True, first.count, 32, True)
    with np.load(result.bundle.path / "golden.npz") as golden:
        assert golden["output/int8/digit"].dtype == np.uint8
    assert main(["inspect", str(result.bundle.path)]) == 0
    assert "image: uint8[1,8,8,1]" in capsys.readouterr().out


def test_layers_are_still_compared_by_their_names(model, spec, tmp_path):
    plain, other = (made(model, spec, tmp_path / end, input_type=end, output_type=end) for end in ("int8", "uint8"))
    layers = [
        [(one.name, one.matched_by, one.sqnr_db, one.lost_db) for one in r.comparisons["int8"].layers.layers[1:]]
        for r in (plain, other)
    ]

    assert layers[0] == layers[1]
    assert plain.comparisons["int8"].layers.layers[0].sqnr_db == other.comparisons["int8"].layers.layers[0].sqnr_db


def test_the_command_has_the_options(model, spec, tmp_path, capsys):
    np.savez(tmp_path / "s.npz", x=PIXELS)
    typed = [
        "convert",
        model,
        "-o",
        tmp_path / "b",
        "--samples",
        tmp_path / "s.npz",
        "--preprocess",
        spec,
        "--no-report",
    ]

    assert main([*map(str, typed), "--input-type", "uint8", "--json"]) == 0
    (variant,) = json.loads(capsys.readouterr().out)["variants"]
    assert [t["dtype"] for t in (*variant["inputs"], *variant["outputs"])] == ["uint8", "int8"]
    assert main([*map(str, typed), "--input-type", "uint8", "--mode", "float16"]) == 2
    assert "--input-type uint8 is for mode int8" in capsys.readouterr().err


def test_a_type_that_is_not_there_is_refused(model, spec, tmp_path):
    with pytest.raises(InputError, match="--output-type uint16 is not there"):
        made(model, spec, tmp_path / "b", output_type="uint16")


def test_a_model_of_tokens_has_no_uint8_input(tmp_path):
    path = tmp_path / "ints.tflite"
    path.write_bytes(identity("int32", scale=None))

    with pytest.raises(ConversionError, match="no input is uint8: 'in' is int32"):
        with_ends(Made("int8", path, None, "", ()), tmp_path / "e", input_type="uint8", output_type="int8")


def test_an_output_that_is_read_again_and_given_twice_stays_one_tensor(tmp_path):
    into, mid, out = (T(name, (1, 4), "int8", 0.5, -3) for name in ("in", "mid", "out"))
    content = build([("RESHAPE", [into], [mid]), ("RESHAPE", [mid], [out])], inputs=[into], outputs=[mid, out, mid])
    path = tmp_path / "twice.tflite"
    path.write_bytes(changed_ends(content, "uint8", "uint8"))
    graph = read_model(path).subgraphs[0]

    assert graph.outputs[0] == graph.outputs[2] != graph.outputs[1]
    assert [graph.tensors[i].dtype for i in (*graph.inputs, *graph.outputs)] == ["uint8"] * 4
    assert full_int8_findings(read_model(path)) == []


def test_uint8_all_the_way_is_not_full_int8(tmp_path):
    path = tmp_path / "old.tflite"
    path.write_bytes(identity("uint8", zero_point=125))

    assert full_int8_findings(read_model(path))[0] == "input 'in' is uint8, not int8"


TENSORFLOW = """
import sys
import keras, numpy as np, tensorflow as tf
keras.utils.set_random_seed(0)
net = keras.Sequential([keras.layers.Input((8, 8, 1), batch_size=1), keras.layers.Conv2D(4, 3, activation="relu"),
                        keras.layers.Flatten(), keras.layers.Dense(5, activation="softmax")])
x = np.random.default_rng(0).random((50, 8, 8, 1)).astype(np.float32)
for kind in ("uint8", "int8"):
    converter = tf.lite.TFLiteConverter.from_keras_model(net)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([s[None]] for s in x)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = getattr(tf, kind)
    open(f"{sys.argv[1]}/{kind}.tflite", "wb").write(converter.convert())
"""


@pytest.mark.slow
def test_our_uint8_form_of_tensorflows_int8_file_is_tensorflows_uint8_file(tmp_path):
    pytest.importorskip("tensorflow")
    subprocess.run([sys.executable, "-c", TENSORFLOW, str(tmp_path)], check=True, capture_output=True, timeout=600)
    ours = tmp_path / "ours.tflite"
    ours.write_bytes(changed_ends((tmp_path / "int8.tflite").read_bytes(), "uint8", "uint8"))
    files = [read_model(path) for path in (ours, tmp_path / "uint8.tflite")]
    runs = [load(path) for path in (ours, tmp_path / "uint8.tflite")]
    pixels = np.random.default_rng(1).integers(0, 256, (200, 8, 8, 1)).astype(np.uint8)

    operators = [[op.name for op in file.subgraphs[0].operators] for file in files]

    assert operators[0] == operators[1]
    assert operator_counts(files[0]) == operator_counts(files[1])
    assert full_int8_findings(files[1]) == []
    ends = [[(t.name, t.shape, t.dtype, t.scale, t.zero_point) for t in (*r.inputs, *r.outputs)] for r in runs]
    assert ends[0] == ends[1]
    assert np.array_equal(*(r(pixels, raw_in=True, raw_out=True) for r in runs))
