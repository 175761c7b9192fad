"""Audio: windows, magnitude spectrum, mel bands, cepstrum; the conventions of tf.signal."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from edgekit.preprocess.spec import Audio, misfit


def output_shape(spec: Audio, raw_shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that `apply` makes of samples of `raw_shape`; PreprocessError if they do not fit."""
    # More than 8 channels is a recording that lies on its side.
    if len(raw_shape) not in (1, 2) or 0 in raw_shape or (len(raw_shape) == 2 and raw_shape[1] > 8):
        raise misfit(raw_shape, "[n] or [n, channels] samples")
    if spec.feature == "waveform":
        return (spec.samples,)
    return (spec.frames, spec.coefficients if spec.feature == "mfcc" else spec.mel_bins)


def apply(spec: Audio, raw: np.ndarray) -> np.ndarray:
    """The model's input, float32, of a recording."""
    output_shape(spec, raw.shape)
    if raw.dtype != np.int16 and raw.dtype.kind != "f":
        raise misfit(raw.dtype, "int16, or float -1..1")
    # Spectra in float64: numpy 1 and numpy 2 differ in the precision of a float32 FFT.
    dtype = np.float32 if spec.feature == "waveform" else np.float64
    wave = raw[: spec.samples].astype(dtype)
    if raw.dtype == np.int16:
        wave /= 32768
    if wave.ndim == 2:
        wave = wave.mean(axis=1)
    values = np.zeros(spec.samples, dtype)
    values[: len(wave)] = wave
    if spec.feature != "waveform":
        windows = np.lib.stride_tricks.sliding_window_view(values, spec.window)[:: spec.hop]
        values = np.abs(np.fft.rfft(windows * _hann(spec.window), spec.fft)) @ _mel_weights(spec)
        values = np.log(values + spec.log_offset)
    if spec.feature == "mfcc":
        values = values @ _cosines(spec.mel_bins, spec.coefficients)
    values -= spec.mean
    values /= spec.std
    return values.astype(np.float32, copy=False)


@functools.lru_cache(maxsize=8)
def _hann(window: int) -> np.ndarray:
    """[window] float64, periodic; of an odd length symmetric, as tf.signal.hann_window has it."""
    if window == 1:
        return np.ones(1)
    period = window if window % 2 == 0 else window - 1
    return np.asarray(0.5 - 0.5 * np.cos(2 * np.pi / period * np.arange(window)))


@functools.lru_cache(maxsize=8)
def _mel_weights(spec: Audio) -> np.ndarray:
    """[fft // 2 + 1, mel_bins] float64: triangles of height 1 in mel, as tf.signal.linear_to_mel_weight_matrix."""

    def mel(hertz: Any) -> Any:
        return 1127.0 * np.log1p(np.asarray(hertz) / 700.0)

    edges = np.linspace(mel(spec.fmin), mel(spec.fmax), spec.mel_bins + 2)
    bins = mel(np.linspace(0.0, spec.sample_rate / 2, spec.fft // 2 + 1))[:, None]
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    return np.asarray(np.maximum(0.0, np.minimum(rising, falling)))


@functools.lru_cache(maxsize=8)
def _cosines(mel_bins: int, coefficients: int) -> np.ndarray:
    """[mel_bins, coefficients] float64: DCT-II, as tf.signal.mfccs_from_log_mel_spectrograms scales it."""
    angle = np.pi / mel_bins * (np.arange(mel_bins) + 0.5)[:, None] * np.arange(coefficients)
    return np.asarray(np.cos(angle) * math.sqrt(2.0 / mel_bins))
