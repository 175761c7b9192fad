"""The bundle: an immutable folder named by its manifest's hash; the border between workstation and board.

A bundle holds `manifest.json`, `models/<variant>.tflite`, `golden.npz` and, if there are any, `labels.txt`.
Standard library only: this file also runs on the device (Python >= 3.9).
"""

from __future__ import annotations

import dataclasses
import os
import stat
from collections.abc import Mapping
from typing import TYPE_CHECKING

from edgekit.digest import sha256, sha256_file
from edgekit.errors import BundleError, InputError
from edgekit.fields import AGAIN
from edgekit.manifest import (
    FORMAT,
    MANIFEST,
    Delegate,
    File,
    Manifest,
    Quality,
    Tensor,
    Variant,
    is_safe_name,
    read_manifest,
    write_manifest,
)

if TYPE_CHECKING:
    from dataclasses import dataclass
    from pathlib import Path
else:
    from edgekit.values import dataclass

__all__ = [
    "FORMAT",
    "MANIFEST",
    "Bundle",
    "Delegate",
    "File",
    "Manifest",
    "Quality",
    "Tensor",
    "Variant",
    "check_replaceable",
    "is_safe_name",
    "read_bundle",
    "read_manifest",
    "sha256_file",
    "verify_bundle",
    "verify_file",
    "write_bundle",
    "write_manifest",
]


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk."""

    folder: str
    manifest: Manifest
    digest: str  # sha256 of manifest.json, hex

    @property
    def id(self) -> str:
        """The short name: the first 16 hex digits of the manifest's hash."""
        return self.digest[:16]

    @property
    def path(self) -> Path:
        """The folder."""
        from pathlib import Path  # only here and where things are written: a board answers 5 ms sooner without it

        return Path(self.folder)

    def file(self, name: str) -> Path:
        """Where a file of the bundle lies."""
        return self.path / name


def read_bundle(path: Path | str) -> Bundle:
    """The bundle in folder `path`. Its files are there and have the right size; `verify_bundle` also hashes them."""
    folder = os.fspath(path)
    try:
        with open(os.path.join(folder, MANIFEST), "rb") as stream:
            text = stream.read()
    except OSError as error:
        raise BundleError(
            f"{path} is not a bundle: {MANIFEST} cannot be read ({error.strerror})",
            hint="give the folder that edgekit convert wrote",
        ) from error
    manifest = read_manifest(text)
    for name, file in manifest.files.items():
        place = os.path.join(folder, name)
        try:
            found = os.stat(place)
        except OSError as error:
            raise BundleError(f"{place} is missing", hint=AGAIN) from error
        if not stat.S_ISREG(found.st_mode):
            raise BundleError(f"{place} is not a file", hint=AGAIN)
        if found.st_size != file.size:
            raise BundleError(f"{place} has {found.st_size} bytes, the manifest says {file.size}", hint=AGAIN)
    return Bundle(folder, manifest, sha256(text))


def verify_bundle(bundle: Bundle) -> None:
    """Nothing, if every byte of the bundle is what the manifest says; else BundleError names the first bad file."""
    for name in bundle.manifest.files:
        verify_file(bundle, name)


def verify_file(bundle: Bundle, name: str) -> str:
    """Where a file of the bundle lies, after its bytes were found to be what the manifest says; else BundleError."""
    path = os.path.join(bundle.folder, name)
    try:
        found = sha256_file(path)
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}", hint=AGAIN) from error
    if found != bundle.manifest.files[name].sha256:
        raise BundleError(f"{path} is damaged: its hash is not the manifest's", hint=AGAIN)
    return path


def write_bundle(path: Path, manifest: Manifest, contents: Mapping[str, bytes]) -> Bundle:
    """Writes a bundle and returns it: aside first, then renamed, so that `path` is the old one or the new one, whole.

    `contents` are the files; `manifest.files` is filled in from them. Something at `path` that is not a bundle is left
    alone (InputError); so is what was there when the disk is full or somebody presses Ctrl-C.
    """
    from pathlib import Path

    files = {name: File(sha256(data), len(data)) for name, data in sorted(contents.items())}
    text = write_manifest(dataclasses.replace(manifest, files=files))
    read_manifest(text)  # what no runner would accept is never written
    check_replaceable(path)
    place = Path(os.path.abspath(path))  # "x/.." has no name to rename
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        aside = place.with_name(f".{place.name}-{os.urandom(8).hex()}")
        new, old = aside / "new", aside / "old"
        try:
            aside.mkdir(0o700)  # in here: Ctrl-C may come as soon as it is there
            for name, data in {**contents, MANIFEST: text}.items():
                (new / name).parent.mkdir(parents=True, exist_ok=True)
                (new / name).write_bytes(data)
            if place.exists():
                place.rename(old)
            new.rename(place)
        finally:
            try:
                if old.exists() and not place.exists():  # stopped between the two renames
                    old.rename(place)
            finally:
                _remove(aside)
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(
            f"{path} cannot be written: {reason}", hint="is there space, and may you write there? nothing was changed"
        ) from error
    return read_bundle(path)


def check_replaceable(path: Path) -> None:
    """InputError unless `path` is free, an empty folder, or an older bundle: nothing else is ever overwritten."""
    import json

    hint = "choose another folder for -o"
    if path.exists() and path.samefile("."):
        raise InputError(f"{path} is the folder you are in, and would be replaced", hint=hint)
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise InputError(f"{path} exists and is not a bundle", hint=hint)
    if not path.is_dir() or not any(path.iterdir()):
        return
    try:
        fields = json.loads((path / MANIFEST).read_bytes())
        listed = {MANIFEST, *fields["files"]} if "edgekit_bundle" in fields else set()
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        listed = set()
    if not listed:  # other things have a manifest.json too
        raise InputError(f"{path} exists and is not a bundle", hint=hint)
    found = {file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_symlink() or not file.is_dir()}
    if found - listed:
        raise InputError(f"{path} holds what is not the bundle's: {min(found - listed)}", hint=hint)


def _remove(folder: Path) -> None:
    """Removes a folder, and if Ctrl-C is pressed meanwhile, finishes first."""
    import shutil

    try:
        shutil.rmtree(folder, ignore_errors=True)
    except (KeyboardInterrupt, OSError):  # rmtree may turn it into "bad file descriptor": it closes one twice then
        shutil.rmtree(folder, ignore_errors=True)
        raise KeyboardInterrupt from None
