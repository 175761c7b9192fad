"""The lint: each rule speaks where it has evidence and is silent where it has none; nothing makes it crash."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

pytest.importorskip("ai_edge_litert", reason="pip install 'edgekit[convert]'")


from handmade_model import T, build, classifier

from edgekit.cli.main import main
from edgekit.convert.calibrate import measure_extremes
from edgekit.convert.extremes import by_name
from edgekit.convert.flatbuffer import Model, read_model
from edgekit.convert.inspection import inspect_file, inspect_float
from edgekit.convert.lint import lint, runtime_findings
from edgekit.convert.samples import Samples
from edgekit.convert.settle import settle
from edgekit.convert.trial import preprocessing_findings
from edgekit.convert.variants import as_fed
from edgekit.errors import NotAModel, SamplesError
from edgekit.target import load_target

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
NANO, CORAL = load_target("jetson-nano"), load_target("coral-dev-board")
needs_data = pytest.mark.skipif(
    not DATA.is_dir(), reason="the MLPerf Tiny models lie in ../shared/data, outside the repository"
)


def graph(steps, inputs, outputs) -> Model:
    return read_model(build(steps, inputs=inputs, outputs=outputs))


def rules(findings) -> list[tuple[str, str]]:
    return [(finding.rule, finding.severity) for finding in findings]


def numbers(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


# --- the graph ------------------------------------------------------------------------------------------------------


def silu() -> Model:
    x, gate, out = T("x", (1, 4)), T("gate", (1, 4)), T("out", (1, 4))
    return graph([("LOGISTIC", [x], [gate]), ("MUL", [gate, x], [out])], [x], [out])


def test_silu_is_a_warning_only_on_the_way_to_a_tpu():
    assert rules(lint(silu())) == [("silu", "info")]
    assert rules(lint(silu(), target=load_target("rpi4"))) == [("silu", "info")]
    assert rules(lint(silu(), target=load_target("coral-dev-board"))) == [("silu", "warning")]


def test_silu_tells_how_many_steps_its_negative_side_gets():
    (found,) = lint(silu(), extremes={"out": (-0.28, 24.0)})

    assert "goes from -0.28 to 24, of 255 steps 3 are for its negative side" in found.evidence


def test_a_gate_on_something_else_is_no_silu():
    x, y, gate, out = T("x", (1, 4)), T("y", (1, 4)), T("gate", (1, 4)), T("out", (1, 4))

    assert lint(graph([("LOGISTIC", [y], [gate]), ("MUL", [gate, x], [out])], [x, y], [out])) == []


def test_a_scale_per_channel_behind_a_layer_is_an_unfolded_batch_norm():
    x, w, h, out = T("x", (1, 4)), T("w", (3, 4), data=numbers(3, 4)), T("h", (1, 3)), T("out", (1, 3))
    by_channel, alone = T("gamma", (3,), data=numbers(3)), T("half", (1,), data=numbers(1))

    def scaled_by(constant):
        return graph([("FULLY_CONNECTED", [x, w], [h]), ("MUL", [h, constant], [out])], [x], [out])

    assert rules(lint(scaled_by(by_channel))) == [("unfolded-batch-norm", "warning")]
    assert lint(scaled_by(alone)) == []


def test_a_loop_is_a_rolled_rnn():
    x, out = T("x", (1, 4)), T("out", (1, 4))

    assert rules(lint(graph([("WHILE", [x], [out])], [x], [out]))) == [("rolled-rnn", "warning")]
    assert rules(lint(graph([("LSTM", [x], [out])], [x], [out]))) == [("fused-rnn", "info")]


@pytest.mark.parametrize(("width", "found"), [(24, [("inner-softmax", "info")]), (300, [("inner-softmax", "warning")])])
def test_a_softmax_inside_matters_where_its_fixed_step_is_larger_than_the_mean(width, found):
    x, p, out = T("x", (1, width)), T("p", (1, width)), T("out", (1, width))

    assert rules(lint(graph([("SOFTMAX", [x], [p]), ("TANH", [p], [out])], [x], [out]))) == found


def test_a_softmax_at_the_end_is_how_it_should_be():
    x, p, out = T("x", (1, 300)), T("p", (1, 300)), T("out", (300,))

    assert lint(graph([("SOFTMAX", [x], [p]), ("RESHAPE", [p], [out])], [x], [out])) == []


def test_an_operator_that_stays_float_is_told_with_the_way_out():
    x, out = T("x", (1, 4)), T("out", (1, 4))
    whole_x, whole_out = T("x", (1, 4), "int32"), T("out", (1, 4), "int32")

    (found,) = lint(graph([("COS", [x], [out])], [x], [out]))

    assert (found.rule, found.layer) == ("float-only", "COS 0 (out)")
    assert found.fix == "compute it before the model, in the preprocessing"
    assert lint(graph([("COS", [whole_x], [whole_out])], [whole_x], [whole_out])) == []


def test_what_edgekit_writes_otherwise_is_told_only_of_files_that_are_quantized_already():
    x, y, out, q = T("x", (1, 4)), T("y", (1, 4)), T("out", (1, 4)), T("q", (1, 4), "int8", 0.1)
    n, m = T("n", (1, 4), "int32"), T("m", (1, 4), "int32")

    assert lint(graph([("NEG", [x], [y]), ("SQUARE", [y], [out])], [x], [out])) == []
    (found,) = lint(graph([("DEQUANTIZE", [q], [x]), ("NEG", [x], [out])], [q], [out]))
    assert (found.rule, found.layer) == ("float-only", "NEG 1 (out)")
    assert found.fix == "convert the float model with edgekit: it writes a product with -1"
    (found,) = lint(graph([("NEG", [x], [out]), ("NEG", [n], [m])], [x, n], [out, m]))  # whole numbers keep them both
    assert found.rule == "float-only"


def with_signature(*sizes: int) -> Model:
    x, out = T("x", (1, 1, 4)), T("out", (1, 1, 4))
    model = graph([("TANH", [x], [out])], [x], [out])
    tensors = tuple(replace(t, shape_signature=sizes) for t in model.subgraphs[0].tensors)
    return replace(model, subgraphs=(replace(model.subgraphs[0], tensors=tensors),))


def test_a_free_size_is_told_but_not_a_free_batch():
    (found,) = lint(with_signature(-1, -1, 4))

    assert (found.rule, found.layer) == ("dynamic-shape", "input x")
    assert "dimension 1 of [-1, -1, 4] is free: an interpreter takes it as [1, 1, 4]" in found.evidence
    assert lint(with_signature(-1, 1, 4)) == []


def test_operators_newer_than_the_boards_interpreter_are_told():
    model = read_model(classifier())
    newer = tuple(replace(op, version=12) for op in model.subgraphs[0].operators)
    model = replace(model, subgraphs=(replace(model.subgraphs[0], operators=newer),))

    (found,) = runtime_findings(model, load_target("jetson-nano"))

    assert found.rule == "operator-version"
    assert "tflite-runtime==2.13.0" in found.evidence
    assert "FULLY_CONNECTED version 12 (it has up to 10)" in found.evidence
    assert runtime_findings(model, load_target("rpi5"))[0].layer == "RESHAPE 0"  # version 12 of which nobody has
    assert runtime_findings(model, None) == []


# --- ranges ---------------------------------------------------------------------------------------------------------


def boxes_and_scores() -> Model:
    a, b, out = T("boxes", (1, 4)), T("scores", (1, 4)), T("out", (1, 8))
    return graph([("CONCATENATION", [a, b], [out])], [a, b], [out])


def test_coordinates_and_scores_in_one_concatenation_are_told_with_what_is_left_of_the_smaller():
    (found,) = lint(boxes_and_scores(), extremes={"boxes": (0.0, 320.0), "scores": (0.0, 1.0)})

    assert (found.rule, found.severity) == ("unlike-concat", "warning")
    assert (
        "'scores' goes from 0 to 1, 'boxes' from 0 to 320: in one tensor the first keeps 0.8 of 255 steps"
        in found.evidence
    )
    assert lint(boxes_and_scores(), extremes={"boxes": (0.0, 1.0), "scores": (0.0, 1.0)}) == []


def half_quantized(joined: T) -> Model:
    """Two int8 inputs of unlike ranges; one is handed on in int8, as a mixed model's neighbours are."""
    boxes, scores = T("boxes", (1, 4), "int8", scale=1.0), T("scores", (1, 4), "int8", scale=0.001)
    moved = T("moved", (1, 4), "int8", scale=1.0)
    given = [T(f"{tensor.name}_float", (1, 4)) for tensor in (moved, scores)]
    if joined.dtype == "int8":
        return graph(
            [("RESHAPE", [boxes], [moved]), ("CONCATENATION", [moved, scores], [joined])], [boxes, scores], [joined]
        )
    bridges = [("DEQUANTIZE", [a], [b]) for a, b in zip((moved, scores), given, strict=True)]
    steps = [("RESHAPE", [boxes], [moved]), *bridges, ("CONCATENATION", given, [joined])]
    return graph(steps, [boxes, scores], [joined])


def test_a_concatenation_that_a_mixed_model_has_in_float_loses_nothing():
    assert rules(lint(half_quantized(T("out", (1, 8), "int8", scale=1.0)))) == [("unlike-concat", "warning")]
    assert rules(lint(half_quantized(T("out", (1, 8))))) == []


def test_without_ranges_nothing_is_said_of_a_concatenation():
    assert lint(boxes_and_scores()) == []


def chain(length: int) -> Model:
    tensors = [T(f"t{i}", (1, 4)) for i in range(length + 1)]
    return graph([("ABS", [a], [b]) for a, b in itertools.pairwise(tensors)], tensors[:1], tensors[-1:])


def test_a_mask_of_minus_a_billion_is_a_giant():
    ranges = {f"t{i}": (-1.0, 2.0) for i in range(8)} | {"t3": (-1e9, 0.0)}

    (found,) = lint(chain(8), extremes=ranges)

    assert (found.rule, found.layer) == ("giant-range", "ABS 2 (t3)")
    assert "174 dB" in found.evidence


def by_sample(count: int, outlier: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    highs = np.random.default_rng(1).uniform(1.0, 2.0, count)
    highs[5] *= outlier
    return -highs, highs


def test_samples_that_widen_many_tensors_are_named():
    usual = {f"t{i}": by_sample(40) for i in range(9)}
    wide = {f"t{i}": by_sample(40, 20.0) for i in range(9)}

    (found,) = lint(chain(8), extremes=wide)

    assert (found.rule, found.severity) == ("outlier-samples", "warning")
    assert found.evidence.startswith("8 of 8 tensors are 2 to ")
    assert found.evidence.endswith("sample 5 is the widest in 8 of them")
    assert lint(chain(8), extremes=usual) == []
    assert lint(chain(8), extremes=usual | {"t4": by_sample(40, 20.0)}) == []  # one tensor is wide by chance


def test_samples_that_are_all_the_same_to_the_model_are_told():
    flat = {f"t{i}": (np.full(40, -1.0), np.linspace(1.999, 2.0, 40)) for i in range(9)}

    (found,) = lint(chain(8), extremes=flat | {"t0": by_sample(40)})

    assert found.rule == "insensitive"
    assert "all 40 samples look the same to the model" in found.evidence
    full = flat | {"t0": (np.zeros(40), np.ones(40))}  # every sample from 0 to 1: perhaps they are the same
    assert lint(chain(8), extremes=full) == []
    assert rules(lint(chain(8), extremes=full, samples={"x": numbers(40, 4)})) == [("insensitive", "warning")]


def test_samples_that_do_not_fit_the_model_are_refused(tmp_path):
    path = tmp_path / "net.tflite"
    path.write_bytes(classifier(dtype="float32"))

    with pytest.raises(SamplesError, match=r"samples of shape \(n, 3\) do not fit input"):
        as_fed(path, {"image": numbers(2, 3)})
    with pytest.raises(SamplesError, match="the samples are for a, b, the model's inputs are image"):
        as_fed(path, {"a": numbers(2, 3), "b": numbers(2, 3)})


def test_ranges_are_measured_sample_by_sample(tmp_path):
    path = tmp_path / "net.tflite"
    x, w, out = T("x", (1, 2)), T("w", (1, 2), data=np.array([[2.0, -1.0]], np.float32)), T("out", (1, 1))
    path.write_bytes(build([("FULLY_CONNECTED", [x, w], [out])], inputs=[x], outputs=[out]))

    seen = {"anything": np.array([[1, 0], [0, 1], [3, 3]], np.float32)}
    ranges = by_name(measure_extremes(path, as_fed(path, seen)))

    assert {name: [side.tolist() for side in sides] for name, sides in ranges.items() if name != "w"} == {
        "x": [[0, 0, 3], [1, 1, 3]],
        "out": [[2, -1, 3], [2, -1, 3]],
    }


# --- samples --------------------------------------------------------------------------------------------------------


def test_constant_and_repeated_samples_are_counted():
    array = numbers(20, 4)
    array[3] = array[7] = 0.5

    found = lint(chain(1), samples={"x": array})

    assert {f.rule: f.evidence for f in found} == {
        "constant-samples": "2 of 20 samples have the same value everywhere (0.5): 3, 7",
        "repeated-samples": "1 of 20 samples are copies of others, bit by bit",
    }
    assert lint(chain(1), samples={"x": numbers(20, 4)}) == []


def test_samples_beyond_what_a_quantized_input_holds_are_told():
    x, out = T("x", (1, 4), "int8", 1 / 255, -128), T("out", (1, 4), "int8", 1 / 255, -128)
    model = graph([("TANH", [x], [out])], [x], [out])
    pixels = np.random.default_rng(0).uniform(0, 255, (20, 4)).astype(np.float32)

    (found,) = lint(model, samples={"x": pixels})

    assert (found.rule, found.severity) == ("clipped-input", "warning")
    assert lint(model, samples={"x": pixels / 255}) == []


def test_samples_that_were_scaled_for_a_model_that_scales_itself_are_told():
    x, h, out, factor = T("x", (1, 4)), T("h", (1, 4)), T("out", (1, 4)), T("k", (1,), data=np.float32([1 / 255]))
    model = graph([("MUL", [x, factor], [h]), ("TANH", [h], [out])], [x], [out])
    scaled = np.random.default_rng(0).uniform(0, 1, (20, 4)).astype(np.float32)

    (found,) = lint(model, extremes={"h": (0.0, 1 / 255)}, samples={"x": scaled})

    assert found.rule == "scaled-twice"
    assert lint(model, extremes={"h": (0.0, 1.0)}, samples={"x": 255 * scaled}) == []


# --- trials with labels ---------------------------------------------------------------------------------------------


def colours(count: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """Images that are mostly red, green or blue, 0..1."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, count)
    images = rng.uniform(0, 0.4, (count, 4, 4, 3)).astype(np.float32)
    images[np.arange(count), :, :, labels] += 0.5
    return images, labels


def by_colour(images: np.ndarray) -> np.ndarray:
    """The scores of a network that was trained on 0..1: outside of that it sees white."""
    return np.clip(images, -0.2, 1.0).mean(axis=(1, 2)) * (images.max() <= 1.1)


def test_reversed_channels_are_found_with_labels_and_only_then():
    images, labels = colours()

    (found,) = preprocessing_findings(by_colour, images[..., ::-1].copy(), labels)

    assert found.rule == "preprocessing"
    assert "with the channels in reverse order (BGR for RGB)" in found.evidence
    assert preprocessing_findings(by_colour, images, labels) == []
    assert preprocessing_findings(by_colour, images[:20, ..., ::-1].copy(), labels[:20]) == []  # too few to say


def test_another_scale_is_found_with_labels():
    images, labels = colours()

    (found,) = preprocessing_findings(by_colour, 255 * images, labels)

    assert "with values divided by 255" in found.evidence


def test_trying_several_ways_finds_nothing_by_chance():
    images, _ = colours()
    labels = np.random.default_rng(3).integers(0, 3, len(images))

    assert preprocessing_findings(by_colour, images, labels) == []


# --- real models ----------------------------------------------------------------------------------------------------

QUIET = sorted(DATA.rglob("*.tflite")) if DATA.is_dir() else []


@needs_data
@pytest.mark.parametrize("path", QUIET, ids=lambda path: path.stem)
def test_models_that_work_get_no_warning(path):
    warnings = [f for f in inspect_file(path, target="rpi4") if f.severity == "warning"]

    allowed = {"custom-operator"} if "edgetpu" in path.parts else set()
    assert {finding.rule for finding in warnings} <= allowed


@needs_data
def test_samples_of_the_real_networks_are_fine():
    tiny = DATA / "mlperf-tiny"
    with np.load(tiny / "cifar10_unlabelled_500.npz") as arrays:
        images = arrays[arrays.files[0]][:60].astype(np.float32)

    model = tiny / "pretrainedResnet.tflite"
    settled = settle(model, Samples("pictures", {"x": images}, None), {}, np.arange(60), until_settled=False)

    assert [f for f in inspect_float(model, settled, None) if f.severity == "warning"] == []
    assert settled.curve[-1] == (60, 1.0)


SMALL_FILES = [path.read_bytes() for path in QUIET if path.stat().st_size < 60_000]
SOURCES = [bytes(classifier()), bytes(classifier(dtype="float32")), *SMALL_FILES]


@given(
    flips=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=8),
    source=st.sampled_from(SOURCES),
)
@settings(deadline=None, max_examples=150)
def test_a_damaged_file_is_linted_or_refused(flips, source):
    content = bytearray(source)
    for place, value in flips:
        content[place % len(content)] = value
    try:
        model = read_model(bytes(content))
    except NotAModel:
        return

    findings = lint(model, extremes={"in": (0, 1)}, target=NANO, samples={"x": numbers(3, 4)})

    assert all(finding.layer and finding.evidence and finding.fix for finding in findings)


operators = st.sampled_from(
    ["MUL", "ADD", "LOGISTIC", "SOFTMAX", "CONCATENATION", "CONV_2D", "WHILE", "SHAPE", "ELU", "CUSTOM"]
)
places = st.lists(st.integers(-1, 5), max_size=4)


@given(
    steps=st.lists(st.tuples(operators, places, places), max_size=6),
    shapes=st.lists(st.lists(st.integers(-1, 300), max_size=4), min_size=6, max_size=6),
    ranges=st.dictionaries(
        st.integers(0, 5).map(lambda i: f"t{i}"),
        st.tuples(st.lists(st.floats(), max_size=20), st.lists(st.floats(), max_size=20)),
    ),
)
@settings(deadline=None, max_examples=200)
@example([("LOGISTIC", [], [0]), ("MUL", [0, 0], [0])], [[]] * 6, {})  # a gate that reads nothing
def test_no_graph_however_odd_makes_the_lint_crash(steps, shapes, ranges):
    model = read_model(classifier())
    some = model.subgraphs[0].tensors[0]
    tensors = tuple(
        replace(some, index=i, name=f"t{i}", shape=tuple(shape), shape_signature=tuple(shape), constant=i == 5)
        for i, shape in enumerate(shapes)
    )
    template = model.subgraphs[0].operators[0]
    made = tuple(
        replace(template, index=i, name=name, inputs=tuple(a), outputs=tuple(b), custom=name == "CUSTOM", options={})
        for i, (name, a, b) in enumerate(steps)
    )
    odd = replace(
        model, subgraphs=(replace(model.subgraphs[0], tensors=tensors, operators=made, inputs=(0,), outputs=(1,)),)
    )
    extremes = {name: (np.array(low), np.array(high)) for name, (low, high) in ranges.items()}

    for samples in ({"t0": numbers(3, 4)}, {"t0": np.zeros((0, 2))}, {"a": numbers(2), "b": np.array(["x", "y"])}):
        for finding in lint(odd, extremes=extremes, target=CORAL, samples=samples):
            assert all((finding.layer, finding.evidence, finding.fix))


# --- the command ----------------------------------------------------------------------------------------------------


@pytest.fixture
def wave(tmp_path) -> Path:
    x, out = T("x", (1, 4)), T("out", (1, 4))
    path = tmp_path / "net.tflite"
    path.write_bytes(build([("COS", [x], [out])], inputs=[x], outputs=[out]))
    return path


def test_lint_prints_findings_and_with_strict_ends_with_6(wave, capsys):
    assert main(["lint", str(wave)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "warning  float-only: COS 0 (out)",
        "  seen  1 x COS: TensorFlow 2.21 and litert-quantizer 0.11 have no int8 form of it",
        "  do    compute it before the model, in the preprocessing",
    ]

    assert main(["lint", str(wave), "--strict"]) == 6
    assert "without --strict it is only told" in capsys.readouterr().err


def test_lint_looks_at_ranges_where_samples_are_given(wave, tmp_path, capsys):
    np.savez(tmp_path / "s.npz", x=np.zeros((4, 4), np.float32))

    assert main(["lint", str(wave), "--samples", str(tmp_path / "s.npz"), "--json"]) == 0
    assert '"rule": "constant-samples"' in capsys.readouterr().out


def test_a_bundle_is_linted_with_its_own_preprocessing(tiny_bundle, capsys):
    assert main(["lint", str(tiny_bundle.path)]) == 0
    assert capsys.readouterr().out == "nothing found\n"
