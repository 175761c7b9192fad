"""The input contract of a model: one spec, and the only code that turns a raw sample into the model's input.

Calibration, evaluation and the runner on the device all call `apply`. The defaults below are part of the bundle format.
Images go through no matrix library and in a fixed order of summation: the same bits on the host and on the board.

numpy and the standard library only: this file also runs on the device (Python >= 3.9, numpy >= 1.20).
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Union

import numpy as np

from edgekit.errors import PreprocessError

_LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, as Pillow's mode L and OpenCV
_FFT_LIMIT = 1 << 17  # samples; this and the next: a spec must not be able to fill a board's memory
_SPECTROGRAM_LIMIT = 1 << 26  # frames x samples


def _refused(name: str, value: object, allowed: str, *, hint: str = "") -> PreprocessError:
    try:
        shown = repr(value)
    except (ValueError, RecursionError):  # an integer or a nesting too long for Python to print
        shown = f"this {type(value).__name__}"
    shown = shown if len(shown) <= 60 else shown[:57] + "..."
    return PreprocessError(
        f"preprocess: {name} is {shown}, but must be {allowed}",
        hint=hint or f"change {name} in the preprocessing spec",
    )


def _misfit(got: object, wanted: str, *, hint: str = "") -> PreprocessError:
    hint = hint or "is this the raw sample that the model's spec was made for?"
    return PreprocessError(f"preprocess: the sample is {got}, wanted {wanted}", hint=hint)


def _integer(low: int, high: int, *, default: Any = dataclasses.MISSING) -> Any:
    def check(name: str, value: object) -> int:
        if isinstance(value, int) and not isinstance(value, bool) and low <= value <= high:
            return value
        raise _refused(name, value, f"a whole number, {low} to {high}")

    return dataclasses.field(default=default, metadata={"check": check})


def _finite(name: str, value: object, low: float, high: float) -> float:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high:
        return float(value) + 0.0  # -0.0 becomes 0.0: equal specs must have equal digests
    raise _refused(name, value, f"a number, {low:g} to {high:g}")


def _number(low: float, high: float, *, default: Any = dataclasses.MISSING) -> Any:
    return dataclasses.field(default=default, metadata={"check": lambda name, value: _finite(name, value, low, high)})


def _numbers(low: float, high: float) -> Any:
    def check(name: str, value: object) -> tuple[float, ...]:
        if isinstance(value, (list, tuple)) and len(value) in (1, 3):
            return tuple(_finite(name, item, low, high) for item in value)
        raise _refused(name, value, "a list of 1 or 3 numbers")

    return dataclasses.field(metadata={"check": check})


def _choice(*allowed: object, default: Any = dataclasses.MISSING) -> Any:
    def check(name: str, value: object) -> object:
        # The type is compared too, because 1 == True.
        if any(type(value) is type(choice) and value == choice for choice in allowed):
            return value
        raise _refused(name, value, "one of " + ", ".join(map(repr, allowed)))

    return dataclasses.field(default=default, metadata={"check": check})


def _check_values(spec: Any) -> None:
    for field in dataclasses.fields(spec):
        object.__setattr__(spec, field.name, field.metadata["check"](field.name, getattr(spec, field.name)))


def _refuse_unused(spec: Any, names: tuple[str, ...], because: str) -> None:
    """A setting that changes nothing is a misunderstanding, and would give equal contracts different digests."""
    for field in dataclasses.fields(spec):
        value = getattr(spec, field.name)
        if field.name in names and value != field.default:
            raise _refused(field.name, value, f"left out: {because}")


@dataclass(frozen=True)
class Generic:
    """Any shape, y = x * scale + offset in float32."""

    kind: ClassVar[str] = "generic"
    scale: float = _number(-1e30, 1e30, default=1.0)
    offset: float = _number(-1e30, 1e30, default=0.0)

    def __post_init__(self) -> None:
        _check_values(self)
        if abs(self.scale) < 1e-30:  # nothing of the sample would be left in float32
            raise _refused("scale", self.scale, "a number other than 0, at least 1e-30")


@dataclass(frozen=True)
class Image:
    """Pixels 0..255, uint8: [h, w, 3] RGB, [h, w, 4] RGBA (alpha is dropped), [h, w] or [h, w, 1] grey.

    In this order: central crop, resize, colour, y = (x - mean) / std. Nothing is rounded to uint8 on the way, so
    Pillow's own 8-bit resize differs by up to one level of 255; "nearest" and "none" hand on the very uint8 values.
    """

    kind: ClassVar[str] = "image"
    height: int = _integer(1, 8192)  # pixels, of the model's input
    width: int = _integer(1, 8192)
    mean: tuple[float, ...] = _numbers(-1e10, 1e10)  # per channel of the model's colour order, or one for all; 0..255
    std: tuple[float, ...] = _numbers(1e-6, 1e10)
    # stretch: ignore the aspect ratio. fit: all of the image, centred, the rest is `pad`. cover: fill, cut the centre
    # out. none: the size must be right already.
    resize: str = _choice("stretch", "fit", "cover", "none", default="stretch")
    # Both take pixel centres at +0.5, as tf.image.resize (v2), Pillow, PyTorch, and OpenCV's INTER_LINEAR.
    filter: str = _choice("nearest", "bilinear", default="bilinear")
    # True: the filter widens as the image shrinks (Pillow, torchvision, tf antialias=True). False: always two pixels
    # per axis (Keras Resizing, tf.image.resize, OpenCV).
    antialias: bool = _choice(True, False, default=False)
    crop: float = _number(1e-3, 1.0, default=1.0)  # fraction of height and width kept, as tf.image.central_crop
    colour: str = _choice("rgb", "bgr", "gray", default="rgb")
    layout: str = _choice("nhwc", "nchw", default="nhwc")
    pad: int = _integer(0, 255, default=0)  # level of the border that "fit" leaves, before mean and std

    def __post_init__(self) -> None:
        _check_values(self)
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, self.channels):
                raise _refused(name, values, "a list of 1 number, as colour is 'gray'")
        if self.filter == "nearest":
            _refuse_unused(self, ("antialias",), "filter 'nearest' has no antialias")
        if self.resize == "none":
            _refuse_unused(self, ("filter", "antialias"), "resize 'none' does not filter")
        if self.resize != "fit":
            _refuse_unused(self, ("pad",), "only resize 'fit' pads")

    @property
    def channels(self) -> int:
        """1 or 3: the channels of the model's input."""
        return 1 if self.colour == "gray" else 3


@dataclass(frozen=True)
class Audio:
    """Mono samples at `sample_rate`: float -1..1 or int16, [n], or [n, channels] which are averaged.

    A window starts every `hop` samples; too short a recording is followed by silence, too long a one is cut, so that
    there are always `frames` windows. Conventions of tf.signal: magnitude spectrum, HTK mel scale, log(mel +
    log_offset), DCT-II over sqrt(2 * mel_bins). An array does not tell its sample rate: nothing is resampled.
    """

    kind: ClassVar[str] = "audio"
    feature: str = _choice("log-mel", "mfcc", "waveform")  # waveform: the samples of all the windows, 1-D
    sample_rate: int = _integer(1, 1_000_000)  # Hz
    window: int = _integer(1, 1 << 24)  # samples
    hop: int = _integer(1, 1 << 24)  # samples
    frames: int = _integer(1, 1 << 24)
    fft: int = _integer(0, _FFT_LIMIT, default=0)  # samples; 0 becomes the next power of two that holds a window
    mel_bins: int = _integer(1, 512, default=40)
    fmin: float = _number(0.0, 500_000.0, default=20.0)  # Hz
    fmax: float = _number(0.0, 500_000.0, default=0.0)  # Hz; 0 becomes half the sample rate
    coefficients: int = _integer(0, 512, default=0)  # of the cepstrum, for "mfcc"
    log_offset: float = _number(1e-12, 1e6, default=1e-6)
    mean: float = _number(-1e10, 1e10, default=0.0)  # y = (feature - mean) / std
    std: float = _number(1e-6, 1e10, default=1.0)

    def __post_init__(self) -> None:
        _check_values(self)
        if self.feature != "mfcc":
            _refuse_unused(self, ("coefficients",), "only feature 'mfcc' has coefficients")
        if self.feature == "waveform":
            spectral = ("fft", "mel_bins", "fmin", "fmax", "log_offset")
            _refuse_unused(self, spectral, "feature 'waveform' has no spectrum")
        else:
            object.__setattr__(self, "fft", self.fft or 1 << (self.window - 1).bit_length())
            object.__setattr__(self, "fmax", self.fmax or self.sample_rate / 2)
            if not self.window <= self.fft <= _FFT_LIMIT:
                raise _refused("fft", self.fft, f"the window, {self.window}, to {_FFT_LIMIT}")
            if self.fmax > self.sample_rate / 2:
                raise _refused("fmax", self.fmax, f"at most half the sample rate, {self.sample_rate / 2:g} Hz")
            if self.fmin > self.fmax - 1:
                raise _refused("fmin", self.fmin, f"at least 1 Hz below fmax, {self.fmax:g} Hz")
        if self.feature == "mfcc" and not 1 <= self.coefficients <= self.mel_bins:
            raise _refused("coefficients", self.coefficients, f"1 to mel_bins, {self.mel_bins}")
        most = _SPECTROGRAM_LIMIT // max(self.fft, self.hop, self.window)
        if self.frames > most:
            raise _refused("frames", self.frames, f"at most {most} with this fft, hop and window")

    @property
    def samples(self) -> int:
        """Samples that are read of a recording."""
        return self.window + (self.frames - 1) * self.hop


Spec = Union[Image, Audio, Generic]
_KINDS: dict[str, Any] = {cls.kind: cls for cls in (Image, Audio, Generic)}


def parse_spec(fields: Mapping[str, object]) -> Spec:
    """The spec that the keys of a TOML table or of a manifest say; any other key or value is a PreprocessError."""
    if not isinstance(fields, Mapping):
        raise _refused("the spec", fields, "a table of keys")
    rest = dict(fields)
    kind = rest.pop("kind", None)
    if not isinstance(kind, str) or kind not in _KINDS:
        raise _refused("kind", kind, "one of " + ", ".join(map(repr, _KINDS)))
    if kind == "image":
        rest = _with_mean_and_std(rest)
    known = {field.name: field for field in dataclasses.fields(_KINDS[kind])}
    hint = f"keys of kind {kind!r}: {', '.join(known)}" + (", or range for mean and std" if kind == "image" else "")
    for name in rest:
        if name not in known:
            raise _refused("a key", name, f"one that kind {kind!r} has", hint=hint)
    for name, field in known.items():
        if field.default is dataclasses.MISSING and name not in rest:
            raise PreprocessError(f"preprocess: {name} is missing, kind {kind!r} must say it", hint=hint)
    spec: Spec = _KINDS[kind](**rest)
    return spec


def _with_mean_and_std(fields: dict[str, object]) -> dict[str, object]:
    """`fields` with range = [lo, hi], what 0 and 255 become, said as mean and std."""
    hint = "range = [lo, hi] says what 0 and 255 become: [0, 255], [0, 1], [-1, 1]; mean and std count in 0..255"
    if "range" not in fields:
        if "mean" in fields and "std" in fields:
            return fields
        raise PreprocessError("preprocess: an image needs range, or mean and std", hint=hint)
    if "mean" in fields or "std" in fields:
        raise PreprocessError("preprocess: range and mean/std exclude each other", hint=hint)
    ends = fields.pop("range")
    if not isinstance(ends, (list, tuple)) or len(ends) != 2:
        raise _refused("range", ends, "a list of 2 numbers, lo < hi", hint=hint)
    low, high = (_finite("range", end, -1e4, 1e4) for end in ends)
    if high - low < 1e-3:
        raise _refused("range", ends, "a list of 2 numbers, lo < hi", hint=hint)
    std = 255 / (high - low)
    return {**fields, "mean": [-low * std], "std": [std]}


def spec_fields(spec: Spec) -> dict[str, object]:
    """The spec as JSON has it, every default written out; `parse_spec` gives the same spec back."""
    values = {name: list(v) if isinstance(v, tuple) else v for name, v in dataclasses.asdict(spec).items()}
    return {"kind": spec.kind, **values}


def spec_digest(spec: Spec) -> str:
    """The sha256, in hex, of the spec's canonical JSON: equal for equal contracts."""
    text = json.dumps(spec_fields(spec), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def affine(spec: Spec) -> tuple[float, float] | None:
    """(scale, offset) if that is all that the spec does; None for images and audio."""
    return (spec.scale, spec.offset) if isinstance(spec, Generic) else None


def output_shape(spec: Spec, raw_shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape, without batch, that `apply` makes of a raw sample of `raw_shape`."""
    if isinstance(spec, Image):
        if not (len(raw_shape) == 2 or (len(raw_shape) == 3 and raw_shape[2] in (1, 3, 4))) or 0 in raw_shape:
            raise _misfit(raw_shape, "[h, w, 3] RGB, [h, w, 4] RGBA or [h, w] grey")
        kept = tuple(size - 2 * _crop_start(size, spec.crop) for size in raw_shape[:2])
        if spec.resize == "none" and kept != (spec.height, spec.width):
            crop = f" after crop {spec.crop:g}" if spec.crop < 1 else ""
            raise _misfit(raw_shape, f"{spec.height} x {spec.width} pixels{crop}, as resize is 'none'")
        size = (spec.height, spec.width)
        return (*size, spec.channels) if spec.layout == "nhwc" else (spec.channels, *size)
    if isinstance(spec, Audio):
        # More than 8 channels is a recording that lies on its side.
        if len(raw_shape) not in (1, 2) or 0 in raw_shape or (len(raw_shape) == 2 and raw_shape[1] > 8):
            raise _misfit(raw_shape, "[n] or [n, channels] samples")
        if spec.feature == "waveform":
            return (spec.samples,)
        return (spec.frames, spec.coefficients if spec.feature == "mfcc" else spec.mel_bins)
    return tuple(raw_shape)


def apply(spec: Spec, raw: np.ndarray) -> np.ndarray:
    """The model's input, float32, without batch, of one raw sample; not checked for NaN. A new array, never `raw`."""
    shape = output_shape(spec, raw.shape)
    if isinstance(spec, Image):
        if raw.dtype != np.uint8:
            raise _misfit(raw.dtype, "uint8", hint="levels 0..255; a float image would leave its range to be guessed")
        return _image_input(spec, raw, shape)
    if isinstance(spec, Audio):
        if raw.dtype != np.int16 and raw.dtype.kind != "f":
            raise _misfit(raw.dtype, "int16, or float -1..1")
        return _audio_input(spec, raw)
    if raw.dtype.kind not in "buif":
        raise _misfit(raw.dtype, "numbers")
    values = raw.astype(np.float32)
    if spec.scale != 1.0:
        values *= np.float32(spec.scale)
    if spec.offset != 0.0:
        values += np.float32(spec.offset)
    return values


class _Taps(NamedTuple):
    """One axis of a resize: of pixels lo..hi-1, result i is the sum over k of weight[k, i] * x[pixel[k, i]]."""

    lo: int
    hi: int
    pixel: np.ndarray  # [taps, results] int64, counted from lo
    weight: np.ndarray  # [taps, results, 1] float32


@functools.lru_cache(maxsize=64)
def _taps(size: int, resized: int, start: int, count: int, filter: str, antialias: bool) -> _Taps:
    """The taps that make results start..start+count-1 of an axis of `size` pixels resized to `resized`."""
    result = np.arange(start, start + count, dtype=np.int64)
    if filter == "nearest":
        pixel = ((2 * result + 1) * size // (2 * resized))[None]
        weight = np.ones(pixel.shape)
    else:
        reach = max(size / resized, 1.0) if antialias else 1.0
        centre = (result + 0.5) * (size / resized)
        pixel = np.floor(centre - reach - 0.5).astype(np.int64) + 1 + np.arange(math.ceil(2 * reach))[:, None]
        weight = np.maximum(0.0, 1.0 - np.abs(pixel + 0.5 - centre) / reach)
        weight[(pixel < 0) | (pixel >= size)] = 0.0
        used = weight.any(axis=1)
        pixel, weight = np.clip(pixel[used], 0, size - 1), weight[used] / weight.sum(axis=0)
    lo, hi = int(pixel.min()), int(pixel.max()) + 1
    return _Taps(lo, hi, pixel - lo, weight[:, :, None].astype(np.float32))


def _filter_rows(x: np.ndarray, taps: _Taps) -> np.ndarray:
    """[m, results] float32: [rows, m] resized along its rows, and transposed, ready for the other axis."""
    # A few gathers and not a matrix product: of hundreds of pixels 2 to 8 count, and the bits of a product depend on
    # the machine's BLAS. In blocks that stay in the cache: new memory costs more than the arithmetic (2.5 x, measured).
    results, m = taps.pixel.shape[1], x.shape[1]
    out = np.empty((m, results), np.float32)
    step = max(1, 65536 // m)
    total = np.empty((min(step, results), m), np.float32)
    term = np.empty_like(total)
    for start in range(0, results, step):
        pixel, weight = taps.pixel[:, start : start + step], taps.weight[:, start : start + step]
        count = pixel.shape[1]
        np.multiply(x[pixel[0]], weight[0], out=total[:count])
        for k in range(1, len(pixel)):
            np.multiply(x[pixel[k]], weight[k], out=term[:count])
            total[:count] += term[:count]
        out[:, start : start + step] = total[:count].T
    return out


def _resize(x: np.ndarray, rows: _Taps, columns: _Taps, filter: str) -> np.ndarray:
    """[channels, height, width] of [h, w, channels]: float32, or of x's dtype if the filter is "nearest"."""
    part: np.ndarray = x[rows.lo : rows.hi, columns.lo : columns.hi]
    if filter == "nearest":
        picked: np.ndarray = part.take(rows.pixel[0], axis=0).take(columns.pixel[0], axis=1).transpose(2, 0, 1)
        return picked
    height, width, channels = part.shape
    turned = _filter_rows(part.reshape(height, -1), rows)
    return _filter_rows(turned.reshape(width, -1), columns).reshape(channels, -1, columns.pixel.shape[1])


def _crop_start(size: int, fraction: float) -> int:
    """Pixels cut off at each end, as tf.image.central_crop; at least one pixel stays."""
    return min(int((size - size * fraction) / 2), (size - 1) // 2)


def _resized_size(spec: Image, h: int, w: int) -> tuple[int, int]:
    """Height and width to which [h, w] is scaled, before "fit" pads or "cover" cuts; half pixels up, at least 1."""
    if spec.resize in ("none", "stretch"):
        return spec.height, spec.width
    height_decides = (spec.height * w < spec.width * h) == (spec.resize == "fit")
    if height_decides:  # in integers, to be the same everywhere
        return spec.height, max(1, (2 * w * spec.height + h) // (2 * h))
    return max(1, (2 * h * spec.width + w) // (2 * w)), spec.width


def _image_input(spec: Image, raw: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    x = raw[:, :, None] if raw.ndim == 2 else raw
    top, left = (_crop_start(size, spec.crop) for size in x.shape[:2])
    x = x[top : x.shape[0] - top, left : x.shape[1] - left]

    resized = _resized_size(spec, x.shape[0], x.shape[1])
    taps, region = [], []
    for size, there, wanted in zip(x.shape, resized, (spec.height, spec.width)):
        count = min(there, wanted)
        taps.append(_taps(size, there, (there - count) // 2, count, spec.filter, spec.antialias))
        region.append(slice((wanted - count) // 2, (wanted - count) // 2 + count))
    same = resized == x.shape[:2] == (spec.height, spec.width)
    levels = x.transpose(2, 0, 1) if same else _resize(x, taps[0], taps[1], spec.filter)
    levels = _in_colour(levels[:3], spec.colour)  # alpha goes only now: leaving it out before would copy the image

    out = np.empty(shape, np.float32)
    planes = out if spec.layout == "nchw" else out.transpose(2, 0, 1)
    for channel, plane in enumerate(planes):
        mean, std = (np.float32(values[channel % len(values)]) for values in (spec.mean, spec.std))
        inner = plane[region[0], region[1]]
        if inner.shape != plane.shape:
            plane[...] = (np.float32(spec.pad) - mean) / std
        np.subtract(levels[channel % len(levels)], mean, out=inner, dtype=np.float32)
        np.divide(inner, std, out=inner)
    return out


def _in_colour(levels: np.ndarray, colour: str) -> np.ndarray:
    """[1 or 3, h, w] RGB or grey levels in the colours the model wants; 1 plane serves as every channel."""
    if len(levels) == 1 or colour == "rgb":
        return levels
    if colour == "bgr":
        return levels[::-1]
    red, green, blue = (np.multiply(levels[i], np.float32(_LUMA[i]), dtype=np.float32) for i in range(3))
    return np.asarray(red + green + blue)[None]


def _audio_input(spec: Audio, raw: np.ndarray) -> np.ndarray:
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
