"""What a spec may say: images, audio and plain numbers; every value checked, every default written out.

The defaults are part of the bundle format: a manifest holds them all, so a changed default changes no old bundle.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Union

from edgekit.digest import sha256
from edgekit.errors import PreprocessError

if TYPE_CHECKING:
    from dataclasses import dataclass
else:
    from edgekit.values import dataclass

_FFT_LIMIT = 1 << 17  # samples; this and the next: a spec must not be able to fill a board's memory
_SPECTROGRAM_LIMIT = 1 << 26  # frames x samples
_ANTIALIAS = (
    "how were the training images resized? true: Pillow, torchvision, tf.image.resize(antialias=True); "
    "false: Keras Resizing and image_dataset_from_directory, tf.image.resize, OpenCV"
)


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


def misfit(got: object, wanted: str, *, hint: str = "") -> PreprocessError:
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
        if value is default or any(type(value) is type(choice) and value == choice for choice in allowed):
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
    # True: the filter widens as the image shrinks. False: always two pixels per axis. Frameworks differ (_ANTIALIAS),
    # and the wrong one costs accuracy in silence: so whoever filters with "bilinear" must say it. Else: always False.
    antialias: bool | None = _choice(True, False, default=None)
    crop: float = _number(1e-3, 1.0, default=1.0)  # fraction of height and width kept, as tf.image.central_crop
    colour: str = _choice("rgb", "bgr", "gray", default="rgb")
    layout: str = _choice("nhwc", "nchw", default="nhwc")
    pad: int = _integer(0, 255, default=0)  # level of the border that "fit" leaves, before mean and std

    def __post_init__(self) -> None:
        _check_values(self)
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, self.channels):
                raise _refused(name, values, "a list of 1 number, as colour is 'gray'")
        if self.resize == "none":
            _refuse_unused(self, ("filter",), "resize 'none' does not filter")
        if self.resize != "none" and self.filter == "bilinear":
            if self.antialias is None:
                raise PreprocessError(
                    "preprocess: antialias is missing, filter 'bilinear' must say how it shrinks", hint=_ANTIALIAS
                )
        elif self.antialias:
            because = "resize 'none' does not filter" if self.resize == "none" else "filter 'nearest' has no antialias"
            raise _refused("antialias", self.antialias, f"left out: {because}")
        else:
            object.__setattr__(self, "antialias", False)
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
    import json

    text = json.dumps(spec_fields(spec), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return sha256(text.encode("ascii"))
