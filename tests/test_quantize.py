"""A float .tflite becomes int8 without TensorFlow: calibration, ranges, the choice between them, and the quantizers."""

from __future__ import annotations

import filecmp
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert", reason="pip install 'edgekit[convert]'")

from handmade_model import T, build, classifier, sum_and_product

from edgekit.convert import calibrate, choose, convert, held_out, quantize
from edgekit.convert.calibrate import BINS, Extremes, Histograms, measure_extremes, measure_histograms
from edgekit.convert.describe import full_int8_findings
from edgekit.convert.flatbuffer import read_model
from edgekit.convert.held_out import Tried
from edgekit.convert.modes import BACK_ENDS
from edgekit.convert.policies import best_of
from edgekit.convert.ranges import least_error, min_max, percentile, quantile
from edgekit.convert.tflite_file import fed, take_tflite
from edgekit.errors import BundleError, ConversionError, InputError, NotAModel, SamplesError
from edgekit.runner import load


def random() -> np.random.Generator:
    return np.random.default_rng(5)


@pytest.fixture
def model(tmp_path) -> Path:
    """A float classifier of 8x8 pictures."""
    path = tmp_path / "float.tflite"
    path.write_bytes(classifier(dtype="float32"))
    return path


@pytest.fixture
def feeds() -> dict[str, np.ndarray]:
    return {"image": random().random((50, 1, 8, 8, 1), np.float32)}


# --- calibration ----------------------------------------------------------------------------------------------------


def test_the_private_and_the_public_way_measure_the_same(model, feeds):
    native = measure_extremes(model, feeds)
    public = measure_extremes(model, feeds, native=False)

    assert native.names == public.names == ("flat", "in", "out")
    np.testing.assert_allclose(native.low, public.low, atol=1e-6)
    np.testing.assert_allclose(native.high, public.high, atol=1e-6)


def test_without_the_private_module_the_public_way_is_taken(model, feeds, monkeypatch):
    wanted = measure_extremes(model, feeds)
    monkeypatch.setattr(calibrate, "_native", None)

    np.testing.assert_allclose(measure_extremes(model, feeds).high, wanted.high, atol=1e-6)


@pytest.mark.parametrize("threads", [1, 2, 3, 64])
def test_samples_stay_in_order_however_many_threads_measure(model, feeds, threads):
    extremes = measure_extremes(model, feeds, threads=threads)
    place = extremes.names.index("in")

    np.testing.assert_array_equal(extremes.high[:, place], feeds["image"].max(axis=(1, 2, 3, 4)))
    np.testing.assert_array_equal(extremes.low[:, place], feeds["image"].min(axis=(1, 2, 3, 4)))


def test_several_inputs_are_fed_by_name(tmp_path):
    path = tmp_path / "two.tflite"
    path.write_bytes(sum_and_product())
    a, b = random().normal(size=(2, 10, 1, 3)).astype(np.float32)
    extremes = measure_extremes(path, {"b": b, "a": a})

    np.testing.assert_allclose(extremes.high[:, extremes.names.index("t_product")], (a * b).max(axis=(1, 2)), rtol=1e-6)


def test_integers_go_in_and_only_floats_are_measured(tmp_path):
    into, real, out = T("tokens", (1, 4), "int32"), T("real", (1, 4)), T("sum", (1, 4))
    steps = [("CAST", [into], [real]), ("ADD", [real, real], [out])]
    path = tmp_path / "tokens.tflite"
    path.write_bytes(build(steps, inputs=[into], outputs=[out]))
    tokens = random().integers(0, 50, (6, 1, 4)).astype(np.int32)
    extremes = measure_extremes(path, {"tokens": tokens})

    assert extremes.names == ("real", "sum")
    np.testing.assert_array_equal(extremes.high[:, 1], 2 * tokens.max(axis=(1, 2)))


def test_what_is_not_finite_is_told_with_its_sample(model, feeds):
    feeds["image"][7] = np.inf

    with pytest.raises(ConversionError, match="is not finite on sample 7"):
        measure_extremes(model, feeds)


def test_two_tensors_of_one_name_are_refused(tmp_path):
    into, middle, out = T("x", (1, 4)), T("same", (1, 4)), T("same", (1, 4))
    path = tmp_path / "twice.tflite"
    path.write_bytes(
        build([("ADD", [into, into], [middle]), ("ADD", [middle, into], [out])], inputs=[into], outputs=[out])
    )

    with pytest.raises(NotAModel, match="two tensors are called 'same'"):
        measure_extremes(path, {"x": np.zeros((2, 1, 4), np.float32)})


def test_histograms_count_every_value_once(model, feeds):
    extremes = measure_extremes(model, feeds)
    histograms = measure_histograms(model, feeds, extremes, threads=2)
    place = histograms.names.index("in")
    wanted, _ = np.histogram(feeds["image"], BINS, (histograms.low[place], histograms.high[place]))

    assert histograms.counts.sum(axis=1).tolist() == [50 * 64, 50 * 64, 50 * 10]
    assert np.abs(np.cumsum(histograms.counts[place]) - np.cumsum(wanted)).max() <= 2  # values on the edge of a bin


# --- ranges ---------------------------------------------------------------------------------------------------------


def test_min_max_clips_nothing_and_a_quantile_clips_the_odd_sample():
    low, high = np.full((20, 1), -1.0), np.full((20, 1), 2.0)
    high[3] = 500.0
    extremes = Extremes(("t",), low, high)

    assert min_max(extremes) == {"t": (-1.0, 500.0)}
    assert quantile(extremes, 0.9) == {"t": (-1.0, 2.0)}


def histogram_of(values: np.ndarray) -> Histograms:
    low, high = values.min(), values.max()
    counts, _ = np.histogram(values, BINS, (low, high))
    return Histograms(("t",), np.array([low]), np.array([high]), counts[None])


def test_a_percentile_leaves_that_share_of_values_outside():
    values = random().normal(size=200_000)
    low, high = percentile(histogram_of(values), 99.9)["t"]

    assert np.mean(values > high) == pytest.approx(0.001, abs=3e-4)
    assert np.mean(values < low) == pytest.approx(0.001, abs=3e-4)


@pytest.mark.parametrize("tail", ["normal", "laplace", "long"])
def test_the_least_error_is_about_the_least_that_can_be_found(tail):
    """Beside the error of real rounding and clipping, over a fine grid of ranges."""
    many = {"normal": random().normal(size=50_000), "laplace": random().laplace(size=50_000)}
    values = np.maximum(many.get(tail, random().standard_t(2, size=50_000)), 0)  # as after a ReLU
    low, high = least_error(histogram_of(values))["t"]

    def error(high: float) -> float:
        step = high / 255
        return float(np.square(values - np.clip(np.rint(values / step), 0, 255) * step).mean())

    assert low == 0.0
    assert error(high) <= 1.05 * min(error(values.max() * share) for share in np.linspace(0.05, 1, 200))


def test_a_tensor_that_is_always_the_same_has_a_range_too(model, feeds):
    feeds["image"][...] = 0
    extremes = measure_extremes(model, feeds)
    histograms = measure_histograms(model, feeds, extremes)

    assert histograms.counts[histograms.names.index("in")][0] == 50 * 64
    for ranges in (percentile(histograms, 99.99), least_error(histograms)):
        assert all(low <= high for low, high in ranges.values())


# --- the choice -----------------------------------------------------------------------------------------------------


def tried(policy: str, sqnr: float, median: float, same: float | None = None) -> Tried:
    return Tried(policy, sqnr, median, same, 40)


def test_an_odd_sample_does_not_decide_nor_are_clipped_ones_overlooked():
    collapse = [tried("min-max", -3.4, -3.7), tried("quantile-0.95", 11.4, 28.3)]  # EfficientNet-B0
    clipped = [tried("min-max", 34.7, 36.4), tried("quantile-0.95", 21.6, 36.4)]  # a dilated TCN

    assert best_of(collapse).policy == "quantile-0.95"
    assert best_of(clipped).policy == "min-max"


def test_what_clips_less_is_preferred_unless_it_loses_something():
    assert best_of([tried("min-max", 30.0, 30.0), tried("quantile-0.99", 30.2, 30.2)]).policy == "min-max"
    assert best_of([tried("min-max", 30.0, 30.0), tried("quantile-0.99", 30.6, 30.6)]).policy == "quantile-0.99"


def test_other_classes_than_floats_count_more_than_decibels():
    policies = [tried("min-max", 35.0, 35.0, 0.80), tried("quantile-0.9", 25.0, 30.0, 1.0)]

    assert best_of(policies).policy == "quantile-0.9"


def test_odd_samples_do_not_get_the_whole_range(model, feeds, tmp_path):
    """Two of the fifty samples are a thousand times too large."""
    feeds["image"][[10, 20]] *= 1000
    choice = choose.choose(model, "int8", feeds, tmp_path / "c")

    assert [one.policy for one in choice.tried][:2] == ["min-max", "quantile-0.99"]
    assert choice.tried[0].count == 50
    assert choice.policy != "min-max"
    assert choice.ranges["in"][1] < 2


def test_ranges_that_one_held_out_sample_would_spoil_are_not_widened(model, feeds, tmp_path):
    feeds["image"][4] *= 1000  # judges, and is the only one of its kind
    choice = choose.choose(model, "int8", feeds, tmp_path / "c")

    assert choice.ranges["in"][1] < 2


def test_a_policy_whose_file_litert_refuses_is_out_of_the_running(model, feeds, tmp_path, monkeypatch):
    """Scales can break a kernel's rule; measured on MobileNetV2, with some ranges only."""
    run = held_out.run

    def refusing_the_first(path: Path, *rest, **options):
        if path.name.startswith("min-max-"):
            raise BundleError("no_integer_overflow_from_quantization was not true")
        return run(path, *rest, **options)

    monkeypatch.setattr(held_out, "run", refusing_the_first)
    choice = choose.choose(model, "int8", feeds, tmp_path / "c")

    assert choice.tried[0] == Tried("min-max", -300.0, -300.0, None, 50)
    assert choice.policy != "min-max"


def test_too_few_samples_to_judge_get_min_max(model, feeds, tmp_path):
    choice = choose.choose(model, "int8", {"image": feeds["image"][:9]}, tmp_path / "c")

    assert (choice.policy, choice.tried) == ("min-max", ())


def test_an_unknown_policy_is_refused_with_those_there_are(model, feeds, tmp_path):
    with pytest.raises(InputError, match="no range policy is called 'best'") as caught:
        choose.choose(model, "int8", feeds, tmp_path / "c", policy="best")

    assert "least-error" in caught.value.hint


# --- quantizers -----------------------------------------------------------------------------------------------------


def ranges_of(model: Path, feeds) -> list:
    return [min_max(measure_extremes(model, feeds))]


def test_two_quantizers_make_the_same_answers_of_the_same_ranges(model, feeds, tmp_path):
    pytest.importorskip("litert_quantizer")
    answers = []
    for back_end in ("litert", "litert-quantizer"):
        made = quantize.quantize(model, "int8", ranges_of(model, feeds), tmp_path / back_end, back_ends=[back_end])
        answers.append(load(made.paths[0])(feeds["image"][:, 0]))

        assert full_int8_findings(read_model(made.paths[0])) == []
        assert made.made_by.startswith(("ai-edge-litert 2", "litert-quantizer 0"))

    np.testing.assert_allclose(*answers, atol=2.1 * np.ptp(answers[0]) / 255)


def test_several_ranges_in_one_go_make_the_files_that_each_makes_alone(model, feeds, tmp_path):
    extremes = measure_extremes(model, feeds)
    several = [min_max(extremes), quantile(extremes, 0.9)]
    together = quantize.quantize(model, "int8", several, tmp_path / "both", back_ends=["litert"]).paths
    alone = [
        quantize.quantize(model, "int8", [one], tmp_path / f"one{i}", back_ends=["litert"]).paths[0]
        for i, one in enumerate(several)
    ]

    assert [path.read_bytes() for path in together] == [path.read_bytes() for path in alone]
    assert together[0].read_bytes() != together[1].read_bytes()


def test_what_was_measured_before_is_not_measured_again(model, feeds, tmp_path, monkeypatch):
    extremes = measure_extremes(model, feeds)
    wanted = choose.choose(model, "int8", feeds, tmp_path / "a")
    monkeypatch.setattr(choose, "measure_extremes", None)

    choice = choose.choose(model, "int8", feeds, tmp_path / "b", extremes=extremes)

    assert (choice.policy, choice.path.read_bytes()) == (wanted.policy, wanted.path.read_bytes())


def test_when_one_quantizer_fails_the_next_one_is_taken(model, feeds, tmp_path, monkeypatch):
    pytest.importorskip("litert_quantizer")
    run = quantize._run

    def without_litert(back_end: str, *rest) -> str:
        if back_end == "litert":
            raise ConversionError("litert was killed by SIGSEGV while quantizing: no output", hint="")
        return run(back_end, *rest)

    monkeypatch.setattr(quantize, "_run", without_litert)
    made = quantize.quantize(model, "int8", ranges_of(model, feeds), tmp_path / "q")

    assert made.made_by.startswith("litert-quantizer")


def test_when_all_fail_each_is_heard(model, feeds, tmp_path, monkeypatch):
    def failing(back_end: str, *rest) -> str:
        raise ConversionError(f"{back_end} is out of order", hint="")

    monkeypatch.setattr(quantize, "_run", failing)

    with pytest.raises(
        ConversionError, match=r"no quantizer can make int8 .*litert is out.*tensorflow is out"
    ) as caught:
        quantize.quantize(model, "int8", ranges_of(model, feeds), tmp_path / "q")

    assert "unroll=True" in caught.value.hint


def test_a_child_that_hangs_is_stopped(model, feeds, tmp_path):
    with pytest.raises(ConversionError, match=r"litert did not finish quantizing in 0\.01 s"):
        quantize.quantize(model, "int8", ranges_of(model, feeds), tmp_path / "q", back_ends=["litert"], timeout_s=0.01)


def test_an_operator_that_no_quantizer_takes_is_written_as_one_that_they_do(tmp_path):
    into, out = T("x", (1, 4)), T("y", (1, 4))
    path = tmp_path / "neg.tflite"
    path.write_bytes(build([("NEG", [into], [out])], inputs=[into], outputs=[out], names={"x": "x", "y": "y"}))
    x = random().normal(size=(20, 1, 4)).astype(np.float32)
    choice = choose.choose(path, "int8", {"x": x}, tmp_path / "c", policy="min-max")

    assert [operator.name for operator in read_model(choice.path).subgraphs[0].operators] == ["MUL"]
    np.testing.assert_allclose(load(choice.path)(x[:, 0]), -x[:, 0], atol=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("mode", [mode for mode in BACK_ENDS if mode != "float32"])
def test_every_quantizer_of_a_mode_makes_it(model, feeds, tmp_path, mode):
    """tensorflow needs 5 s to start."""
    pytest.importorskip("litert_quantizer")
    wanted = load(model)(feeds["image"][:, 0])
    for back_end in BACK_ENDS[mode]:
        if back_end == "tensorflow":
            pytest.importorskip("tensorflow")
        ranges = ranges_of(model, feeds) if mode in quantize.WITH_RANGES else []
        made = quantize.quantize(model, mode, ranges, tmp_path / back_end, back_ends=[back_end])
        error = np.abs(load(made.paths[0])(feeds["image"][:, 0]) - wanted).max() / np.abs(wanted).max()

        assert error < (0.15 if mode == "weights4" else 0.03), back_end


# --- a .tflite as the model -----------------------------------------------------------------------------------------


@pytest.fixture
def samples(tmp_path, feeds) -> Path:
    np.savez(tmp_path / "samples.npz", x=feeds["image"][:, 0])
    return tmp_path / "samples.npz"


def test_a_float_tflite_becomes_a_bundle_without_tensorflow(model, samples, tmp_path, monkeypatch):
    monkeypatch.setitem(quantize.BACK_ENDS, "int8", ("litert",))
    result = convert(model, tmp_path / "b", samples, modes=("int8", "float32"))
    manifest = result.bundle.manifest

    assert [variant.name for variant in manifest.variants] == ["int8", "float32"]
    assert manifest.variants[0].ranges in [one.policy for one in result.tried["int8"]]
    assert manifest.variants[1].ranges is None
    assert manifest.made_by["quantizer of int8"].startswith("ai-edge-litert")
    assert "tensorflow" not in manifest.made_by
    assert load(result.bundle.path)(np.zeros((8, 8, 1))).shape == (10,)


def test_the_same_inputs_give_the_same_bytes(model, samples, tmp_path):
    first, second = (convert(model, tmp_path / name, samples).bundle for name in "ab")
    files = [*first.manifest.files, "manifest.json"]

    assert filecmp.cmpfiles(first.path, second.path, files, shallow=False) == (files, [], [])


def test_a_file_without_a_signature_keeps_its_tensors_names_in_every_variant(samples, tmp_path):
    into, out = T("x_in", (1, 8, 8, 1)), T("twice", (1, 8, 8, 1))
    path = tmp_path / "bare.tflite"
    path.write_bytes(build([("ADD", [into, into], [out])], inputs=[into], outputs=[out]))
    result = convert(path, tmp_path / "b", samples, modes=("int8", "float32"))

    assert {tensor.name for v in result.variants for tensor in v.inputs} == {"x_in"}
    assert {tensor.name for v in result.variants for tensor in v.outputs} == {"twice"}


def test_a_quantized_tflite_is_refused(tmp_path):
    path = tmp_path / "int8.tflite"
    path.write_bytes(classifier())

    with pytest.raises(NotAModel, match="is quantized already"):
        take_tflite(path, tmp_path, timeout_s=60)


def test_a_tflite_that_litert_does_not_run_is_refused(model, tmp_path):
    damaged = tmp_path / "damaged.tflite"
    damaged.write_bytes(classifier(dtype="float32", shape=(1, 8, 8, 1)).replace(b"TFL3", b"TFL3", 1))
    whole = bytearray(damaged.read_bytes())
    at = whole.find(b"flat")
    whole[at - 200 : at - 100] = b"\xff" * 100
    damaged.write_bytes(bytes(whole))

    with pytest.raises(NotAModel):
        take_tflite(damaged, tmp_path, timeout_s=60)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (
            {"x": np.zeros((3, 7, 8, 1))},
            r"samples of shape \(n, 7, 8, 1\) do not fit input 'image', which is \(n, 8, 8, 1\)",
        ),
        ({"a": np.zeros((3, 4)), "b": np.zeros((3, 4))}, "samples are for a, b, the model's inputs are image"),
    ],
)
def test_samples_that_do_not_fit_are_refused(model, given, told):
    inputs = load(model).inputs

    with pytest.raises(SamplesError, match=told):
        fed(given, inputs)


@pytest.mark.parametrize(
    ("modes", "told"), [(("int4",), "no mode is called 'int4'"), (("int8", "int8"), "twice"), ((), "no mode")]
)
def test_modes_that_are_not_there_are_refused(model, samples, tmp_path, modes, told):
    with pytest.raises(InputError, match=told):
        convert(model, tmp_path / "b", samples, modes=modes)
