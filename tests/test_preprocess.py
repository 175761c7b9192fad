"""The input contract: what a spec may say, and what becomes of a sample. Pillow is the outside truth for resizing."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.errors import PreprocessError
from edgekit.preprocess import Audio, Generic, Image, affine, apply, output_shape, parse_spec, spec_digest, spec_fields

IMAGES = Path(__file__).parents[1].parent / "shared" / "data" / "images"

SIZE = {"kind": "image", "height": 4, "width": 6, "range": [0, 255]}
IMAGE = {**SIZE, "antialias": False}
AUDIO = {"kind": "audio", "feature": "log-mel", "sample_rate": 16000, "window": 480, "hop": 320, "frames": 49}


def image(**changes):
    filters = changes.get("resize") != "none" and changes.get("filter") != "nearest"
    return parse_spec({**(IMAGE if filters else SIZE), **changes})


def audio(**changes):
    return parse_spec({**AUDIO, **changes})


def picture(height, width, channels=3, *, seed=0):
    """Smooth waves and some noise: the first show a resize that is half a pixel off, the second a wrong filter."""
    y, x, c = np.ogrid[:height, :width, :channels]
    waves = 110 + 80 * np.sin(x / 17 + c) * np.cos(y / 23 - c)
    return (waves + np.random.default_rng(seed).integers(0, 60, (height, width, channels))).astype(np.uint8)


def tone(samples=16000, *, seed=0):
    noise = np.random.default_rng(seed).standard_normal(samples)
    return (0.4 * np.sin(np.arange(samples) * 0.3) + 0.05 * noise).astype(np.float32)


# --- specs ---------------------------------------------------------------------------------------------------------


def test_a_hand_written_spec_gets_its_defaults_written_out():
    fields = spec_fields(
        parse_spec({"kind": "image", "height": 224, "width": 192, "range": [-1, 1], "antialias": False})
    )

    assert fields == {
        "kind": "image",
        "height": 224,
        "width": 192,
        "mean": [127.5],
        "std": [127.5],
        "resize": "stretch",
        "filter": "bilinear",
        "antialias": False,
        "crop": 1.0,
        "colour": "rgb",
        "layout": "nhwc",
        "pad": 0,
    }


def test_an_audio_spec_gets_the_next_power_of_two_and_half_the_sample_rate():
    spec = audio()

    assert (spec.fft, spec.fmax) == (512, 8000.0)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "kind is None"),
        ({"kind": ["image"]}, "kind is"),
        ({"kind": "video"}, "'image', 'audio', 'generic'"),
        ({"kind": "generic", "scale": True}, "scale is True"),
        ({"kind": "generic", "scale": 0}, "scale is 0.0"),
        ({"kind": "generic", "scale": math.nan}, "scale is nan"),
        ({"kind": "generic", "offset": math.inf}, "offset is inf"),
        ({"kind": "generic", "scale": 10**5000}, "scale is"),
        ({"kind": "generic", "scal": 1.0}, "a key is 'scal'"),
        ({"kind": "generic", 3: 1.0}, "a key is 3"),
        ({**IMAGE, "height": 0}, "height is 0, but must be a whole number, 1 to 8192"),
        ({**IMAGE, "height": 4.0}, "height is 4.0"),
        ({**IMAGE, "color": "rgb"}, "a key is 'color'"),
        ({**IMAGE, "colour": "RGB"}, "colour is 'RGB', but must be one of 'rgb', 'bgr', 'gray'"),
        ({**IMAGE, "antialias": 1}, "antialias is 1"),
        ({**IMAGE, "filter": "nearest", "antialias": True}, "filter 'nearest' has no antialias"),
        ({**IMAGE, "antialias": None}, "antialias is missing"),
        ({**SIZE, "resize": "none", "filter": "nearest"}, "resize 'none' does not filter"),
        ({**SIZE, "resize": "none", "antialias": True}, "resize 'none' does not filter"),
        ({**IMAGE, "pad": 128}, "only resize 'fit' pads"),
        ({**IMAGE, "crop": 0}, "crop is 0"),
        ({**IMAGE, "mean": [0]}, "range and mean/std exclude each other"),
        ({**IMAGE, "range": [1, 0]}, "lo < hi"),
        ({**IMAGE, "range": [0, 1, 2]}, "a list of 2 numbers"),
        ({**IMAGE, "range": 255}, "a list of 2 numbers"),
        ({"kind": "image", "height": 4, "width": 4}, "needs range, or mean and std"),
        ({"kind": "image", "height": 4, "mean": [0], "std": [1]}, "width is missing"),
        ({"kind": "image", "height": 4, "width": 4, "mean": [0, 0], "std": [1]}, "1 or 3 numbers"),
        ({"kind": "image", "height": 4, "width": 4, "mean": [0], "std": [0]}, "std is 0"),
        ({"kind": "image", "height": 4, "width": 4, "mean": 0, "std": [1]}, "mean is 0"),
        (
            {"kind": "image", "height": 4, "width": 4, "mean": [0], "std": [1, 1, 1], "colour": "gray"},
            "a list of 1 number",
        ),
        ({**AUDIO, "feature": "mel"}, "feature is 'mel'"),
        ({**AUDIO, "fft": 256}, "fft is 256, but must be the window, 480"),
        ({**AUDIO, "fmax": 8001}, "at most half the sample rate"),
        ({**AUDIO, "fmin": 8000}, "at least 1 Hz below fmax"),
        ({**AUDIO, "feature": "mfcc"}, "coefficients is 0, but must be 1 to mel_bins, 40"),
        ({**AUDIO, "coefficients": 10}, "only feature 'mfcc' has coefficients"),
        ({**AUDIO, "feature": "waveform", "mel_bins": 64}, "feature 'waveform' has no spectrum"),
        ({**AUDIO, "log_offset": 0}, "log_offset is 0"),
        ({**AUDIO, "frames": 1 << 20}, "at most 131072 with this fft"),
        ({**AUDIO, "window": 1 << 20}, "fft is 1048576"),
    ],
)
def test_a_spec_that_makes_no_sense_is_refused_by_key(fields, said):
    with pytest.raises(PreprocessError) as refused:
        parse_spec(fields)

    assert said in str(refused.value)
    assert refused.value.hint


@pytest.mark.parametrize("fields", [None, [], "image", 3])
def test_a_spec_that_is_no_table_is_refused(fields):
    with pytest.raises(PreprocessError, match="a table of keys"):
        parse_spec(fields)


def test_the_constructor_checks_as_the_parser_does():
    with pytest.raises(PreprocessError, match="width is -1"):
        Image(height=4, width=-1, mean=(0.0,), std=(1.0,), antialias=False)


@pytest.mark.parametrize("resize", ["stretch", "fit", "cover"])
def test_bilinear_must_say_whether_it_antialiases_because_frameworks_differ(resize):
    with pytest.raises(PreprocessError, match="antialias is missing") as refused:
        parse_spec({**SIZE, "resize": resize})

    for framework in ("Pillow", "torchvision", "Keras", "tf.image.resize", "OpenCV"):
        assert framework in refused.value.hint


@pytest.mark.parametrize("changes", [{"filter": "nearest"}, {"resize": "none"}])
def test_where_nothing_is_filtered_antialias_is_left_out_and_written_as_false(changes):
    spec = parse_spec({**SIZE, **changes})

    assert spec_fields(spec)["antialias"] is False
    assert parse_spec(spec_fields(spec)) == spec


def test_antialias_changes_what_the_model_sees():
    raw = picture(100, 120)

    assert not np.allclose(apply(image(antialias=True), raw), apply(image(antialias=False), raw), atol=5)


def test_range_and_the_mean_and_std_that_it_means_are_the_same_spec():
    by_range = image(range=[-1, 1])

    assert by_range == Image(height=4, width=6, mean=(127.5,), std=(127.5,), antialias=False)
    assert image(range=[0, 1]) == Image(height=4, width=6, mean=(0.0,), std=(255.0,), antialias=False)


def test_the_digest_is_that_of_the_canonical_json_and_does_not_move():
    spec = Generic(scale=0.5, offset=-0.0)
    text = '{"kind":"generic","offset":0.0,"scale":0.5}'

    assert spec_digest(spec) == hashlib.sha256(text.encode()).hexdigest()
    assert spec_digest(image(range=[-1, 1])) == "0eec39a1db395dd625fc101451249e673fb099476abe79f740276fd6a3e80bc3"
    assert spec_digest(audio()) == "8c63a33b1752f443a69ac235a6e82884bdd1e985c7002d8762236f765414ee12"


def test_equal_specs_written_differently_have_equal_digests():
    a = parse_spec({"kind": "generic", "offset": 0, "scale": 1})
    b = parse_spec({"scale": 1.0, "kind": "generic", "offset": -0.0})

    assert spec_digest(a) == spec_digest(b) == spec_digest(Generic())


def test_only_a_generic_spec_is_affine():
    assert affine(Generic(scale=2.0, offset=1.0)) == (2.0, 1.0)
    assert affine(image()) is None
    assert affine(audio()) is None


finite = st.floats(-1e6, 1e6)


@st.composite
def specs(draw):
    kind = draw(st.sampled_from(["generic", "image", "audio"]))
    if kind == "generic":
        return Generic(draw(finite.filter(lambda scale: abs(scale) > 1e-30)), draw(finite))
    if kind == "image":
        colour = draw(st.sampled_from(["rgb", "bgr", "gray"]))
        count = st.sampled_from([1] if colour == "gray" else [1, 3])
        resize = draw(st.sampled_from(["stretch", "fit", "cover", "none"]))
        filter = "bilinear" if resize == "none" else draw(st.sampled_from(["nearest", "bilinear"]))
        return Image(
            height=draw(st.integers(1, 12)),
            width=draw(st.integers(1, 12)),
            mean=tuple(draw(finite) for _ in range(draw(count))),
            std=tuple(draw(st.floats(1e-3, 1e6)) for _ in range(draw(count))),
            resize=resize,
            filter=filter,
            antialias=resize != "none" and filter == "bilinear" and draw(st.booleans()),
            crop=draw(st.floats(1e-3, 1.0)),
            colour=colour,
            layout=draw(st.sampled_from(["nhwc", "nchw"])),
            pad=draw(st.integers(0, 255)) if resize == "fit" else 0,
        )
    feature = draw(st.sampled_from(["waveform", "log-mel", "mfcc"]))
    shape = {name: draw(st.integers(1, 40)) for name in ("window", "hop", "frames")}
    rest = {"mean": draw(finite), "std": draw(st.floats(1e-3, 1e6))}
    if feature != "waveform":
        rest["mel_bins"] = draw(st.integers(1, 20))
        rest["fmin"] = draw(st.floats(0, 1000))
        rest["log_offset"] = draw(st.floats(1e-9, 1))
    if feature == "mfcc":
        rest["coefficients"] = draw(st.integers(1, rest["mel_bins"]))
    return Audio(feature=feature, sample_rate=draw(st.integers(4000, 48000)), **shape, **rest)


@settings(max_examples=50, deadline=None)
@given(specs())
def test_a_spec_survives_being_written_as_json_and_read_again(spec):
    again = parse_spec(json.loads(json.dumps(spec_fields(spec))))

    assert again == spec
    assert spec_digest(again) == spec_digest(spec)


shapes = st.lists(st.integers(0, 9), max_size=4).map(tuple)


@settings(max_examples=60, deadline=None)
@given(specs(), shapes, st.sampled_from([np.uint8, np.int16, np.float32, np.complex64]))
def test_a_sample_becomes_float32_of_the_promised_shape_or_is_refused(spec, shape, dtype):
    raw = np.ones(shape, dtype)
    try:
        made = apply(spec, raw)
    except PreprocessError:
        return

    assert made.dtype == np.float32
    assert made.shape == output_shape(spec, shape)
    assert not np.shares_memory(made, raw)


odd = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.binary(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=4,
)
keys = st.sampled_from(
    sorted({f.name for kind in (Image, Audio, Generic) for f in dataclasses.fields(kind)} | {"range"})
)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([IMAGE, AUDIO, {"kind": "generic"}]),
    st.dictionaries(keys | st.just("kind") | st.text(max_size=3) | st.integers(), odd, max_size=3),
    st.sets(keys, max_size=1),
)
def test_a_hostile_spec_is_read_or_refused_and_nothing_else(good, changes, missing):
    fields = {name: value for name, value in {**good, **changes}.items() if name not in missing}
    try:
        spec = parse_spec(fields)
    except PreprocessError:
        return

    assert parse_spec(spec_fields(spec)) == spec


# --- generic -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.float32, np.float64, np.bool_])
def test_generic_scales_and_offsets_any_shape(dtype):
    raw = np.ones((2, 3, 1), dtype)
    made = apply(Generic(scale=0.5, offset=-2.0), raw)

    assert made.dtype == np.float32
    assert np.array_equal(made, np.full((2, 3, 1), -1.5, np.float32))
    assert np.all(raw == 1)


# --- images --------------------------------------------------------------------------------------------------------


def real_pictures():
    if not IMAGES.is_dir():
        return [pytest.param(None, marks=pytest.mark.skip(reason="shared/data/images is not beside this checkout"))]
    return [pytest.param(path, id=path.stem) for path in sorted(IMAGES.glob("*.bmp"))]


@pytest.mark.parametrize("path", real_pictures())
@pytest.mark.parametrize("size", [(224, 224), (96, 160), (700, 800)])
def test_an_antialiased_photograph_is_pillows_to_within_a_level(path, size):
    pillow = pytest.importorskip("PIL.Image", reason="Pillow is the truth here")
    photo = pillow.open(path).convert("RGB")
    made = apply(image(height=size[0], width=size[1], antialias=True), np.asarray(photo))

    wanted = np.asarray(photo.resize(size[::-1], pillow.Resampling.BILINEAR), np.float32)
    assert np.abs(made - wanted).max() < 1.001  # Pillow rounds twice, by up to half a level


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(64, 50), (300, 200), (101, 203), (1, 1), (37, 400)])
def test_an_antialiased_drawing_is_pillows_to_within_a_level(size, channels):
    pillow = pytest.importorskip("PIL.Image", reason="Pillow is the truth here")
    raw = picture(101, 203, channels)
    made = apply(image(height=size[0], width=size[1], antialias=True, colour="rgb" if channels == 3 else "gray"), raw)

    drawing = pillow.fromarray(raw if channels == 3 else raw[:, :, 0])
    wanted = np.asarray(drawing.resize(size[::-1], pillow.Resampling.BILINEAR), np.float32).reshape(*size, channels)
    assert np.abs(made - wanted).max() < 1.001  # Pillow rounds twice, by up to half a level


@pytest.mark.parametrize("size", [(64, 50), (300, 200), (7, 203), (1, 1)])
def test_nearest_takes_the_very_pixels_that_pillow_takes(size):
    pillow = pytest.importorskip("PIL.Image", reason="Pillow is the truth here")
    raw = picture(101, 203)
    made = apply(image(height=size[0], width=size[1], filter="nearest"), raw)

    wanted = pillow.fromarray(raw).resize(size[::-1], pillow.Resampling.NEAREST)
    assert np.array_equal(made, np.asarray(wanted))


def test_bilinear_without_antialias_reads_two_pixels_around_each_centre():
    row = np.array([[0, 10, 20, 30, 40, 250, 60, 70]], np.uint8)
    made = apply(image(height=1, width=2, colour="gray"), row)

    assert made.ravel().tolist() == [15.0, 155.0]  # centres at 1.5 and 5.5: (10 + 20) / 2 and (250 + 60) / 2


def test_bilinear_enlarges_by_holding_the_edges():
    made = apply(image(height=1, width=4, colour="gray"), np.array([[0, 100]], np.uint8))

    assert made.ravel().tolist() == [0.0, 25.0, 75.0, 100.0]


def test_an_image_of_the_right_size_keeps_its_levels():
    raw = picture(4, 6)

    for resize in ("stretch", "fit", "cover", "none"):
        assert np.array_equal(apply(image(resize=resize), raw), raw)


@pytest.mark.parametrize("filter", ["nearest", "bilinear"])
def test_fit_keeps_the_aspect_ratio_and_pads_around_the_centre(filter):
    raw = np.full((20, 40, 3), 200, np.uint8)
    spec = image(height=10, width=10, resize="fit", filter=filter, pad=114, range=[0, 1])
    made = apply(spec, raw)

    assert np.allclose(made[2:7], 200 / 255)
    assert np.allclose(made[:2], 114 / 255)
    assert np.allclose(made[7:], 114 / 255)


def test_fit_pads_left_and_right_of_a_tall_image():
    made = apply(image(height=4, width=6, resize="fit", layout="nchw"), np.full((100, 50), 9, np.uint8))

    assert np.array_equal(made[0], np.tile([0, 0, 9, 9, 0, 0], (4, 1)))


def test_cover_fills_the_input_with_the_centre():
    raw = np.zeros((10, 30, 3), np.uint8)
    raw[:, 10:20] = 7
    made = apply(image(height=5, width=5, resize="cover", filter="nearest"), raw)

    assert np.array_equal(made, np.full((5, 5, 3), 7))


def test_cover_is_the_centre_of_the_whole_resized_image():
    raw = picture(60, 100)
    covered = apply(image(height=30, width=20, resize="cover", antialias=True), raw)
    whole = apply(image(height=30, width=50, antialias=True), raw)

    assert np.allclose(covered, whole[:, 15:35], atol=1e-4)


@pytest.mark.parametrize("resize", ["stretch", "fit", "cover"])
def test_a_sliver_of_an_image_needs_no_more_memory_than_it_has(resize):
    sliver = np.full((1, 60_000), 5, np.uint8)
    made = apply(image(height=8, width=8, resize=resize, pad=5 if resize == "fit" else 0, antialias=True), sliver)

    assert np.allclose(made, 5)


def test_crop_takes_the_central_fraction():
    raw = picture(8, 12)
    made = apply(image(height=4, width=6, resize="none", crop=0.5), raw)

    assert np.array_equal(made, raw[2:6, 3:9])


def test_bgr_turns_the_channels_round():
    raw = picture(4, 6)

    assert np.array_equal(apply(image(colour="bgr"), raw), raw[:, :, ::-1])


def test_mean_and_std_are_in_the_order_of_the_models_colours():
    raw = np.full((4, 6, 3), (10, 20, 30), np.uint8)
    made = apply(
        Image(height=4, width=6, mean=(30, 20, 10), std=(1, 2, 4), colour="bgr", antialias=False), raw + np.uint8(8)
    )

    assert made[0, 0].tolist() == [8.0, 4.0, 2.0]


def test_nchw_is_nhwc_transposed():
    raw = picture(50, 60)

    assert np.array_equal(apply(image(layout="nchw"), raw), apply(image(), raw).transpose(2, 0, 1))
    assert apply(image(layout="nchw"), raw).flags.c_contiguous


def test_grey_is_the_weighted_sum_that_pillow_makes():
    pillow = pytest.importorskip("PIL.Image", reason="Pillow is the truth here")
    raw = picture(4, 6)
    made = apply(image(colour="gray"), raw)

    assert made.shape == (4, 6, 1)
    assert np.abs(made[:, :, 0] - np.asarray(pillow.fromarray(raw).convert("L"), np.float32)).max() <= 0.51


def test_a_grey_sample_serves_a_colour_model_as_three_equal_channels():
    raw = picture(4, 6, 1)

    assert np.array_equal(apply(image(), raw), np.repeat(raw, 3, axis=2))
    assert np.array_equal(apply(image(), raw[:, :, 0]), np.repeat(raw, 3, axis=2))


@pytest.mark.parametrize(
    "spec", [image(colour="bgr"), image(filter="nearest"), image(colour="gray", height=50, width=60, resize="none")]
)
def test_alpha_is_dropped(spec):
    raw = picture(50, 60, 4)

    assert np.array_equal(apply(spec, raw), apply(spec, raw[:, :, :3]))


def test_a_view_that_is_not_contiguous_is_read_as_any_other():
    raw = picture(100, 120)
    view = raw[10:90:2, ::-1]

    assert np.array_equal(apply(image(antialias=True), view), apply(image(antialias=True), view.copy()))


@pytest.mark.parametrize(
    ("spec", "raw", "said"),
    [
        (image(), np.zeros((4, 6, 2), np.uint8), "(4, 6, 2), wanted [h, w, 3]"),
        (image(), np.zeros((1, 4, 6, 3), np.uint8), "(1, 4, 6, 3)"),
        (image(), np.zeros((0, 6, 3), np.uint8), "(0, 6, 3)"),
        (image(), np.zeros((4, 6, 3), np.float32), "float32, wanted uint8"),
        (image(resize="none"), np.zeros((6, 4, 3), np.uint8), "wanted 4 x 6 pixels, as resize is 'none'"),
        (image(resize="none", crop=0.5), np.zeros((4, 6), np.uint8), "4 x 6 pixels after crop 0.5"),
        (audio(), np.zeros((2, 16000), np.int16), "(2, 16000), wanted [n] or [n, channels]"),
        (audio(), np.zeros(0, np.int16), "(0,)"),
        (audio(), np.zeros(9, np.uint8), "uint8, wanted int16"),
        (Generic(), np.zeros(3, np.complex64), "complex64, wanted numbers"),
        (Generic(), np.array(["a"]), "wanted numbers"),
    ],
)
def test_a_sample_that_does_not_fit_is_refused_with_what_it_is_and_what_is_wanted(spec, raw, said):
    with pytest.raises(PreprocessError) as refused:
        apply(spec, raw)

    assert said in str(refused.value)
    assert refused.value.hint


# --- audio ---------------------------------------------------------------------------------------------------------


def log_mel_in_words(spec, wave):
    """The definition, one frame, one bin and one triangle at a time."""

    def mel(hertz):
        return 2595 * math.log10(1 + hertz / 700)

    low, high = mel(spec.fmin), mel(spec.fmax)
    edges = [low + (high - low) * i / (spec.mel_bins + 1) for i in range(spec.mel_bins + 2)]
    rows = []
    for frame in range(spec.frames):
        part = wave[frame * spec.hop :][: spec.window].astype(np.float64)
        hann = [0.5 - 0.5 * math.cos(2 * math.pi * n / spec.window) for n in range(spec.window)]
        spectrum = np.abs(np.fft.fft(part * hann, spec.fft))[: spec.fft // 2 + 1]
        row = []
        for band in range(spec.mel_bins):
            below, peak, above = edges[band : band + 3]
            energy = 0.0
            for k in range(1, spec.fft // 2 + 1):
                at = mel(k * spec.sample_rate / spec.fft)
                energy += spectrum[k] * max(0.0, min((at - below) / (peak - below), (above - at) / (above - peak)))
            row.append(math.log(energy + spec.log_offset))
        rows.append(row)
    return np.array(rows)


def test_log_mel_is_its_definition():
    spec = audio(window=64, hop=24, frames=5, mel_bins=8, fmax=7000, fmin=100)
    wave = tone(spec.samples)

    assert np.allclose(apply(spec, wave), log_mel_in_words(spec, wave), rtol=1e-4, atol=1e-4)


def test_mfcc_is_the_cosine_transform_of_log_mel():
    wave = tone()
    log_mel = apply(audio(mel_bins=20), wave).astype(np.float64)
    made = apply(audio(feature="mfcc", mel_bins=20, coefficients=7), wave)

    n = np.arange(20)
    wanted = [
        [2 * sum(row * np.cos(np.pi * k * (2 * n + 1) / 40)) / math.sqrt(40) for k in range(7)] for row in log_mel
    ]
    assert made.shape == (49, 7)
    assert np.allclose(made, wanted, rtol=1e-4, atol=1e-4)


def test_int16_is_read_as_minus_one_to_one():
    wave = (tone() * 32767).astype(np.int16)

    for spec in (audio(), audio(feature="waveform")):
        assert np.allclose(apply(spec, wave), apply(spec, wave.astype(np.float32) / 32768), atol=1e-5)


def test_a_waveform_is_cut_or_followed_by_silence_to_the_samples_of_its_windows():
    spec = audio(feature="waveform", window=4, hop=3, frames=2)

    assert apply(spec, np.arange(9, dtype=np.float32)).tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert apply(spec, np.ones(2, np.float32)).tolist() == [1, 1, 0, 0, 0, 0, 0]


def test_a_short_recording_has_the_log_offset_where_it_is_silent():
    made = apply(audio(log_offset=1e-3), tone(8000))

    assert made.shape == (49, 40)
    assert np.allclose(made[26:], math.log(1e-3))


def test_channels_are_averaged():
    left, right = tone(seed=1), tone(seed=2)

    assert np.allclose(apply(audio(), np.stack([left, right], axis=1)), apply(audio(), (left + right) / 2), atol=1e-3)
    assert np.array_equal(apply(audio(), left[:, None]), apply(audio(), left))


def test_audio_features_are_normalised_by_mean_and_std():
    wave = tone()

    assert np.allclose(apply(audio(mean=-3, std=2), wave), (apply(audio(), wave) + 3) / 2, atol=1e-6)
