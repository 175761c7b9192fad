"""TensorFlow as the outside truth: tf.image.resize and tf.signal must say what edgekit.preprocess says."""

from __future__ import annotations

import numpy as np
import pytest

from edgekit.preprocess import apply, parse_spec

pytestmark = pytest.mark.slow

tf = pytest.importorskip("tensorflow", reason="TensorFlow is the truth here")


def picture(height, width):
    y, x, c = np.ogrid[:height, :width, :3]
    waves = 110 + 80 * np.sin(x / 17 + c) * np.cos(y / 23 - c)
    return (waves + np.random.default_rng(0).integers(0, 60, (height, width, 3))).astype(np.uint8)


def tone(samples):
    noise = np.random.default_rng(0).standard_normal(samples)
    return (0.4 * np.sin(np.arange(samples) * 0.3) + 0.05 * noise).astype(np.float32)


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("size", [(224, 224), (96, 500), (700, 800), (1, 1)])
@pytest.mark.parametrize("raw_size", [(480, 640), (333, 127)])
def test_bilinear_is_tf_image_resize(raw_size, size, antialias):
    raw = picture(*raw_size)
    fields = {"kind": "image", "height": size[0], "width": size[1], "range": [0, 255], "antialias": antialias}
    made = apply(parse_spec(fields), raw)

    # TensorFlow computes its weights in float32: far from the origin they are a few 1e-5 of a pixel off.
    wanted = tf.image.resize(raw, size, method="bilinear", antialias=antialias).numpy()
    assert np.abs(made - wanted).max() < 0.01  # of 255 levels
    assert np.abs(made - wanted).mean() < 1e-3


@pytest.mark.parametrize("size", [(224, 224), (700, 800)])
def test_nearest_is_tf_image_resize(size):
    raw = picture(480, 640)
    fields = {"kind": "image", "height": size[0], "width": size[1], "range": [0, 255], "filter": "nearest"}

    wanted = tf.image.resize(raw, size, method="nearest").numpy()
    assert np.array_equal(apply(parse_spec(fields), raw), wanted)


@pytest.mark.parametrize("fraction", [0.875, 0.5, 0.333])
@pytest.mark.parametrize("raw_size", [(480, 641), (33, 7)])
def test_crop_is_tf_image_central_crop(raw_size, fraction):
    raw = picture(*raw_size)
    wanted = tf.image.central_crop(raw, fraction).numpy()
    fields = {"kind": "image", "height": wanted.shape[0], "width": wanted.shape[1], "range": [0, 255]}

    assert np.array_equal(apply(parse_spec({**fields, "resize": "none", "crop": fraction}), raw), wanted)


def tf_log_mel(spec, wave):
    magnitude = tf.abs(tf.signal.stft(wave, spec.window, spec.hop, spec.fft))
    mel = tf.signal.linear_to_mel_weight_matrix(
        spec.mel_bins, spec.fft // 2 + 1, spec.sample_rate, spec.fmin, spec.fmax, dtype=tf.float64
    )
    return tf.math.log(tf.matmul(magnitude, tf.cast(mel, tf.float32)) + spec.log_offset)


@pytest.mark.parametrize(
    "shape",
    [
        {"window": 480, "hop": 320, "frames": 49, "mel_bins": 40, "fmin": 20, "fmax": 4000},  # MLPerf Tiny's keywords
        {"window": 400, "hop": 160, "frames": 96, "mel_bins": 64, "fmin": 125, "fmax": 7500},  # YAMNet's
        {"window": 401, "hop": 133, "frames": 20, "mel_bins": 30},  # of an odd length TensorFlow's Hann is symmetric
        {"window": 512, "hop": 512, "frames": 7, "mel_bins": 10, "fft": 1024, "fmin": 0},
    ],
    ids=["keywords", "yamnet", "odd", "wide"],
)
def test_log_mel_and_mfcc_are_tf_signals(shape):
    spec = parse_spec({"kind": "audio", "feature": "log-mel", "sample_rate": 16000, **shape})
    wave = tone(spec.samples)
    wanted = tf_log_mel(spec, wave)
    mfcc = parse_spec({"kind": "audio", "feature": "mfcc", "sample_rate": 16000, "coefficients": 10, **shape})

    cepstrum = tf.signal.mfccs_from_log_mel_spectrograms(wanted)[:, :10].numpy()
    assert np.allclose(apply(spec, wave), wanted.numpy(), rtol=1e-4, atol=1e-4)
    assert np.allclose(apply(mfcc, wave), cepstrum, rtol=1e-4, atol=2e-4)
