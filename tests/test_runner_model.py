"""The loaded model: what goes in, what comes out, what is refused; plain float64 arithmetic and LiteRT's own are the truth."""

from __future__ import annotations

import dataclasses
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("ai_edge_litert", reason="the runner needs an interpreter")

from handmade_model import (
    classifier,
    dequantize_operator,
    identity,
    make_bundle,
    quantize_operator,
    sum_and_product,
)

from edgekit.bundle import Tensor, read_bundle, write_bundle
from edgekit.errors import BundleError, InputError, PreprocessError
from edgekit.preprocess import Generic, parse_spec
from edgekit.runner import load
from edgekit.runner.interpreter import open_interpreter
from edgekit.runner.tensors import decoder, encoder

DIGITS = np.random.default_rng(3).integers(0, 17, (12, 8, 8, 1)).astype(np.uint8)
SPEC = Generic(scale=1 / 16)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    labels = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    return make_bundle(tmp_path_factory.mktemp("m") / "b", classifier(), raw=DIGITS, spec=SPEC, labels=labels).path


@pytest.fixture(scope="module")
def model(bundle):
    return load(bundle)


def open_model(folder, content, **options):
    file = folder / "model.tflite"
    file.write_bytes(content)
    return load(file, **options)


# --- one sample, a batch, a list -----------------------------------------------------------------------------------


def test_float_in_gives_float_out_near_the_float_model(model, tmp_path):
    in_float = open_model(tmp_path, classifier(dtype="float32"))
    answer = model(DIGITS[0])

    assert answer.dtype == np.float32
    assert answer.shape == (10,)
    assert model.labels[2] == "two"
    assert np.argmax(answer) == np.argmax(in_float(DIGITS[0] / np.float32(16)))


def test_raw_in_and_out_are_what_set_tensor_and_get_tensor_take(model, bundle):
    interpreter = open_interpreter(bundle / "models" / "int8.tflite", 1)
    content = np.random.default_rng(0).integers(-128, 128, (1, 8, 8, 1)).astype(np.int8)
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], content)
    interpreter.invoke()
    wanted = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])

    assert np.array_equal(model(content[0], raw_in=True, raw_out=True), wanted[0])
    assert model(content, raw_in=True, raw_out=True).dtype == np.int8
    assert np.allclose(model(content[0], raw_in=True), wanted[0] * 0.25)


@pytest.mark.parametrize("count", [1, 3, 64, 65, 130])
def test_a_batch_is_its_samples_one_by_one(model, count):
    batch = np.resize(DIGITS, (count, 8, 8, 1))
    one_by_one = np.stack([model(sample) for sample in batch])

    assert np.array_equal(model(batch), one_by_one)
    assert np.array_equal(model(list(batch)), one_by_one)
    assert np.array_equal(model(tuple(batch.astype(np.float64))), one_by_one)


def test_a_batch_in_raw_is_its_samples_one_by_one(model):
    batch = np.random.default_rng(0).integers(-128, 128, (5, 8, 8, 1)).astype(np.int8)
    one_by_one = np.stack([model(sample, raw_in=True, raw_out=True) for sample in batch])

    assert np.array_equal(model(batch, raw_in=True, raw_out=True), one_by_one)
    assert np.array_equal(model(list(batch), raw_in=True, raw_out=True), one_by_one)


@pytest.mark.parametrize(("raw_out", "dtype"), [(False, np.float32), (True, np.int8)])
def test_a_batch_of_none_gives_no_answers_of_the_right_shape(model, raw_out, dtype):
    answer = model(DIGITS[:0], raw_out=raw_out)

    assert answer.shape == (0, 10)
    assert answer.dtype == dtype


def test_nested_lists_are_a_sample(tmp_path):
    model = open_model(tmp_path, identity())

    assert model([1, 2.5, -3, 0]).tolist() == [1, 2.5, -3, 0]
    assert model([[1, 2.5, -3, 0]] * 2).shape == (2, 4)
    assert model(list(np.float32([1, 2.5, -3, 0]))).tolist() == [1, 2.5, -3, 0]


def test_a_sample_is_not_changed_and_answers_do_not_change_later(model):
    sample = DIGITS[0].astype(np.float32)
    before = sample.copy()
    first = model(sample)
    kept = first.copy()
    model(DIGITS[1])

    assert np.array_equal(sample, before)
    assert np.array_equal(first, kept)


def test_a_view_that_is_not_contiguous_is_read_as_any_other(model):
    turned = DIGITS[0, ::-1, ::-1]

    assert np.array_equal(model(turned), model(turned.copy()))
    assert np.array_equal(model(turned.astype(np.float32)[:]), model(turned.copy()))


# --- several inputs and outputs ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    return open_model(tmp_path_factory.mktemp("two"), sum_and_product())


def test_inputs_are_given_and_outputs_come_back_by_name(two):
    answer = two({"b": np.float32([4, 5, 6]), "a": [1, 2, 3]})

    assert {name: values.tolist() for name, values in answer.items()} == {"sum": [5, 7, 9], "product": [4, 10, 18]}


def test_batches_by_name_are_their_samples_one_by_one(two):
    a, b = np.random.default_rng(0).standard_normal((2, 70, 3)).astype(np.float32)
    answer = two({"a": a, "b": list(b)})

    assert np.array_equal(answer["sum"], a + b)
    assert np.array_equal(answer["product"], a * b)


def test_a_model_with_one_input_takes_it_by_name_too(model):
    assert np.array_equal(model({"image": DIGITS[0]}), model(DIGITS[0]))
    assert np.array_equal(model({"image": DIGITS}), model(DIGITS))


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        (np.zeros((2, 3)), "takes the inputs a, b"),
        ({"a": [1, 2, 3]}, "takes the inputs a, b"),
        ({"a": [1, 2, 3], "b": [1, 2, 3], "c": [1, 2, 3]}, "takes the inputs a, b"),
        ({"a": np.zeros((2, 3)), "b": np.zeros((3, 3))}, "different lengths"),
        ({"a": np.zeros((2, 3)), "b": np.zeros(3)}, "different lengths"),
        ({"a": np.zeros(3), "b": np.zeros(4)}, "'b' wants shape (3,) or a batch (n, 3), got (4,)"),
    ],
)
def test_inputs_by_name_that_do_not_fit_are_refused(two, inputs, said):
    with pytest.raises(InputError) as refused:
        two(inputs)

    assert said in str(refused.value)
    assert refused.value.hint


# --- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (np.zeros((8, 8)), "wants shape (8, 8, 1) or a batch (n, 8, 8, 1), got (8, 8)"),
        (np.zeros((2, 2, 8, 8, 1)), "got (2, 2, 8, 8, 1)"),
        (np.zeros((64,), np.uint8), "got (64,)"),
        ([DIGITS[0], DIGITS[0, :7]], "got (7, 8, 1)"),
        ([np.zeros((1, 8, 8, 1))], "got (1, 8, 8, 1)"),
        ([[1, 2], [3]], "not an array of numbers"),
        (None, "holds object, not numbers"),
        ("digit", "holds <U5, not numbers"),
        ({"x": DIGITS[0]}, "takes the inputs image"),
        (np.zeros((8, 8, 1), complex), "complex128, wanted numbers"),
    ],
)
@pytest.mark.filterwarnings("ignore:Creating an ndarray from ragged")
def test_a_sample_that_does_not_fit_is_refused(model, given, said):
    with pytest.raises(InputError) as refused:
        model(given)

    assert said in str(refused.value)
    assert refused.value.hint


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
def test_raw_input_of_another_dtype_is_refused(model, dtype):
    with pytest.raises(InputError, match="raw input 'image' must be int8"):
        model(np.zeros((8, 8, 1), dtype), raw_in=True)
    with pytest.raises(InputError, match="raw input 'image' must be int8"):
        model(np.zeros((3, 8, 8, 1), dtype), raw_in=True)


def test_after_a_refusal_the_model_still_answers(model):
    for bad in (np.zeros((8, 8, 1), complex), [DIGITS[0], np.zeros((8, 8, 1), complex)]):
        with pytest.raises(InputError):
            model(bad)

    assert model(DIGITS[0]).shape == (10,)


@pytest.mark.parametrize("options", [{"lanes": 0}, {"threads": 0}, {"threads": -1}])
def test_a_model_without_threads_or_lanes_is_refused_rather_than_waited_for(bundle, options):
    with pytest.raises(InputError, match="at least one"):
        load(bundle, **options)


# --- integers and NaN ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["int32", "int64", "uint8", "bool"])
def test_integers_without_a_scale_go_in_as_they_are(dtype, tmp_path):
    model = open_model(tmp_path, identity(dtype, scale=None))

    for given_as in (dtype, "int64", "uint8", "float32"):
        answer = model(np.array([0, 1, 1, 0], given_as))
        assert answer.dtype == dtype
        assert answer.tolist() == [0, 1, 1, 0]
    assert model(np.array([[0, 1, 1, 0]] * 3)).tolist() == [[0, 1, 1, 0]] * 3


@pytest.mark.parametrize(
    "values",
    [
        np.array([0.5, 0, 0, 0]),
        np.array([np.nan, 0, 0, 0]),
        np.array([2**31, 0, 0, 0]),
        np.array([2**32, 0, 0, 0]),
        np.array([-(2**40), 0, 0, 0]),
        np.array([2**64 - 1, 0, 0, 0], np.uint64),
        np.array([1e30, 0, 0, 0]),
    ],
    ids=str,
)
def test_a_number_that_an_integer_input_cannot_hold_is_refused_and_not_wrapped_around(values, tmp_path):
    model = open_model(tmp_path, identity("int32", scale=None))

    with pytest.raises(InputError, match="'in' wants int32, got"):
        model(values)


def test_a_preprocessed_input_of_plain_integers_is_rounded_and_clamped():
    tensor = Tensor("x", "x", (1, 4), "uint8", None, None)
    spec = parse_spec({"kind": "generic", "scale": 2.0, "offset": -1.3})

    assert encoder(tensor, spec)(np.array([0, 1, 7, 200])).tolist() == [0, 1, 13, 255]


def test_a_nan_reaches_a_float_model_and_becomes_the_lowest_value_of_an_integer_one(tmp_path):
    in_float = open_model(tmp_path, identity("float32", scale=None))
    in_int8 = open_model(tmp_path, identity("int8"))
    given = np.array([np.nan, 1, np.inf, -np.inf])

    assert np.array_equal(in_float(given), np.float32(given), equal_nan=True)
    assert in_int8(given, raw_out=True).tolist() == [-128, -1, 127, -128]


# --- scale and zero point ------------------------------------------------------------------------------------------

QUANTIZED = [("int8", 0.1, 3), ("int8", 1 / 255, -128), ("uint8", 0.02, 117), ("int16", 3e-4, 0)]
finite = st.floats(-1e4, 1e4, width=32)


def in_float64(values, dtype, scale, zero_point):
    """The definition, and how far each value is from where two integers are equally near."""
    exact = values.astype(np.float64) / np.float64(np.float32(scale)) + zero_point
    limits = np.iinfo(dtype)
    return np.clip(np.rint(exact), limits.min, limits.max), np.abs(exact - np.floor(exact) - 0.5)


@pytest.mark.parametrize(("dtype", "scale", "zero_point"), QUANTIZED)
@settings(max_examples=40, deadline=None)
@given(values=st.lists(finite, min_size=4, max_size=4))
def test_quantizing_agrees_with_float64(values, dtype, scale, zero_point):
    tensor = Tensor("x", "x", (1, 4), dtype, float(np.float32(scale)), zero_point)
    values = np.array(values, np.float32)
    made = encoder(tensor, Generic())(values)
    wanted, from_tie = in_float64(values, dtype, scale, zero_point)

    assert made.dtype == dtype
    assert np.abs(made - wanted).max() <= 1
    # float32 has 24 bits: next to a tie it may fall on the other side
    assert np.array_equal(made[from_tie > 0.01], wanted[from_tie > 0.01])


@pytest.mark.parametrize(("dtype", "scale", "zero_point"), [q for q in QUANTIZED if q[0] != "int16"])
@pytest.mark.filterwarnings("ignore:overflow")
def test_quantizing_is_that_of_litert_to_the_bit(dtype, scale, zero_point, tmp_path):
    random = np.random.default_rng(0)
    ties = (np.arange(-300, 300) + 0.5) * np.float32(scale)
    special = [0, -0.0, 1e9, -1e9, 3e38, -3e38, np.inf, -np.inf, 1e-40]
    values = np.concatenate([random.standard_normal(4096 - 609) * 60 * scale, ties, special]).astype(np.float32)
    wanted = open_model(tmp_path, quantize_operator(dtype, scale, zero_point))(values, raw_out=True)
    tensor = Tensor("x", "x", (1, 4096), dtype, float(np.float32(scale)), zero_point)

    assert np.array_equal(encoder(tensor, Generic())(values), wanted)


@pytest.mark.parametrize(("dtype", "scale", "zero_point"), [q for q in QUANTIZED if q[0] != "int16"])
def test_dequantizing_is_that_of_litert_to_the_bit(dtype, scale, zero_point, tmp_path):
    values = np.arange(256, dtype=np.uint8).view(dtype)
    wanted = open_model(tmp_path, dequantize_operator(dtype, scale, zero_point))(values, raw_in=True)
    tensor = Tensor("x", "x", (1, 256), dtype, float(np.float32(scale)), zero_point)

    assert np.array_equal(decoder(tensor)(values), wanted)
    assert np.allclose(wanted, (values.astype(np.float64) - zero_point) * np.float32(scale), rtol=1e-6)


@pytest.mark.parametrize("dtype", ["int16", "int32"])
@pytest.mark.filterwarnings("ignore:overflow")
def test_wider_integers_are_quantized_over_their_whole_range(dtype):
    tensor = Tensor("x", "x", (1, 3), dtype, 1.0, 0)
    limits = np.iinfo(dtype)
    made = encoder(tensor, Generic())(np.array([-1e30, 5, 1e30]))

    assert made.tolist() == [limits.min, 5, limits.max]
    assert decoder(tensor)(made).dtype == np.float32


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(QUANTIZED),
    st.floats(1e-3, 1e3).flatmap(lambda size: st.sampled_from([size, -size])),
    st.floats(-1e3, 1e3),
)
def test_the_table_for_uint8_holds_what_the_float_path_computes(quantized, scale, offset):
    dtype, step, zero_point = quantized
    tensor = Tensor("x", "x", (1, 256), dtype, float(np.float32(step)), zero_point)
    encode = encoder(tensor, Generic(scale=scale, offset=offset))
    every = np.arange(256, dtype=np.uint8)

    assert np.array_equal(encode(every), encode(every.astype(np.float32)))
    assert np.array_equal(encode(every), encode(every.astype(np.int64)))


def test_int8_answers_go_through_a_table_that_holds_every_value():
    tensor = Tensor("x", "x", (1, 256), "int8", 0.25, -7)
    every = np.arange(-128, 128).astype(np.int8)

    assert np.array_equal(decoder(tensor)(every), (every.astype(np.float32) + 7) * np.float32(0.25))
    assert decoder(tensor)(np.int8(-1)) == np.float32(1.5)


# --- images and audio ----------------------------------------------------------------------------------------------


def test_an_image_is_resized_and_a_batch_or_a_list_of_images_is_one(tmp_path):
    spec = parse_spec({"kind": "image", "height": 8, "width": 8, "range": [0, 1], "colour": "gray", "antialias": True})
    photos = np.random.default_rng(0).integers(0, 256, (3, 20, 30, 3)).astype(np.uint8)
    model = load(make_bundle(tmp_path / "b", classifier(), raw=photos, spec=spec).path)
    one_by_one = np.stack([model(photo) for photo in photos])

    assert np.array_equal(model(photos), one_by_one)
    assert np.array_equal(model([photos[0], photos[1][:, :, :1].repeat(3, axis=2)])[0], one_by_one[0])
    assert model([photos[0], photos[1, :9, :9]]).shape == (2, 10)
    with pytest.raises(PreprocessError, match="float64, wanted uint8"):
        model(photos / 255)


def test_a_recording_is_one_sample_and_a_list_of_them_is_a_batch(tmp_path):
    fields = {"kind": "audio", "feature": "mfcc", "sample_rate": 8000, "window": 64, "hop": 64, "frames": 8}
    spec = parse_spec({**fields, "coefficients": 8, "mel_bins": 8, "fmin": 100})
    sounds = np.random.default_rng(0).integers(-9999, 9999, (2, 512)).astype(np.int16)
    model = load(make_bundle(tmp_path / "b", classifier((1, 8, 8)), raw=list(sounds), spec=spec).path)

    assert model(sounds[0]).shape == (10,)
    assert np.array_equal(model(list(sounds)), np.stack([model(sound) for sound in sounds]))
    assert np.array_equal(model(np.stack([sounds[0]] * 2, axis=1)), model(sounds[0]))


# --- threads and lanes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lanes", [1, 3])
def test_eight_threads_get_the_answers_that_one_thread_gets(bundle, lanes):
    model = load(bundle, threads=1, lanes=lanes)
    wanted = [model(sample) for sample in DIGITS]
    wrong, failures = [], []

    def call(offset):
        try:
            for i in range(1000):
                at = (offset + i) % len(DIGITS)
                if not np.array_equal(model(DIGITS[at]), wanted[at]):
                    wrong.append(at)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=call, args=(offset,)) for offset in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failures == []
    assert wrong == []


def test_more_lanes_give_the_same_answers(bundle):
    assert np.array_equal(load(bundle, lanes=3)(DIGITS), load(bundle)(DIGITS))


# --- bundles that are not what they say ----------------------------------------------------------------------------


def changed(bundle, folder, **changes):
    """The same files under a manifest with changes, as somebody would make who edits it by hand."""
    old = read_bundle(bundle)
    contents = {name: old.file(name).read_bytes() for name in old.manifest.files}
    contents |= changes.pop("contents", {})
    return write_bundle(folder / "changed", dataclasses.replace(old.manifest, **changes), contents).path


def test_a_damaged_model_or_label_file_is_refused_by_its_hash(bundle, tmp_path):
    for name in ("models/int8.tflite", "labels.txt"):
        copy = changed(bundle, tmp_path)
        content = bytearray((copy / name).read_bytes())
        content[len(content) // 2] ^= 1
        (copy / name).write_bytes(content)

        with pytest.raises(BundleError, match="is damaged: its hash is not the manifest's"):
            load(copy)


def test_a_file_that_is_no_model_is_refused_with_the_runtime_and_its_reason(bundle, tmp_path):
    for content in (b"not a model", b"", (bundle / "models" / "int8.tflite").read_bytes()[:-200]):
        (tmp_path / "x.tflite").write_bytes(content)

        with pytest.raises(BundleError, match=r"ai-edge-litert .* cannot load .*x\.tflite") as refused:
            load(tmp_path / "x.tflite")
        assert "\n" not in str(refused.value)


def test_preprocessing_that_is_not_the_measured_one_is_refused(bundle, tmp_path):
    other = changed(bundle, tmp_path, preprocess={"image": {"kind": "generic", "scale": 1.0, "offset": 0.0}})

    with pytest.raises(BundleError, match="the preprocessing of 'image' is not the measured one"):
        load(other)


def test_preprocessing_that_makes_no_sense_is_the_bundles_fault(bundle, tmp_path):
    other = changed(bundle, tmp_path, preprocess={"image": {"kind": "smell"}})

    with pytest.raises(BundleError, match="kind is 'smell'"):
        load(other)


@pytest.mark.parametrize("changes", [{"tensor": "elsewhere"}, {"shape": (1, 8, 8, 2)}, {"dtype": "uint8"}])
def test_a_tensor_that_the_file_does_not_have_is_refused(bundle, tmp_path, changes):
    (variant,) = read_bundle(bundle).manifest.variants
    variant = dataclasses.replace(variant, inputs=(dataclasses.replace(variant.inputs[0], **changes),))

    with pytest.raises(BundleError, match=r"int8\.tflite has no tensor"):
        load(changed(bundle, tmp_path, variants=(variant,)))


def test_labels_that_are_no_text_are_refused(bundle, tmp_path):
    with pytest.raises(BundleError, match="not UTF-8"):
        load(changed(bundle, tmp_path, contents={"labels.txt": b"\xff\xfe"}))


@pytest.mark.parametrize("threads", ["two", 0, True, 1.5])
def test_threads_that_are_no_number_are_refused(tmp_path, threads):
    made = make_bundle(tmp_path / "b", classifier(), raw=DIGITS, spec=SPEC, threads=threads)

    with pytest.raises(BundleError, match=r"wants .* threads"):
        load(made.path)


def test_an_unknown_variant_is_refused_with_those_there_are(bundle):
    with pytest.raises(InputError, match="no variant 'fp16'") as refused:
        load(bundle, variant="fp16")

    assert "int8" in refused.value.hint
