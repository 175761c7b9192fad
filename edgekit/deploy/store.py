"""On the device: everything that lies under ROOT, and the rules by which it gets there and goes.

    layout                  says whose folder this is, and in which version; without it nothing here is touched
    lock                    flock: one change at a time; the kernel lets go when the process dies
    journal.json            which release is proven, which is on trial (journal.py)
    agent/<sha16>.py        this program in one file, for the boot and the guard; agent/current.py -> the one to use
    agent/<sha16>-*.code    the same as it arrives, compiled for one version of Python; begins with its hash
    blobs/<sha256>          every file ever needed, once; read-only
    incoming/<sha256>       a blob while it arrives, or as far as it came
    runtimes/<id>/          site-packages for this board's Python: hard links into blobs; <id>.json lists them
    releases/<id>/          bundle, runner and `run`: hard links; `site` -> the runtime; release.json lists them
    */<id>/.bytecode.json   lists the bytecode of both, which was made here (bytecode.py): hard links too
    samples/                what runners recorded (edgekit/runner/record.py): no release, so nothing here touches it
    current -> releases/<id>    what is in use; replaced by rename, so always whole

What is half-made is called .tmp-*. A name that means something (an id, `current`) is given only to what is on the disk
already, and is on the disk itself before anything relies on it. Sent together with the agent; standard library only,
Python >= 3.9.
"""

from __future__ import annotations

import contextlib
import hashlib
import marshal
import os
from _frozen_importlib_external import MAGIC_NUMBER
from collections.abc import Collection, Mapping
from typing import Any, BinaryIO

from edgekit.deploy.bytecode import LIST, Compiled, as_list, compile_files, read_list
from edgekit.deploy.disk import (
    ID,
    OUR_FAULT,
    SHA256,
    Refused,
    checked,
    checked_size,
    delete,
    intact,
    point_durably,
    read_file,
    read_listing,
    sync,
    write_all,
    write_durably,
)
from edgekit.deploy.folder import Folder
from edgekit.deploy.journal import NAME as JOURNAL
from edgekit.deploy.journal import Journal, write_journal
from edgekit.deploy.tree import build_tree, linked_folders, mend_tree, sync_blobs, take_blob

POINTS = "points.json"  # in ROOT: what operating points cost there; no release has it
RESERVE = 16 << 20  # bytes left free on the disk, so that logs and the system go on
RESERVED_FILES = 512  # as many more can still be made; the bytecode of runner and libraries is some 190 to 330


class Store(Folder):
    """What lies in one ROOT."""

    # -- blobs

    def missing(self, files: Mapping[str, int]) -> list[str]:
        """Those of `files` (sha256 -> bytes) that are not here, or not as they should be."""
        blobs = {sha256: self.path("blobs", checked(SHA256, sha256)) for sha256 in files}
        return [sha256 for sha256, blob in blobs.items() if not intact(blob, sha256, checked_size(files[sha256]))]

    def arrived(self, sha256: str, size: int) -> int:
        """Bytes of that blob that came when it was sent before, and are still here."""
        try:
            came = os.lstat(self.path("incoming", sha256)).st_size
        except OSError:
            return 0
        return came if came < size else 0

    def check_room(self, files: Mapping[str, int], missing: Collection[str]) -> None:
        """Refused if what is missing does not fit, with a tenth more and a reserve."""
        place = self.root
        while not os.path.isdir(place):
            place = os.path.dirname(place)
        disk = os.statvfs(place)
        if disk.f_flag & os.ST_RDONLY:
            hint = "make it writable first: mount -o remount,rw, or leave the read-only mode of its system"
            raise Refused("DeviceRefused", f"{self.root} is on a read-only file system", hint)
        need = sum(files[sha256] - self.arrived(sha256, files[sha256]) for sha256 in missing)
        free = disk.f_bavail * disk.f_frsize
        if missing and need * 11 // 10 + RESERVE > free:
            message = f"{need / 1e6:.1f} MB are needed under {self.root}, {free / 1e6:.1f} MB are free"
            raise Refused("DeviceFull", message, f"make room: {RESERVE / 1e6:.0f} MB and a tenth stay in reserve")
        if missing and disk.f_files and len(missing) + RESERVED_FILES > disk.f_favail:  # some systems do not count
            message = f"{len(missing)} files are needed under {self.root}, {disk.f_favail} more can be made there"
            raise Refused(
                "DeviceFull", message, "delete files there that nobody needs (df -i shows how many there are)"
            )

    def make_room(self, files: Mapping[str, int]) -> dict[str, int]:
        """What must be sent, and how much of each is here already. A damaged blob is thrown away."""
        missing = self.missing(files)
        for sha256 in missing:
            delete(self.path("blobs", sha256))
        self.check_room(files, missing)
        return {sha256: self.arrived(sha256, files[sha256]) for sha256 in missing}

    def put(self, stream: BinaryIO, sha256: str, *, size: int, stored: int, packed: bool, offset: int = 0) -> bool:
        """Takes a blob, or the rest of one, off the stream: aside, hashed as read back, then under its name.

        False if what was here already was not the beginning of it.
        """
        aside, blob = self.path("incoming", checked(SHA256, sha256)), self.path("blobs", sha256)
        if take_blob(stream, aside, sha256, size=size, stored=stored, packed=packed, offset=offset):
            os.rename(aside, blob)
            return True
        return False

    def keep(self, content: bytes) -> dict[str, Any]:
        """A blob that was made here: {sha256, size}. Not synced: `build` does that."""
        sha256 = hashlib.sha256(content).hexdigest()
        aside, blob = self.path("incoming", sha256), self.path("blobs", sha256)
        if not intact(blob, sha256, len(content)):
            delete(aside)
            out = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444)
            try:
                write_all(out, content)
            finally:
                os.close(out)
            os.rename(aside, blob)
        return {"sha256": sha256, "size": len(content)}

    # -- runtimes and releases

    def build(
        self,
        kind: str,
        name: str,
        files: Mapping[str, dict[str, Any]],
        own: Mapping[str, bytes],
        links: Mapping[str, str],
    ) -> None:
        """A folder of hard links into blobs, made aside, synced, renamed: it is there whole or not at all."""
        taken = {path.split("/")[0] for path in files} & (own.keys() | links.keys())
        if taken:
            raise Refused("DeviceError", f"not a name for a file of ours: {taken.pop()!r}", OUR_FAULT)
        final, blobs = self.path(kind, checked(ID, name)), self.path("blobs")
        compiled = compile_files(blobs, files, self._bytecode_in_use(kind), self.keep)
        files, own = {**files, **compiled}, {**own, LIST: as_list(compiled)}
        sync_blobs(blobs, files)
        if os.path.islink(final):
            delete(final)
        if os.path.isdir(final):
            mend_tree(blobs, final, self.path(kind, ".tmp-mended"), files, own, links)
        else:
            build_tree(blobs, final, self.path(kind, ".tmp-" + name), files, own, links)

    def _bytecode_in_use(self, kind: str) -> Compiled:
        """That of the current release or its runtime: the next one has most of it too."""
        name = self.target_of("current")
        if name is not None and kind == "runtimes":
            name = self.runtime_of(name)
        with contextlib.suppress(Refused):
            return read_list(self.path(kind, name)) if name is not None else {}
        return {}

    def listing(self, kind: str, name: str) -> dict[str, Any]:
        """What was installed under that id. Raises Refused if the list is not what it was, OSError if it is not there."""
        path = self.path(kind, name + ".json") if kind == "runtimes" else self.path(kind, name, "release.json")
        return read_listing(name, read_file(path).decode(errors="replace"), "edgekit_" + kind[:-1])

    def damaged_files(self, kind: str, name: str) -> list[str]:
        """The files of a release or runtime that are not what was sent; empty is what you want."""
        try:
            listing = self.listing(kind, name)
        except (OSError, Refused):
            return ["the list of its files"]
        folder = self.path(kind, name)
        try:
            files = {
                **read_list(folder),
                **listing["files"],
            }  # what was sent counts: its list is vouched for by its name
        except Refused:
            return [LIST]
        links = linked_folders(folder, files)
        if links:
            return [path or "its folder" for path in links]
        damaged = [p for p, file in files.items() if not intact(os.path.join(folder, p), file["sha256"], file["size"])]
        if kind == "releases" and self.runtime_of(name) != listing.get("runtime"):
            damaged.append("site")
        return damaged

    def runtime_of(self, release: str) -> str | None:
        """The runtime that a release runs with, by its link: that is what counts when it runs."""
        try:
            name = os.path.basename(os.readlink(self.path("releases", release, "site")))
        except OSError:
            return None
        return name if ID.fullmatch(name) else None

    def check_intact(self, kind: str, name: str | None) -> None:
        """Refused if a file of it is not what was sent."""
        damaged = self.damaged_files(kind, name) if name is not None else []
        if damaged:
            message = f"{kind}/{name} is damaged on the device: {damaged[0]}"
            raise Refused("DeviceDamaged", message, "send it again: edgekit deploy BUNDLE DEVICE --verify")

    # -- what is in use

    def use(self, release: str | None) -> None:
        """`current` points to that release, after a power cut too; for None it points nowhere."""
        if release is None:
            delete(self.path("current"))
            sync(self.root)
        else:
            point_durably(self.path("current"), os.path.join("releases", checked(ID, release)))

    def keep_agent(self, text: bytes) -> str:
        """Where the agent lies on the device, for those who start it when no workstation is there."""
        place = self.path("agent", hashlib.sha256(text).hexdigest()[:16] + ".py")
        if not os.path.isfile(place) or read_file(place) != text:
            write_durably(place, text)
        link = self.path("agent", "current.py")
        if not os.path.islink(link) or os.readlink(link) != os.path.basename(place):
            point_durably(link, os.path.basename(place))
        return link

    def keep_code(self, packed: bytes, parts: list[Any]) -> None:
        """The agent as this Python compiled it, for the probe: compiling takes longer than all else that it does there."""
        name = f"{hashlib.sha256(packed).hexdigest()[:16]}-{MAGIC_NUMBER.hex()}.code"
        if parts and not os.path.isfile(self.path("agent", name)):
            kept = marshal.dumps(parts)
            write_durably(self.path("agent", name), hashlib.sha256(kept).digest() + kept)
            for other in os.listdir(self.path("agent")):
                if other.endswith(".code") and other != name:
                    delete(self.path("agent", other))

    # -- what goes

    def collect_garbage(self, keep: Collection[str]) -> None:
        """Those releases stay and what they need; everything else of ours goes."""
        runtimes = {self.runtime_of(name) for name in keep}
        for kind, wanted in (("releases", keep), ("runtimes", runtimes)):
            doomed = []
            for name in sorted(os.listdir(self.path(kind)), reverse=True):  # a runtime's list goes before its folder
                if name.startswith(".tmp-"):
                    doomed.append(name)
                elif name.split(".json")[0] not in wanted:
                    doomed.append(".tmp-" + name)
                    delete(self.path(kind, ".tmp-" + name))
                    os.rename(self.path(kind, name), self.path(kind, ".tmp-" + name))
            if doomed:
                sync(self.path(kind))  # half-deleted, nothing may carry an id
            for name in doomed:
                delete(self.path(kind, name))
        agent = os.path.basename(os.path.realpath(self.path("agent", "current.py")))
        for name in os.listdir(self.path("agent")):
            if name not in ("current.py", agent) and not name.endswith(".code"):
                delete(self.path("agent", name))
        for name in os.listdir(self.path("blobs")):
            if os.lstat(self.path("blobs", name)).st_nlink == 1:  # in no release and no runtime
                os.unlink(self.path("blobs", name))
        for name in os.listdir(self.path("incoming")):
            delete(self.path("incoming", name))

    def remove(self) -> None:
        """Everything of ours goes; what else lies here stays."""
        with contextlib.suppress(OSError):  # a disk without a byte left has to be cleaned all the same
            write_journal(self.root, Journal())  # from now on nothing here is good
        self.use(None)
        ours: tuple[str, ...] = ("releases", "runtimes", "incoming", "blobs", "samples", "cache", "agent")
        ours += ("previous", "run", "allowed_signers", "revoked_keys", POINTS)
        for name in (*ours, ".tmp-current", ".tmp-" + JOURNAL):
            delete(self.path(name))
        sync(self.root)
        for name in ("layout", JOURNAL, "lock"):
            delete(self.path(name))
        with contextlib.suppress(OSError):  # somebody else's files
            os.rmdir(self.root)
