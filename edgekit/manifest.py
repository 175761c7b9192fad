"""The manifest: what a bundle says about itself. The format version is read first and an unknown one is refused.

At this border a missing key is an error, and so is an unknown one, one given twice, or a value of another type.
Standard library only: this file also runs on the device (Python >= 3.9).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from edgekit.errors import BundleError, InputError, UnknownBundleFormat
from edgekit.fields import AGAIN, Fields, as_object, as_text, as_whole, read_json, shown

if TYPE_CHECKING:
    from dataclasses import dataclass
else:
    from edgekit.values import dataclass

FORMAT = 1
MANIFEST = "manifest.json"
LIMITS = ("rss_bytes", "p95_ms")

_DTYPES = frozenset(["bool", "float16", "float32", "float64"]) | {
    f"{u}int{n}" for u in ("", "u") for n in (8, 16, 32, 64)
}
# names are checked without regular expressions: compiling two takes longer than reading a manifest
_FIRST = frozenset("0123456789abcdefghijklmnopqrstuvwxyz")
_LATER = _FIRST | frozenset("._-")
_HEX = frozenset("0123456789abcdef")


@dataclass(frozen=True)
class Tensor:
    """One input or output of a variant; `scale` and `zero_point` are None for a float tensor."""

    name: str  # what a person says: the signature's name, or the tensor's own where the file has no signature
    tensor: str  # the tensor's name in the .tflite
    shape: tuple[int, ...]  # with the batch dimension
    dtype: str
    scale: float | None
    zero_point: int | None


@dataclass(frozen=True)
class Delegate:
    """What may run a variant, and with which options."""

    name: str
    options: Mapping[str, Any]


@dataclass(frozen=True)
class Quality:
    """How good a variant is beside the float model, on the same inputs."""

    metric: str
    value: float
    float_value: float | None  # None where the metric already compares with the float model
    count: int  # inputs judged
    source: str  # where the inputs came from and how the number was made


@dataclass(frozen=True)
class Variant:
    """One .tflite of the model."""

    name: str
    file: str
    quantization: str
    ranges: str | None  # how the ranges of its activations were made; None: it has none
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    operators: Mapping[str, int]  # operator -> highest version used, what a runtime must know
    delegates: tuple[Delegate, ...]  # in the order to be tried
    qualities: tuple[Quality, ...]
    golden_tolerance: float  # largest allowed |difference| to a golden output, in the output's own units (int8: steps)


@dataclass(frozen=True)
class File:
    """One file of the bundle."""

    sha256: str
    size: int  # bytes


@dataclass(frozen=True)
class Manifest:
    """What a bundle says about itself."""

    name: str
    target: str | None  # the kind of board it was made for; None: any
    arch: str | None  # that target's architecture (as `uname -m` says it); None: any
    variants: tuple[Variant, ...]  # the first one is the default
    preprocess: Mapping[str, Mapping[str, Any]]  # input name -> spec (edgekit.preprocess.parse_spec reads it)
    preprocess_sha256: Mapping[str, str]
    labels: str | None
    golden: str
    files: Mapping[str, File]
    made_by: Mapping[str, str]  # tool -> version
    made_from: Mapping[str, str]  # name of a file that went in -> its sha256
    commits: Mapping[
        str, str
    ]  # of those that git knows: the last commit that changed it; ", changed since" if not as in it
    command: tuple[str, ...]
    # what its server may take on a device, as far as somebody said: rss_bytes (memory), p95_ms (95 of 100 answers)
    limits: Mapping[str, float] | None = None
    goal: str | None = None  # of power, as edgekit/runner/power/goal.py reads it; left out where there is none

    @property
    def needs_compiled(self) -> bool:
        """True if a delegate of it runs on LiteRT's CompiledModel: a GPU, or a CPU that keeps packed weights."""
        delegates = (delegate for variant in self.variants for delegate in variant.delegates)
        return any(delegate.name == "gpu" or delegate.options.get("weight_cache") for delegate in delegates)

    def variant(self, name: str | None = None) -> Variant:
        """The variant called `name`, or the default one."""
        if name is None:
            return self.variants[0]
        for variant in self.variants:
            if variant.name == name:
                return variant
        raise InputError(
            f"this bundle has no variant {name!r}", hint=f"it has: {', '.join(v.name for v in self.variants)}"
        )


def is_safe_name(name: str) -> bool:
    """True for a relative name that a bundle may hold: at most three plain lower-case components."""
    parts = name.split("/")
    return len(parts) <= 3 and all(
        0 < len(part) <= 64 and part[0] in _FIRST and _LATER.issuperset(part) for part in parts
    )


def write_manifest(manifest: Manifest) -> bytes:
    """The one way to write a manifest: same manifest, same bytes."""
    import json

    fields = {"edgekit_bundle": FORMAT, **dataclasses.asdict(manifest)}
    if manifest.limits is None:  # a key that older runners do not know
        del fields["limits"]
    if manifest.goal is None:
        del fields["goal"]  # bundles without one are as they were before there were goals
    return (json.dumps(fields, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


def read_manifest(text: bytes) -> Manifest:
    """A manifest from its bytes.

    Raises UnknownBundleFormat for a version this edgekit does not know, BundleError for anything that does not fit.
    """
    loaded = read_json(text, MANIFEST)
    if not isinstance(loaded, dict) or "edgekit_bundle" not in loaded:
        raise BundleError(f"{MANIFEST} is not a bundle manifest", hint="make the bundle again with edgekit convert")
    version = loaded.pop("edgekit_bundle")
    if type(version) is not int or version != FORMAT:  # True == 1 and 1.0 == 1
        raise UnknownBundleFormat(
            f"bundle format {shown(version)}, this edgekit reads format {FORMAT}",
            hint="deploy again so that the board gets the newer runner, or convert again with the older edgekit",
        )
    goal = loaded.pop("goal", None)
    fields = Fields(loaded, MANIFEST)
    manifest = Manifest(
        goal=None if goal is None else as_text(goal, f"{MANIFEST}: 'goal'"),
        name=fields.text("name"),
        target=fields.optional_text("target"),
        arch=fields.optional_text("arch"),
        variants=tuple(_read_variant(item) for item in fields.objects("variants")),
        preprocess={
            key: as_object(value, f"preprocess of {key!r}") for key, value in fields.mapping("preprocess").items()
        },
        preprocess_sha256=fields.texts("preprocess_sha256"),
        labels=fields.optional_text("labels"),
        golden=fields.text("golden"),
        files={key: _read_file(key, value) for key, value in fields.mapping("files").items()},
        made_by=fields.texts("made_by"),
        made_from=fields.texts("made_from"),
        commits=fields.texts("commits"),
        command=tuple(as_text(word, "command") for word in fields.array("command")),
        limits=_read_limits(fields.optional_object("limits")),
    )
    fields.done()
    _check_consistent(manifest)
    return manifest


def _read_limits(fields: Fields | None) -> Mapping[str, float] | None:
    if fields is None:
        return None
    limits = {name: fields.number(name) for name in LIMITS if fields.has(name)}
    fields.done()
    fields.expect(bool(limits) and min(limits.values()) > 0, "limits are positive numbers, at least one")
    return limits


def _read_variant(fields: Fields) -> Variant:
    variant = Variant(
        name=fields.text("name"),
        file=fields.text("file"),
        quantization=fields.text("quantization"),
        ranges=fields.optional_text("ranges"),
        inputs=tuple(_read_tensor(item) for item in fields.objects("inputs")),
        outputs=tuple(_read_tensor(item) for item in fields.objects("outputs")),
        operators={key: as_whole(value, key) for key, value in fields.mapping("operators").items()},
        delegates=tuple(_read_delegate(item) for item in fields.objects("delegates")),
        qualities=tuple(_read_quality(item) for item in fields.objects("qualities")),
        golden_tolerance=fields.number("golden_tolerance"),
    )
    fields.done()
    fields.expect(variant.golden_tolerance >= 0, "'golden_tolerance' must not be negative")
    for tensors in (variant.inputs, variant.outputs):
        names = {tensor.name for tensor in tensors}
        fields.expect(0 < len(names) == len(tensors), "a variant needs inputs and outputs, each with a name of its own")
    return variant


def _read_tensor(fields: Fields) -> Tensor:
    tensor = Tensor(
        name=fields.text("name"),
        tensor=fields.text("tensor"),
        shape=tuple(as_whole(size, "shape") for size in fields.array("shape")),
        dtype=fields.text("dtype"),
        scale=fields.optional_number("scale"),
        zero_point=fields.optional_integer("zero_point"),
    )
    fields.done()
    fields.expect(tensor.dtype in _DTYPES, f"'dtype' must not be {tensor.dtype!r}")
    fields.expect((tensor.scale is None) == (tensor.zero_point is None), "'scale' and 'zero_point' go together")
    fields.expect(tensor.scale is None or (tensor.scale > 0 and "int" in tensor.dtype), "'scale' does not fit")
    return tensor


def _read_delegate(fields: Fields) -> Delegate:
    delegate = Delegate(name=fields.text("name"), options=fields.mapping("options"))
    fields.done()
    return delegate


def _read_quality(fields: Fields) -> Quality:
    quality = Quality(
        metric=fields.text("metric"),
        value=fields.number("value"),
        float_value=fields.optional_number("float_value"),
        count=fields.integer("count"),
        source=fields.text("source"),
    )
    fields.done()
    return quality


def _read_file(name: str, value: Any) -> File:
    fields = Fields(as_object(value, name), f"files/{name}")
    file = File(sha256=fields.text("sha256"), size=fields.integer("size"))
    fields.done()
    if not is_safe_name(name) or name == MANIFEST or not _is_sha256(file.sha256) or file.size < 0:
        raise BundleError(f"{MANIFEST} lists a file that no bundle may hold: {name!r}", hint="do not use this bundle")
    return file


def _is_sha256(text: str) -> bool:
    return len(text) == 64 and _HEX.issuperset(text)


def _check_consistent(manifest: Manifest) -> None:
    if not manifest.variants:
        raise BundleError(f"{MANIFEST} lists no variant", hint=AGAIN)
    if len({variant.name for variant in manifest.variants}) != len(manifest.variants):
        raise BundleError(f"{MANIFEST} lists two variants of one name", hint=AGAIN)
    named = [variant.file for variant in manifest.variants] + [manifest.golden]
    named += [manifest.labels] if manifest.labels is not None else []
    for name in named:
        if name not in manifest.files:
            raise BundleError(f"{MANIFEST} names {name!r} but does not list it", hint=AGAIN)
    for name in manifest.files:  # a file cannot be a folder too
        if any(other.startswith(f"{name}/") for other in manifest.files):
            raise BundleError(f"{MANIFEST} lists {name!r} as a file and as a folder", hint=AGAIN)
    for variant in manifest.variants:
        inputs = {tensor.name for tensor in variant.inputs}
        if not inputs == manifest.preprocess.keys() == manifest.preprocess_sha256.keys():
            raise BundleError(
                f"{MANIFEST}: the preprocessing is not that of the inputs of variant {variant.name}", hint=AGAIN
            )
