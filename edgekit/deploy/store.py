"""On the device: everything that lies under ROOT, and the rules by which it gets there and goes.

    layout                  says whose folder this is, and in which version; without it nothing here is touched
    lock                    flock: one deployment at a time; the kernel lets go when the process dies
    blobs/<sha256>          every file ever needed, once; read-only
    incoming/<sha256>       a blob while it arrives
    runtimes/<id>/          site-packages for this board's Python: hard links into blobs; <id>.json lists them
    releases/<id>/          bundle, runner and `run`: hard links; `site` -> the runtime; release.json lists them
    samples/                what runners recorded (edgekit/runner/record.py): no release, so nothing here touches it
    current -> releases/<id>, previous -> releases/<id>    replaced by rename, so always whole

What is half-made is called .tmp-*. Sent together with the agent; standard library only, Python >= 3.9.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
import zlib
from collections.abc import Mapping
from typing import Any, BinaryIO

from edgekit.deploy.disk import (
    ID,
    OUR_FAULT,
    SHA256,
    Refused,
    checked,
    checked_size,
    delete,
    intact,
    read_listing,
    sync_folder,
    write_durably,
)

LAYOUT = b"edgekit 1\n"
FOLDERS = ("blobs", "incoming", "runtimes", "releases")
RESERVE = 16 << 20  # bytes left free on the disk, so that logs and the system go on
PATIENCE_S = 1.0  # for the lock: as long as an agent needs to see that its workstation has gone


class Store:
    """One ROOT. All paths are below it."""

    def __init__(self, root: str) -> None:
        self.root = root
        self._lock: int | None = None

    def path(self, *parts: str) -> str:
        return os.path.join(self.root, *parts)

    # -- whose turn it is

    @property
    def is_locked(self) -> bool:
        return self._lock is not None

    def unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def lock(self) -> None:
        """Until `unlock`, or the end of the process, only we change what lies here; what an earlier death left behind is gone.

        Raises Refused if another deployment is under way, or if the folder holds something else.
        """
        if self._lock is not None:
            return
        # 0700: what runs on the board is nobody else's to change
        os.makedirs(self.root, mode=0o700, exist_ok=True)
        self.check_ours()
        self._lock = self._take_lock()
        if not self.check_ours():
            write_durably(self.path("layout"), LAYOUT)
        for name in FOLDERS:
            os.makedirs(self.path(name), exist_ok=True)
        self._sweep()

    def _take_lock(self) -> int:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            lock = os.open(self.path("lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.samestat(os.fstat(lock), os.stat(self.path("lock"))):  # not one just removed
                    with contextlib.suppress(OSError):  # a full disk must not keep anybody from making room on it
                        os.ftruncate(lock, 0)
                        os.write(lock, f"process {os.getpid()}".encode())
                    return lock
            except BlockingIOError:
                if time.monotonic() > deadline:
                    holder = os.read(lock, 100).decode(errors="replace").strip() or "another process"
                    os.close(lock)
                    raise Refused(
                        "DeviceBusy", f"a deployment is under way there ({holder})", "wait until it ends"
                    ) from None
                time.sleep(0.05)
            except FileNotFoundError:
                pass
            os.close(lock)

    def check_ours(self) -> bool:
        """True if the folder has our layout, False if it is empty; anything else is Refused."""
        try:
            with open(self.path("layout"), "rb") as stream:
                layout = stream.read(100)
        except FileNotFoundError:
            others = sorted(set(os.listdir(self.root)) - {"lock", ".tmp-layout"})
            if others:
                message = f"{self.root} holds something else already ({', '.join(others)[:100]})"
                raise Refused("DeviceRefused", message, "name a folder that is empty or not there yet") from None
            return False
        if layout != LAYOUT:
            message = f"{self.root} was laid out by another version of edgekit ({layout!r})"
            raise Refused("DeviceError", message, "use that version, or delete the folder on the device")
        return True

    def _sweep(self) -> None:
        for name in os.listdir(self.path("incoming")):
            delete(self.path("incoming", name))
        for folder in ("", "runtimes", "releases"):
            for name in os.listdir(self.path(folder)):
                if name.startswith(".tmp-"):
                    final = self.path(folder, name[len(".tmp-") : -len("-old")])
                    if name.endswith("-old") and not os.path.lexists(final):  # death came between two renames
                        os.rename(self.path(folder, name), final)
                    else:
                        delete(self.path(folder, name))

    # -- blobs

    def missing(self, files: Mapping[str, int]) -> list[str]:
        """Those of `files` (sha256 -> bytes) that are not here, or not as they should be."""
        blobs = {sha256: self.path("blobs", checked(SHA256, sha256)) for sha256 in files}
        return [sha256 for sha256, blob in blobs.items() if not intact(blob, sha256, checked_size(files[sha256]))]

    def make_room(self, files: Mapping[str, int]) -> list[str]:
        """What must be sent, if there is room for it; a damaged blob is thrown away first."""
        missing = self.missing(files)
        for sha256 in missing:
            delete(self.path("blobs", sha256))
        need = sum(files[sha256] for sha256 in missing)
        disk = os.statvfs(self.root)
        free = disk.f_bavail * disk.f_frsize
        if missing and need * 11 // 10 + RESERVE > free:
            message = f"{need / 1e6:.1f} MB are needed under {self.root}, {free / 1e6:.1f} MB are free"
            raise Refused("DeviceFull", message, f"make room: {RESERVE / 1e6:.0f} MB and a tenth stay in reserve")
        return missing

    def put(self, stream: BinaryIO, sha256: str, *, size: int, stored: int, packed: bool) -> None:
        """Takes one blob off the stream: aside, hashed as read back, then under its name.

        Not synced one by one, which would cost seconds on an SD card: `build` syncs all before anything refers to them.
        """
        aside, blob = self.path("incoming", checked(SHA256, sha256)), self.path("blobs", sha256)
        left, written = checked_size(stored), 0
        unpack = zlib.decompressobj() if packed else None
        with open(aside, "wb") as out:
            while left:
                block = stream.read(min(left, 1 << 16))
                if not block:  # the workstation is gone in mid-file
                    delete(aside)
                    raise SystemExit(0)
                left -= len(block)
                if unpack is not None:
                    try:
                        block = unpack.decompress(block, size - written + 1)  # one byte too many is enough to know
                    except zlib.error:
                        raise Refused("DeviceDamaged", f"blob {sha256[:16]} arrived damaged", "deploy again") from None
                written += len(block)
                if written > size:
                    raise Refused("DeviceDamaged", f"blob {sha256[:16]} is larger than announced", "deploy again")
                out.write(block)
        if not intact(aside, sha256, size):
            raise Refused("DeviceDamaged", f"blob {sha256[:16]} arrived damaged", "deploy again")
        os.chmod(aside, 0o444)
        os.rename(aside, blob)

    # -- runtimes and releases

    def build(
        self,
        kind: str,
        name: str,
        files: Mapping[str, dict[str, Any]],
        own: Mapping[str, bytes],
        links: Mapping[str, str],
    ) -> None:
        """A folder of hard links into blobs, made aside and renamed: it is there whole or not at all."""
        taken = {path.split("/")[0] for path in files} & (own.keys() | links.keys())
        if taken:
            raise Refused("DeviceError", f"not a name for a file of ours: {taken.pop()!r}", OUR_FAULT)
        aside, final = self.path(kind, ".tmp-" + name), self.path(kind, checked(ID, name))
        delete(aside)
        os.mkdir(aside)
        made = {aside}
        for path, file in files.items():
            place = os.path.join(aside, *path.split("/"))
            if os.path.dirname(place) not in made:
                os.makedirs(os.path.dirname(place), exist_ok=True)
                made.add(os.path.dirname(place))
            os.link(self.path("blobs", file["sha256"]), place)
            if file.get("run"):
                os.chmod(place, 0o555)
        for path, content in own.items():
            with open(os.path.join(aside, path), "wb") as out:
                out.write(content)
        for path, target in links.items():
            os.symlink(target, os.path.join(aside, path))
        os.sync()  # one call for many files and folders; fsync on each costs seconds on an SD card
        if os.path.isdir(final):
            os.rename(final, aside + "-old")
        os.rename(aside, final)
        sync_folder(self.path(kind))
        delete(aside + "-old")

    def listing(self, kind: str, name: str) -> dict[str, Any]:
        """What was installed under that id. Raises Refused if the list is not what it was, OSError if it is not there."""
        path = self.path(kind, name + ".json") if kind == "runtimes" else self.path(kind, name, "release.json")
        with open(path, "rb") as stream:
            text = stream.read().decode(errors="replace")
        return read_listing(name, text, "edgekit_" + kind[:-1])

    def damaged_files(self, kind: str, name: str) -> list[str]:
        """The files of a release or runtime that are not what was sent; empty is what you want."""
        try:
            files = self.listing(kind, name)["files"]
        except (OSError, Refused):
            return ["the list of its files"]
        folder = self.path(kind, name)
        return [p for p, file in files.items() if not intact(os.path.join(folder, p), file["sha256"], file["size"])]

    def runtime_of(self, release: str) -> str | None:
        """The runtime that a release runs with, by its link: that is what counts when it runs."""
        try:
            name = os.path.basename(os.readlink(self.path("releases", release, "site")))
        except OSError:
            return None
        return name if ID.fullmatch(name) else None

    # -- what is current

    def target_of(self, name: str) -> str | None:
        """The release that `current` or `previous` points to, if it is there."""
        try:
            found = os.path.basename(os.readlink(self.path(name)))
        except OSError:
            return None
        return found if ID.fullmatch(found) and os.path.isdir(self.path("releases", found)) else None

    def point(self, name: str, release: str) -> None:
        aside = self.path(".tmp-" + name)
        delete(aside)
        os.symlink(os.path.join("releases", checked(ID, release)), aside)
        os.rename(aside, self.path(name))
        sync_folder(self.root)

    # -- what goes

    def collect_garbage(self) -> None:
        """Keeps current and previous and what they need; everything else of ours goes."""
        keep = {name for name in (self.target_of("current"), self.target_of("previous")) if name is not None}
        runtimes = {self.runtime_of(name) for name in keep}
        for kind, wanted in (("releases", keep), ("runtimes", runtimes)):
            for name in sorted(os.listdir(self.path(kind)), reverse=True):  # a runtime's list goes before its folder
                if name.split(".json")[0] not in wanted:
                    self._discard(kind, name)
        for name in os.listdir(self.path("blobs")):
            if os.lstat(self.path("blobs", name)).st_nlink == 1:  # in no release and no runtime
                os.unlink(self.path("blobs", name))
        for name in os.listdir(self.path("incoming")):
            delete(self.path("incoming", name))

    def _discard(self, kind: str, name: str) -> None:
        place = self.path(kind, name)
        if not name.startswith(".tmp-") and os.path.isdir(place):  # half-deleted, it must not carry an id
            aside = self.path(kind, ".tmp-" + name)
            delete(aside)
            os.rename(place, aside)
            place = aside
        delete(place)

    def remove(self) -> None:
        """Everything of ours goes; what else lies here stays."""
        for name in (
            "current",
            "previous",
            "releases",
            "runtimes",
            "incoming",
            "blobs",
            "samples",
            "cache",
            "layout",
            "lock",
        ):
            delete(self.path(name))
        with contextlib.suppress(OSError):  # somebody else's files
            os.rmdir(self.root)
