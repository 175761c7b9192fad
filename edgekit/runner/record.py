"""Keeps raw inputs that a model was given, for a workstation that makes ranges of them: `edgekit convert --from-device`.

    recording = Recording(folder_of(release), most=500)
    for image in camera:
        answer = model(image)
        recording.keep(model.samples(image))

One .npz file a sample, arrays by input name, called 000000000001.npz and on; the oldest go when there are too many.
"""

from __future__ import annotations

import fcntl
import io
import os
import zipfile
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.errors import DeviceFull, DeviceRefused, InputError

if TYPE_CHECKING:
    from pathlib import Path

MOST = 500  # samples: as many as a conversion uses
MOST_BYTES = 64 << 20
RESERVE = 16 << 20  # bytes left free on the disk, so that logs and the system go on
_LAYOUTS = (b"edgekit 1\n", b"edgekit 2\n")  # of the folder that a deployment lives in


def folder_of(release: Path | str) -> str:
    """Where a deployed release keeps its inputs: ROOT/samples, one folder for all releases.

    Raises InputError for a bundle that was not deployed.
    """
    releases, name = os.path.split(os.path.realpath(release))
    root = os.path.dirname(releases)
    try:
        with open(os.path.join(root, "layout"), "rb") as stream:
            layout = stream.read(len(_LAYOUTS[0]) + 1)
    except OSError:
        layout = b""
    if not name or os.path.basename(releases) != "releases" or layout not in _LAYOUTS:
        raise InputError(
            f"{release} is not a deployed release: there is nowhere to record to",
            hint="deploy it and use its own launcher: ROOT/current/run infer --record INPUT...",
        )
    return os.path.join(root, "samples")


class Recording:
    """The last `most` samples in a folder, together no larger than `most_bytes`; of those it is given every `every`th."""

    def __init__(self, folder: str, *, every: int = 1, most: int = MOST, most_bytes: int = MOST_BYTES) -> None:
        self.folder = folder
        self.kept = 0
        self._given = 0
        self._every, self._most, self._most_bytes = every, most, most_bytes

    def keep(self, samples: Iterable[Mapping[str, Any]]) -> None:
        """Writes them, arrays by input name. Raises DeviceFull or DeviceRefused where that cannot be, and keeps nothing."""
        for sample in samples:
            if self._given % self._every == 0:
                try:
                    self._write(_packed(sample))
                except OSError as error:
                    raise DeviceRefused(
                        f"cannot record to {error.filename or self.folder}: {error.strerror}",
                        hint="run it as the user that edgekit deploys to",
                    ) from error
                self.kept += 1
            self._given += 1

    def _write(self, content: bytes) -> None:
        os.makedirs(self.folder, mode=0o700, exist_ok=True)
        with open(os.path.join(self.folder, "lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # several programs may record at a time
            there = sorted(name for name in os.listdir(self.folder) if name.endswith(".npz") and name[:-4].isdigit())
            number = int(there[-1][:-4]) + 1 if there else 1
            self._make_room(there, len(content))
            final = os.path.join(self.folder, f"{number:012d}.npz")
            aside = os.path.join(self.folder, ".tmp")
            with open(aside, "wb") as out:
                out.write(content)
            os.replace(aside, final)  # nobody sees half a sample; not synced: one that a power cut takes is no loss

    def _make_room(self, there: list[str], size: int) -> None:
        """Deletes the oldest until another one fits; DeviceFull if it cannot."""
        sizes = [os.path.getsize(os.path.join(self.folder, name)) for name in there]
        total, count = sum(sizes), len(there)
        for name, each in zip(there, sizes):
            if count < self._most and total + size <= self._most_bytes:
                break
            os.unlink(os.path.join(self.folder, name))
            total, count = total - each, count - 1
        disk = os.statvfs(self.folder)
        free = disk.f_bavail * disk.f_frsize
        if total + size > self._most_bytes or size + RESERVE > free:
            raise DeviceFull(
                f"a sample of {size / 1e6:.1f} MB is not recorded: {free / 1e6:.0f} MB are free under {self.folder}",
                hint=f"recordings take {self._most_bytes >> 20} MiB at the most, and leave {RESERVE >> 20} MiB free",
            )


def _packed(sample: Mapping[str, Any]) -> bytes:
    """A .npz file. By hand, because np.savez takes neither an input called `file` nor a clock that says 1970."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, array in sample.items():
            with archive.open(zipfile.ZipInfo(name + ".npy"), "w") as member:
                np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)
    return buffer.getvalue()
