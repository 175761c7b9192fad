"""`edgekit compare` and `edgekit diff`: what they print, write and return, for files and for bundles."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert", reason="pip install 'edgekit[convert]'")

from handmade_model import classifier, make_bundle
from model_pair import inputs, labels, pair, write_pair

from edgekit.cli.main import main
from edgekit.convert.compare import compare_models
from edgekit.convert.difference import diff_named
from edgekit.convert.opened import find_model
from edgekit.convert.samples import Samples
from edgekit.preprocess import Generic
from edgekit.runner.model import load


@pytest.fixture
def files(tmp_path):
    """float.tflite, int8.tflite and labelled samples."""
    paths = write_pair(tmp_path)
    values = inputs(400)
    np.savez(tmp_path / "s.npz", x=values, y=labels(paths[0], values))
    return [str(path) for path in (*paths, tmp_path / "s.npz")]


def compared(files, *more):
    return main(["compare", *files[:2], "--samples", files[2], *more])


def out_of(capsys):
    return json.loads(capsys.readouterr().out)


# --- compare --------------------------------------------------------------------------------------------------------


def test_two_files_are_compared_in_a_table(files, capsys):
    code = compared(files)
    said = capsys.readouterr().out

    assert code == 0
    for told in ("verdict", "top-1 accuracy", "FULLY_CONNECTED", "hidden", "measured here", "400"):
        assert told in said


def test_json_has_verdict_layers_and_times_in_plain_values(files, capsys):
    compared(files, "--json")
    found = out_of(capsys)

    assert found["verdict"]["metric"] == "top-1 accuracy"
    assert [layer["operator"] for layer in found["layers"]["layers"]] == ["input", "FULLY_CONNECTED", "FULLY_CONNECTED"]
    assert found["float_side"]["median_us"] > 0
    assert len(found["worst"]) == 8


def test_json_is_json_even_where_nothing_can_be_told(files, tmp_path, capsys):
    (tmp_path / "odd.py").write_text(
        "def odd(y, p):\n    if len(set(map(tuple, p))) < 390: raise ValueError\n    return 1.0\n"
    )
    compared(files, "--json", "--metric", f"{tmp_path}/odd.py:odd")

    found = json.loads(capsys.readouterr().out, parse_constant=lambda name: pytest.fail(name))

    assert (found["verdict"]["low"], found["verdict"]["certain"]) == (None, False)


def test_the_report_is_written_where_it_was_asked_for(files, tmp_path):
    code = compared(files, "--html", str(tmp_path / "new" / "r.html"))

    assert code == 0
    assert "Passed" in (tmp_path / "new" / "r.html").read_text()


def test_only_an_explicit_limit_makes_a_bad_model_exit_6(tmp_path, capsys):
    paths = [str(path) for path in write_pair(tmp_path, hidden_step=1 / 512)]
    np.savez(tmp_path / "s.npz", x=inputs(400), y=labels(paths[0], inputs(400)))
    files = [*paths, str(tmp_path / "s.npz")]

    assert compared(files) == 0
    assert "failed: int8 loses" in capsys.readouterr().out
    assert compared(files, "--max-drop", "1") == 6
    assert "it loses most in FULLY_CONNECTED 'hidden'" in capsys.readouterr().err
    assert compared(files, "--max-drop", "90") == 0


def test_bundles_bring_their_preprocessing_and_their_labels(tmp_path, capsys):
    real, int8 = pair()
    (tmp_path / "float.tflite").write_bytes(real)
    spec = Generic(scale=0.5)
    make_bundle(tmp_path / "bundle", int8, raw=inputs(4), spec=spec, labels=("a", "b", "c"))
    np.savez(tmp_path / "s.npz", x=inputs(100) * 2)
    files = [str(tmp_path / name) for name in ("float.tflite", "bundle", "s.npz")]

    code = compared(files, "--html", str(tmp_path / "r.html"), "--json")
    found = out_of(capsys)

    assert code == 0
    assert found["is_classifier"]
    assert found["layers"]["layers"][0]["clipped"] == 0  # 2 x 0.5: without the preprocessing half would be out of range
    assert "scale = 0.5" in (tmp_path / "r.html").read_text()


def test_a_variant_is_named_behind_a_colon(tmp_path, capsys):
    real, int8 = pair()
    (tmp_path / "float.tflite").write_bytes(real)
    make_bundle(tmp_path / "bundle", int8, raw=inputs(4))
    np.savez(tmp_path / "s.npz", x=inputs(100))
    files = [str(tmp_path / "float.tflite"), f"{tmp_path}/bundle:int8", str(tmp_path / "s.npz")]

    assert compared(files) == 0
    assert main(["compare", f"{tmp_path}/bundle", files[0], "--samples", files[2]]) == 2
    assert "no variant float32, only int8\n  convert again with --mode int8 --mode float32" in capsys.readouterr().err
    assert main(["compare", f"{tmp_path}/bundle:int4", files[0], "--samples", files[2]]) == 2
    assert main(["compare", f"{files[0]}:int8", files[0], "--samples", files[2]]) == 2
    assert main(["compare", f"{tmp_path}/nothing", files[0], "--samples", files[2]]) == 2


def test_models_that_do_not_answer_alike_are_refused(files, tmp_path, capsys):
    (tmp_path / "other.tflite").write_bytes(classifier((1, 6), classes=5, dtype="float32"))

    assert compared([files[0], str(tmp_path / "other.tflite"), files[2]]) == 2
    assert "the models do not answer alike: (3,) and (5,)" in capsys.readouterr().err


def test_the_worst_samples_are_those_that_only_int8_gets_wrong(tmp_path):
    paths = write_pair(tmp_path, hidden_step=1 / 100)
    models = [load(path) for path in paths]
    values = inputs(500)
    truth = labels(paths[0], values)
    samples = Samples("s.npz", {"x": values}, truth)
    found = compare_models(models[0], paths[0], models[1], paths[1], samples, timed=False)
    wrong = np.flatnonzero(models[1](values).argmax(axis=1) != truth)

    assert len(wrong) > 0
    assert {w.index for w in found.worst[: len(wrong)]} <= set(wrong.tolist())
    assert sum(change.count for change in found.changes) == len(wrong)
    assert all(change.truth == change.float_class for change in found.changes)


# --- diff -----------------------------------------------------------------------------------------------------------


def test_the_same_files_are_no_difference(files, capsys):
    assert main(["diff", files[1], files[1]]) == 0
    assert capsys.readouterr().out == "no difference\n"


def test_changed_weights_are_counted_in_bytes(tmp_path, capsys):
    for name, shift in (("a", 0), ("b", 1)):
        (tmp_path / f"{name}.tflite").write_bytes(pair(shift=shift)[1])

    code = main(["diff", f"{tmp_path}/a.tflite", f"{tmp_path}/b.tflite", "--json"])
    (model,) = out_of(capsys)["models"]

    assert code == 1
    (weights,) = model["weights"]
    assert weights.pop("difference") == pytest.approx(24**0.5 / np.linalg.norm(weights_of_pair()), rel=1e-3)
    assert weights == {"tensor": "w2", "bytes_a": 24, "bytes_b": 24, "changed_bytes": 24}
    assert (model["ranges"], model["operators"], model["tensors"]) == ([], [], 4)


def weights_of_pair():
    """The int8 weights of the pair's last layer, in steps."""
    random = np.random.default_rng(0)
    random.integers(-60, 61, (8, 6))
    return random.integers(-60, 61, (3, 8))


def test_float_and_int8_weights_are_compared_by_what_they_mean(tmp_path):
    paths = write_pair(tmp_path)
    found = diff_named(find_model(str(paths[0])), find_model(str(paths[1]))).models[0]

    assert {change.tensor: change.difference for change in found.weights} == {"w1": 0.0, "w2": 0.0}


def test_operators_in_another_place_and_other_shapes_are_told(tmp_path, capsys):
    from handmade_model import T, build

    x, half, y = T("x", (1, 4)), T("half", (1, 4)), T("y", (2, 2))
    one = build([("ADD", [x, x], [half]), ("RESHAPE", [half], [y])], inputs=[x], outputs=[y])
    x, half, y = T("x", (1, 4)), T("half", (2, 2)), T("y", (2, 2))
    two = build([("RESHAPE", [x], [half]), ("ADD", [half, half], [y])], inputs=[x], outputs=[y])
    (tmp_path / "a.tflite").write_bytes(one)
    (tmp_path / "b.tflite").write_bytes(two)

    assert main(["diff", f"{tmp_path}/a.tflite", f"{tmp_path}/b.tflite", "--json"]) == 1
    (model,) = out_of(capsys)["models"]
    assert model["operators"] == []
    assert model["shapes"] == [{"what": "half", "a": [1, 4], "b": [2, 2]}]
    assert [(change["a"], change["b"]) for change in model["order"]] == [("ADD", None), (None, "ADD")]


def test_files_that_differ_in_nothing_that_counts_say_so(tmp_path, capsys):
    content = pair()[1]
    (tmp_path / "a.tflite").write_bytes(content)
    (tmp_path / "b.tflite").write_bytes(content + b"trailing")

    assert main(["diff", f"{tmp_path}/a.tflite", f"{tmp_path}/b.tflite"]) == 1
    assert "the same weights, ranges and operators" in capsys.readouterr().out


def test_bundles_differ_in_their_figures_ranges_and_ends(tmp_path, capsys):
    from dataclasses import replace

    import edgekit
    from edgekit.bundle import Quality
    from edgekit.convert.difference import _manifests

    (tmp_path / "f.tflite").write_bytes(pair()[0])
    given = {"samples": inputs(60), "report": False}
    plain = edgekit.convert(tmp_path / "f.tflite", tmp_path / "a", **given).bundle
    bytes_in = edgekit.convert(
        tmp_path / "f.tflite", tmp_path / "b", **given, input_type="uint8", ranges="quantile-0.9"
    ).bundle
    code = main(["diff", f"{tmp_path}/a", f"{tmp_path}/b", "--json"])
    said = out_of(capsys)
    others = {change["what"]: (change["a"], change["b"]) for change in said["others"]}

    assert code == 1
    assert "int8: SQNR to float, dB" in {change["what"] for change in said["metrics"]}
    assert others["int8: input x"] == ("int8 [1, 6]", "uint8 [1, 6]")
    assert others["int8: ranges by"] == ("min-max", "quantile-0.9")
    assert any(change["a"] is None and "QUANTIZE" in change["b"] for change in said["models"][0]["order"])
    variant = plain.manifest.variants[0]
    judged = [
        replace(variant, qualities=(Quality("mAP@.5", 0.5, real, count, ""),)) for real, count in ((0.5, 10), (0.6, 20))
    ]
    found = _manifests(*(replace(plain.manifest, variants=(one,)) for one in judged))
    assert [(c.what, c.a, c.b) for c in found.metrics] == [
        ("int8: mAP@.5, float", 0.5, 0.6), ("int8: mAP@.5, inputs", 10, 20)
    ]  # fmt: skip
    assert bytes_in.id != plain.id


def test_changed_ranges_are_named_with_both_scales(tmp_path, capsys):
    for name, step in (("a", 1 / 16), ("b", 1 / 32)):
        (tmp_path / f"{name}.tflite").write_bytes(pair(hidden_step=step)[1])

    code = main(["diff", f"{tmp_path}/a.tflite", f"{tmp_path}/b.tflite"])
    said = capsys.readouterr().out

    assert code == 1
    assert "0 constants (0 B), 2 ranges, 0 kinds of operators differ" in said
    assert "int8, scale 0.0625, zero point 0" in said
    assert "int8, scale 0.03125, zero point 0" in said


def test_float_and_int8_differ_in_types_and_operators(files):
    found = diff_named(find_model(files[0]), find_model(files[1]))

    assert not found.is_empty
    assert {change.tensor for change in found.models[0].weights} == {"w1", "w2"}  # the biases are all zero in both
    assert {(change.dtype_a, change.dtype_b) for change in found.models[0].ranges} == {
        ("float32", "int8"), ("float32", "int32")
    }  # fmt: skip


def test_bundles_differ_in_preprocessing_labels_and_golden_vectors(tmp_path, capsys):
    int8 = pair()[1]
    make_bundle(tmp_path / "a", int8, raw=inputs(4), spec=Generic(scale=0.5), labels=("x", "y", "z"))
    make_bundle(tmp_path / "b", int8, raw=inputs(4), spec=Generic(scale=0.25), labels=("x", "y", "w"))

    code = main(["diff", f"{tmp_path}/a", f"{tmp_path}/b", "--json"])
    found = out_of(capsys)

    assert (code, found["same"]) == (1, False)
    assert found["models"][0]["same_bytes"]
    assert found["preprocess"] == [{"what": "x.scale", "a": 0.5, "b": 0.25}]
    assert [change["what"] for change in found["others"]] == ["golden.npz", "labels.txt"]


def test_a_bundle_and_a_file_are_compared_as_files(tmp_path, capsys):
    int8 = pair()[1]
    make_bundle(tmp_path / "a", int8, raw=inputs(4))
    (tmp_path / "b.tflite").write_bytes(int8)

    assert main(["diff", f"{tmp_path}/a", f"{tmp_path}/b.tflite"]) == 0


def test_what_is_no_model_is_trouble_and_not_a_difference(files, tmp_path, capsys):
    (tmp_path / "text.tflite").write_text("hello, this is no model at all")

    assert main(["diff", files[0], f"{tmp_path}/text.tflite"]) == 2
    assert main(["diff", files[0], f"{tmp_path}/nothing"]) == 2
    (tmp_path / "empty").mkdir()
    assert main(["diff", files[0], f"{tmp_path}/empty"]) == 3


def test_a_pass_with_a_dead_layer_is_questioned(tmp_path):
    from dataclasses import replace

    from edgekit.convert.cautions import quality_cautions

    paths = write_pair(tmp_path)
    models = [load(path) for path in paths]
    found = compare_models(
        models[0], paths[0], models[1], paths[1], Samples("s.npz", {"x": inputs(1000)}, None), timed=False
    )
    dead = replace(found.layers, layers=(replace(found.layers.layers[1], sqnr_db=0.2), *found.layers.layers[2:]))

    assert quality_cautions(found) == []
    assert "FULLY_CONNECTED 'hidden' kept almost nothing" in quality_cautions(replace(found, layers=dead))[0]
