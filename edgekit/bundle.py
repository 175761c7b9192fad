"""The bundle: an immutable folder named by its manifest's hash; the border between workstation and board.

A bundle holds `manifest.json`, `models/<variant>.tflite`, `golden.npz` and, if there are any, `labels.txt`. The format
version is read first and an unknown one is refused; a missing key is an error and so is an unknown one.
Standard library only: this file also runs on the device (Python >= 3.9).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.errors import BundleError, InputError, UnknownBundleFormat

FORMAT = 1
MANIFEST = "manifest.json"
_COMPONENT = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


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
    command: tuple[str, ...]

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


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk."""

    path: Path
    manifest: Manifest
    digest: str  # sha256 of manifest.json, hex

    @property
    def id(self) -> str:
        """The short name: the first 16 hex digits of the manifest's hash."""
        return self.digest[:16]

    def file(self, name: str) -> Path:
        """Where a file of the bundle lies."""
        return self.path / name


def is_safe_name(name: str) -> bool:
    """True for a relative name that a bundle may hold: at most three plain lower-case components."""
    parts = name.split("/")
    return len(parts) <= 3 and all(_COMPONENT.fullmatch(part) for part in parts)


def sha256_file(path: Path) -> str:
    """The SHA-256 of a file's content, hex."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def write_manifest(manifest: Manifest) -> bytes:
    """The one way to write a manifest: same manifest, same bytes."""
    fields = {"edgekit_bundle": FORMAT, **dataclasses.asdict(manifest)}
    return (json.dumps(fields, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


def read_manifest(text: bytes) -> Manifest:
    """A manifest from its bytes.

    Raises UnknownBundleFormat for a version this edgekit does not know, BundleError for anything that does not fit.
    """
    try:
        loaded = json.loads(text)
    except ValueError as error:
        raise BundleError(f"{MANIFEST} is not JSON: {error}", hint="make the bundle again, or copy it again") from error
    if not isinstance(loaded, dict) or "edgekit_bundle" not in loaded:
        raise BundleError(f"{MANIFEST} is not a bundle manifest", hint="make the bundle again with edgekit convert")
    version = loaded.pop("edgekit_bundle")
    if version != FORMAT:
        raise UnknownBundleFormat(
            f"bundle format {version!r}, this edgekit reads format {FORMAT}",
            hint="deploy again so that the board gets the newer runner, or convert again with the older edgekit",
        )
    fields = _Fields(loaded, MANIFEST)
    manifest = Manifest(
        name=fields.text("name"),
        target=fields.optional_text("target"),
        arch=fields.optional_text("arch"),
        variants=tuple(_read_variant(item) for item in fields.objects("variants")),
        preprocess={key: _object(value, "preprocess") for key, value in fields.mapping("preprocess").items()},
        preprocess_sha256={key: str(value) for key, value in fields.mapping("preprocess_sha256").items()},
        labels=fields.optional_text("labels"),
        golden=fields.text("golden"),
        files={key: _read_file(key, value) for key, value in fields.mapping("files").items()},
        made_by={key: str(value) for key, value in fields.mapping("made_by").items()},
        made_from={key: str(value) for key, value in fields.mapping("made_from").items()},
        command=tuple(str(word) for word in fields.array("command")),
    )
    fields.done()
    _check_consistent(manifest)
    return manifest


def read_bundle(path: Path) -> Bundle:
    """The bundle in folder `path`. Its files are there and have the right size; `verify_bundle` also hashes them."""
    try:
        text = (path / MANIFEST).read_bytes()
    except OSError as error:
        raise BundleError(
            f"{path} is not a bundle: {MANIFEST} cannot be read ({error.strerror})",
            hint="give the folder that edgekit convert wrote",
        ) from error
    manifest = read_manifest(text)
    for name, file in manifest.files.items():
        try:
            size = (path / name).stat().st_size
        except OSError as error:
            raise BundleError(f"{path / name} is missing", hint="make or copy the bundle again") from error
        if size != file.size:
            raise BundleError(
                f"{path / name} has {size} bytes, the manifest says {file.size}", hint="make or copy the bundle again"
            )
    return Bundle(path, manifest, hashlib.sha256(text).hexdigest())


def verify_bundle(bundle: Bundle) -> None:
    """Nothing, if every byte of the bundle is what the manifest says; else BundleError names the first bad file."""
    for name, file in bundle.manifest.files.items():
        if sha256_file(bundle.path / name) != file.sha256:
            raise BundleError(
                f"{bundle.path / name} is damaged: its hash is not the manifest's", hint="make or copy the bundle again"
            )


def write_bundle(path: Path, manifest: Manifest, contents: Mapping[str, bytes]) -> Bundle:
    """Writes a bundle and returns it: aside first, then renamed, so that `path` is the old one or the new one, whole.

    `contents` are the files; `manifest.files` is filled in from them. Something at `path` that is not a bundle is left
    alone (InputError).
    """
    files = {name: File(hashlib.sha256(data).hexdigest(), len(data)) for name, data in sorted(contents.items())}
    text = write_manifest(dataclasses.replace(manifest, files=files))
    read_manifest(text)  # what no runner would accept is never written
    check_replaceable(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        new = aside / "new"
        new.mkdir()
        for name, data in {**contents, MANIFEST: text}.items():
            (new / name).parent.mkdir(exist_ok=True)
            (new / name).write_bytes(data)
        if path.exists():
            path.rename(aside / "old")
        new.rename(path)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return read_bundle(path)


def check_replaceable(path: Path) -> None:
    """InputError unless `path` is free, an empty folder, or an older bundle: nothing else is ever overwritten."""
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise InputError(f"{path} exists and is not a bundle", hint="choose another folder for -o")
    if path.is_dir() and any(path.iterdir()) and not (path / MANIFEST).is_file():
        raise InputError(f"{path} exists and is not a bundle", hint="choose another folder for -o")


def _read_variant(fields: _Fields) -> Variant:
    variant = Variant(
        name=fields.text("name"),
        file=fields.text("file"),
        quantization=fields.text("quantization"),
        inputs=tuple(_read_tensor(item) for item in fields.objects("inputs")),
        outputs=tuple(_read_tensor(item) for item in fields.objects("outputs")),
        operators={key: _integer(value, key) for key, value in fields.mapping("operators").items()},
        delegates=tuple(_read_delegate(item) for item in fields.objects("delegates")),
        qualities=tuple(_read_quality(item) for item in fields.objects("qualities")),
        golden_tolerance=fields.number("golden_tolerance"),
    )
    fields.done()
    return variant


def _read_tensor(fields: _Fields) -> Tensor:
    tensor = Tensor(
        name=fields.text("name"),
        tensor=fields.text("tensor"),
        shape=tuple(_integer(size, "shape") for size in fields.array("shape")),
        dtype=fields.text("dtype"),
        scale=fields.optional_number("scale"),
        zero_point=fields.optional_integer("zero_point"),
    )
    fields.done()
    return tensor


def _read_delegate(fields: _Fields) -> Delegate:
    delegate = Delegate(name=fields.text("name"), options=fields.mapping("options"))
    fields.done()
    return delegate


def _read_quality(fields: _Fields) -> Quality:
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
    fields = _Fields(_object(value, name), f"files/{name}")
    file = File(sha256=fields.text("sha256"), size=fields.integer("size"))
    fields.done()
    if not is_safe_name(name) or not _SHA256.fullmatch(file.sha256) or file.size < 0:
        raise BundleError(f"{MANIFEST} lists a file that no bundle may hold: {name!r}", hint="do not use this bundle")
    return file


def _check_consistent(manifest: Manifest) -> None:
    if not manifest.variants:
        raise BundleError(f"{MANIFEST} lists no variant", hint="make the bundle again")
    named = [variant.file for variant in manifest.variants] + [manifest.golden]
    named += [manifest.labels] if manifest.labels is not None else []
    for name in named:
        if name not in manifest.files:
            raise BundleError(f"{MANIFEST} names {name!r} but does not list it", hint="make the bundle again")


class _Fields:
    """A JSON object being taken apart: each key once, with its type; what is left over at the end is an error."""

    def __init__(self, fields: Mapping[str, Any], where: str) -> None:
        self._left = dict(fields)
        self._where = where

    def _take(self, key: str) -> Any:
        try:
            return self._left.pop(key)
        except KeyError:
            raise BundleError(f"{self._where} has no {key!r}", hint="make the bundle again") from None

    def text(self, key: str) -> str:
        value = self._take(key)
        if not isinstance(value, str):
            raise BundleError(f"{self._where}: {key!r} must be a text", hint="make the bundle again")
        return value

    def optional_text(self, key: str) -> str | None:
        return self._take(key) if self._left.get(key, "") is None else self.text(key)

    def integer(self, key: str) -> int:
        return _integer(self._take(key), f"{self._where}: {key}")

    def optional_integer(self, key: str) -> int | None:
        return self._take(key) if self._left.get(key, "") is None else self.integer(key)

    def number(self, key: str) -> float:
        value = self._take(key)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise BundleError(f"{self._where}: {key!r} must be a number", hint="make the bundle again")
        return float(value)

    def optional_number(self, key: str) -> float | None:
        return self._take(key) if self._left.get(key, "") is None else self.number(key)

    def mapping(self, key: str) -> Mapping[str, Any]:
        return _object(self._take(key), f"{self._where}: {key}")

    def array(self, key: str) -> list[Any]:
        value = self._take(key)
        if not isinstance(value, list):
            raise BundleError(f"{self._where}: {key!r} must be a list", hint="make the bundle again")
        return value

    def objects(self, key: str) -> list[_Fields]:
        return [_Fields(_object(item, key), f"{self._where}: {key}") for item in self.array(key)]

    def done(self) -> None:
        if self._left:
            raise BundleError(f"{self._where} has unknown keys: {', '.join(sorted(self._left))}", hint="make it again")


def _object(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise BundleError(f"{where} must be an object", hint="make the bundle again")
    return value


def _integer(value: Any, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise BundleError(f"{where} must be a whole number", hint="make the bundle again")
    return value
