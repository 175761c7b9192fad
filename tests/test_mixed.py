"""int8 models with operators left in float: the surgery, the recipe that names them, and how the fewest are found."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert", reason="pip install 'edgekit[convert]'")

from handmade_model import T, build
from hypothesis import given
from hypothesis import strategies as st

from edgekit.cli.main import main
from edgekit.convert import convert
from edgekit.convert.blocks import measure_noise, smallest
from edgekit.convert.choose import choose
from edgekit.convert.describe import float_operators
from edgekit.convert.flatbuffer import read_model
from edgekit.convert.held_out import HeldOut, run
from edgekit.convert.mixed import can_be_float, leave_float
from edgekit.convert.quality import sqnr_db
from edgekit.convert.recipe import Rule, pick, read_recipe, recipe_text
from edgekit.errors import InputError, QualityLost
from edgekit.runner import load

WIDE = 24


def random() -> np.random.Generator:
    return np.random.default_rng(11)


def layer(name: str, given: T, outputs: int, weights: np.ndarray | None = None) -> tuple[T, tuple]:
    inputs = given.shape[-1]
    if weights is None:
        weights = np.random.default_rng(sum(name.encode())).normal(0, inputs**-0.5, (outputs, inputs))
    w = T(f"{name}_w", weights.shape, data=weights.astype(np.float32))
    b = T(f"{name}_b", (outputs,), data=np.zeros(outputs, np.float32))
    out = T(name, (1, outputs))
    return out, ("FULLY_CONNECTED", [given, w, b], [out])


def network_with_a_giant() -> bytes:
    """Four layers; half of what the second writes is 3,000 times the other half, which is all that counts.

    Two layers read it, so that no scaling of channels can hide it.
    """
    x = T("x", (1, 16))
    first, one = layer("first", x, WIDE)
    wide, two = layer("wide", first, 2 * WIDE, np.vstack([np.eye(WIDE), 3000 * np.eye(WIDE)]))
    keep = np.hstack([np.eye(WIDE), np.zeros((WIDE, WIDE))])
    left, three = layer("left", wide, WIDE, keep)
    right, four = layer("right", wide, WIDE, -0.5 * keep)
    total = T("total", (1, WIDE))
    big, five = layer("big", total, 160)
    scores, six = layer("scores", big, 10)
    steps = [one, two, three, four, ("ADD", [left, right], [total]), five, six]
    return build(steps, inputs=[x], outputs=[scores], names={"x": "x", "scores": "scores"})


@pytest.fixture(scope="module")
def trouble(tmp_path_factory) -> tuple[Path, Path, dict[str, np.ndarray]]:
    """The float file, its int8 form, and samples."""
    folder = tmp_path_factory.mktemp("mixed")
    source = folder / "float.tflite"
    source.write_bytes(network_with_a_giant())
    feeds = {"x": random().normal(size=(60, 1, 16)).astype(np.float32)}
    return source, choose(source, "int8", feeds, folder / "int8").path, feeds


def sqnr(source: Path, path: Path, feeds) -> float:
    return sqnr_db(run(source, feeds, threads=1), run(path, feeds, threads=1))


# --- the surgery ----------------------------------------------------------------------------------------------------


def test_operators_are_known_by_what_they_write(trouble):
    names = can_be_float(trouble[0], trouble[1])

    assert list(names) == ["first", "wide", "left", "right", "total", "big", "scores"]
    assert names["total"] == "ADD"


def test_nothing_in_float_is_the_int8_model(trouble, tmp_path):
    source, int8, feeds = trouble
    leave_float(source, int8, [], tmp_path / "m.tflite")

    np.testing.assert_array_equal(
        run(tmp_path / "m.tflite", feeds, threads=1)[0], run(int8, feeds, threads=1)[0]
    )  # fmt: skip


def test_all_in_float_is_the_float_model_behind_an_int8_input(trouble, tmp_path):
    source, int8, feeds = trouble
    leave_float(source, int8, list(can_be_float(source, int8)), tmp_path / "m.tflite")
    mixed = read_model(tmp_path / "m.tflite")
    graph = mixed.subgraphs[0]

    assert [operator.name for operator in graph.operators].count("DEQUANTIZE") == 1
    assert "QUANTIZE" not in [operator.name for operator in graph.operators]
    assert graph.tensors[graph.outputs[0]].dtype == "float32"
    assert sqnr(source, tmp_path / "m.tflite", feeds) > 35


def test_what_the_giant_ruins_is_saved_by_two_layers_in_float(trouble, tmp_path):
    source, int8, feeds = trouble
    leave_float(source, int8, ["wide", "left", "right"], tmp_path / "m.tflite")
    graph = read_model(tmp_path / "m.tflite").subgraphs[0]
    names = [operator.name for operator in graph.operators]

    assert sqnr(source, int8, feeds) < 5
    assert sqnr(source, tmp_path / "m.tflite", feeds) > 25
    assert names.count("DEQUANTIZE") == 1, names  # of first; between wide and its readers nothing is converted
    assert names.count("QUANTIZE") == 2, names
    assert {t.name for t in graph.tensors if t.dtype == "float32"} >= {"wide", "left", "right"}
    assert {graph.tensors[op.outputs[0]].dtype for op in graph.operators[-2:]} == {"int8"}


def test_weights_that_nobody_reads_any_more_are_not_in_the_file(trouble, tmp_path):
    source, int8, _ = trouble
    leave_float(source, int8, ["big"], tmp_path / "m.tflite")
    model = read_model(tmp_path / "m.tflite")
    tensors = {tensor.name: tensor for tensor in model.subgraphs[0].tensors}

    assert [t.dtype for name, t in tensors.items() if name.startswith("big_w")] == ["float32"]
    assert model.constant_bytes == read_model(int8).constant_bytes + 3 * WIDE * 160


def test_an_unknown_name_changes_nothing(trouble, tmp_path):
    source, int8, _ = trouble
    leave_float(source, int8, ["nobody"], tmp_path / "m.tflite")

    assert float_operators(read_model(tmp_path / "m.tflite")) == []


# --- which operators ------------------------------------------------------------------------------------------------


def test_the_noisy_operators_are_found(trouble, tmp_path):
    source, int8, feeds = trouble
    held_out = HeldOut(source, feeds, tmp_path)
    runs = measure_noise(source, int8, held_out, tmp_path)

    assert {name for run in runs[:3] for name in run.names} == {"wide", "left", "right"}
    assert runs[3].noise < 0.01 * runs[2].noise
    assert sorted(n for run in runs for n in run.names) == sorted(can_be_float(source, int8))


def test_few_measurements_leave_long_runs(trouble, tmp_path):
    source, int8, feeds = trouble
    runs = measure_noise(source, int8, HeldOut(source, feeds, tmp_path), tmp_path, most=4)

    assert len(runs) == 2


def test_the_fewest_that_pass_stay_float(trouble, tmp_path):
    source, int8, feeds = trouble
    runs = measure_noise(source, int8, HeldOut(source, feeds, tmp_path), tmp_path)
    found = smallest(source, int8, runs, tmp_path, lambda path: sqnr(source, path, feeds) > 20)

    assert found is not None
    assert found.names == ("wide", "left", "right", "total")  # the sum as well: one tensor to int8 instead of two
    assert found.of == 7
    assert sqnr(source, found.path, feeds) > 20
    assert 0.3 < found.mac_share < 0.6


def test_nothing_is_found_where_float_itself_would_be_as_good(trouble, tmp_path):
    source, int8, feeds = trouble
    runs = measure_noise(source, int8, HeldOut(source, feeds, tmp_path), tmp_path)

    assert smallest(source, int8, runs, tmp_path, lambda path: False) is None


# --- recipes --------------------------------------------------------------------------------------------------------

OPERATORS = {"a/conv": "CONV_2D", "a/relu": "RELU", "b/conv": "CONV_2D", "probabilities[0]": "SOFTMAX"}


def recipe(tmp_path, text: str) -> Path:
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    return path


def test_a_recipe_says_which_operators_stay_float(tmp_path):
    path = recipe(
        tmp_path, 'schema = 1\n[[float]]\noperator = "SOFTMAX"\n[[float]]\nname = "b/*"\noperator = "CONV_2D"\n'
    )

    assert pick(read_recipe(path), OPERATORS) == ("b/conv", "probabilities[0]")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "schema is None"),
        ("schema = 2\n[[float]]\noperator = 'A'", "schema is 2"),
        ("schema = 1", "is no recipe"),
        ("schema = 1\nfloat = 3", "is no recipe"),
        ("schema = 1\n[[float]]\nop = 'A'", "number 1 is no rule"),
        ("schema = 1\n[[float]]\n", "number 1 is no rule"),
        ("schema = 1\n[[float]]\nname = 3", "number 1 is no rule"),
        ("schema = 1\n[[float]]\nname = ''", "number 1 is no rule"),
        ("schema = 1\nmore = 1\n[[float]]\nname = 'x'", "is no recipe"),
        ("schema = ", "is not TOML"),
    ],
)
def test_what_is_no_recipe_is_refused(tmp_path, text, told):
    with pytest.raises(InputError, match=told):
        read_recipe(recipe(tmp_path, text))


def test_a_rule_that_means_nothing_is_an_error_that_names_what_there_is():
    with pytest.raises(InputError, match="no operator is a CONV_3D called") as error:
        pick([Rule("CONV_3D")], OPERATORS)

    assert "CONV_2D, RELU, SOFTMAX" in error.value.hint


@given(st.dictionaries(st.text(min_size=1), st.sampled_from(["CONV_2D", "ADD", "*"]), min_size=1), st.data())
def test_a_written_recipe_means_what_it_was_written_for(tmp_path_factory, operators, data):
    names = data.draw(st.lists(st.sampled_from(sorted(operators)), min_size=1, unique=True))
    path = tmp_path_factory.mktemp("recipe") / "recipe.toml"
    path.write_text(recipe_text(names, operators), "utf-8")

    assert set(pick(read_recipe(path), operators)) == set(names)


# --- as a mode --------------------------------------------------------------------------------------------------------


@pytest.fixture
def given_model(trouble, tmp_path) -> tuple[Path, Path]:
    np.savez(tmp_path / "samples.npz", x=trouble[2]["x"][:, 0])
    return trouble[0], tmp_path / "samples.npz"


def test_mixed_is_a_mode_with_a_recipe(given_model, tmp_path):
    model, samples = given_model
    rules = recipe(
        tmp_path, 'schema = 1\n[[float]]\nname = "wide"\n[[float]]\nname = "left"\n[[float]]\nname = "right"\n'
    )
    result = convert(model, tmp_path / "b", samples, modes=("mixed", "float32"), recipe=rules, report=False)
    answers = load(result.bundle.path)(np.load(samples)["x"])

    assert [variant.name for variant in result.variants] == ["mixed", "float32"]
    assert result.verdicts["mixed"].passed
    assert answers.shape == (60, 10)
    assert "recipe.toml" in result.bundle.manifest.made_from


@pytest.mark.parametrize("arguments", [["--mode", "mixed"], ["--recipe", "recipe.toml"]])
def test_mixed_and_a_recipe_need_each_other(given_model, tmp_path, capsys, arguments):
    model, samples = given_model
    code = main(["convert", str(model), "-o", str(tmp_path / "b"), "--samples", str(samples), *arguments])

    assert code == 2
    assert "--mode mixed and --recipe need each other" in capsys.readouterr().err


# --- as the last repair -----------------------------------------------------------------------------------------------


def test_int8_that_fails_becomes_mixed_and_says_so(given_model, tmp_path, capsys):
    model, samples = given_model
    out = tmp_path / "b"
    code = main(["convert", str(model), "-o", str(out), "--samples", str(samples), "--json"])
    result = json.loads(capsys.readouterr().out)

    assert code == 0
    assert list(result["variant_bytes"]) == ["mixed"]
    assert result["repairs"]["mixed"][-1]["step"] == "blocks in float"
    assert result["repairs"]["mixed"][-1]["passed"]
    assert [repair["kept"] for repair in result["repairs"]["mixed"]].count(True) >= 1
    assert not list(out.glob("models/int8*"))
    assert "4 of 7 operators (3 FULLY_CONNECTED, 1 ADD), " in result["repairs"]["mixed"][-1]["what"]
    names = [rule.name for rule in read_recipe(out / "mixed.recipe.toml")]
    assert names == ["wide", "left", "right", "total"]


def test_only_one_variant_is_ever_called_mixed(given_model, tmp_path):
    model, samples = given_model
    with pytest.raises(QualityLost) as refused:
        convert(model, tmp_path / "b", samples, modes=("int8", "int8-float-io"), report=False)

    assert "what is left is --repair mixed with one int8 mode at a time" in refused.value.hint
    assert not (tmp_path / "b").exists()


def test_a_person_reads_that_int8_became_mixed(given_model, tmp_path, capsys):
    model, samples = given_model
    main(["convert", str(model), "-o", str(tmp_path / "b"), "--samples", str(samples)])

    assert "the operators in mixed.recipe.toml stay float" in capsys.readouterr().out


def test_the_recipe_that_a_repair_left_makes_the_same_file(given_model, tmp_path):
    model, samples = given_model
    repaired = convert(model, tmp_path / "a", samples, report=False)
    again = convert(
        *(model, tmp_path / "b", samples),
        modes=("mixed",),
        recipe=tmp_path / "a" / "mixed.recipe.toml",
        report=False,
    )
    files = [result.bundle.file("models/mixed.tflite").read_bytes() for result in (repaired, again)]

    assert files[0] == files[1]


def test_a_repaired_variant_has_the_ends_that_were_asked_for(given_model, tmp_path):
    model, samples = given_model
    x = np.load(samples)["x"]
    plain, other = (
        convert(model, tmp_path / end, samples, report=False, input_type=end, output_type=end)
        for end in ("int8", "uint8")
    )
    (variant,) = other.variants

    assert (variant.name, variant.inputs[0].dtype, variant.outputs[0].dtype) == ("mixed", "uint8", "uint8")
    assert np.array_equal(load(plain.bundle.path)(x), load(other.bundle.path)(x))
    assert other.verdicts == plain.verdicts


@pytest.mark.parametrize("level", ["none", "int8"])
def test_who_wants_int8_or_nothing_gets_nothing(given_model, tmp_path, capsys, level):
    model, samples = given_model
    out = tmp_path / "b"
    code = main(["convert", str(model), "-o", str(out), "--samples", str(samples), "--repair", level])

    assert code == 6
    assert not out.exists()
    said = capsys.readouterr().err
    assert ("repairs tried" in said) == (level == "int8")
