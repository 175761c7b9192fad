"""On the device: a blob as it arrives, and folders of hard links into blobs, made aside or put right in place.

Everything is on the disk before it gets a name that means something. Sent together with the agent; standard library only,
Python >= 3.9, plain system calls.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable, Mapping
from typing import Any, BinaryIO

from edgekit.deploy.disk import (
    OUR_FAULT,
    Refused,
    checked_size,
    delete,
    intact,
    make_folder,
    point_durably,
    sync,
    sync_at_once,
    write_all,
    write_durably,
    write_synced,
)

FEW = 4  # files or folders: so many are synced one after the other
MANY = 16  # files: that many are written out together before each is waited for

Files = Mapping[str, Mapping[str, Any]]  # path -> {sha256, size, run}


def take_blob(stream: BinaryIO, aside: str, sha256: str, *, size: int, stored: int, packed: bool, offset: int) -> bool:
    """True when the blob lies at `aside`, whole, hashed as read back; `offset` bytes of it lay there already.

    False, and nothing lies there, if those were not the beginning of it. Raises Refused if what came is not the blob,
    SystemExit if the workstation went away; what had come by then stays. Not synced: `sync_blobs` does that.
    """
    left, written = checked_size(stored), checked_size(offset)
    if written > checked_size(size):
        raise Refused("DeviceError", f"a blob of {size} bytes cannot go on at {offset}", OUR_FAULT)
    unpack = zlib.decompressobj() if packed else None
    flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    out = os.open(aside, flags if offset else flags | os.O_TRUNC, 0o644)
    try:
        if os.fstat(out).st_size != offset:
            raise Refused("DeviceDamaged", f"blob {sha256[:16]} is not as long as it was", "deploy again")
        os.lseek(out, offset, os.SEEK_SET)
        while left:
            block = stream.read(min(left, 1 << 16))
            if not block:
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
            write_all(out, block)
    finally:
        os.close(out)
    if intact(aside, sha256, size):
        os.chmod(aside, 0o444)
        return True
    delete(aside)
    if offset:
        return False
    raise Refused("DeviceDamaged", f"blob {sha256[:16]} arrived damaged", "deploy again")


def sync_blobs(blobs: str, files: Files) -> None:
    """What is in no folder yet may be in memory only. Modes come before, so that they are kept too."""
    fresh = []
    for sha256 in dict.fromkeys(file["sha256"] for file in files.values()):
        blob = os.path.join(blobs, sha256)
        if os.lstat(blob).st_nlink == 1:
            fresh.append(blob)
    for file in files.values():
        if file.get("run"):
            os.chmod(os.path.join(blobs, file["sha256"]), 0o555)
    if len(fresh) > MANY:
        os.sync()  # starts them all at once: waiting for each alone costs seconds on an SD card
    if len(fresh) > FEW:
        sync_at_once(fresh)
        return
    for blob in fresh:
        sync(blob)


def build_tree(
    blobs: str, final: str, aside: str, files: Files, own: Mapping[str, bytes], links: Mapping[str, str]
) -> None:
    """A folder of hard links into blobs, made at `aside`, synced, renamed: it is there whole or not at all."""
    delete(aside)
    os.mkdir(aside)
    folders = {aside}
    for path, file in files.items():
        place = os.path.join(aside, *path.split("/"))
        _make_folders(os.path.dirname(place), folders)
        os.link(os.path.join(blobs, file["sha256"]), place)
    for path, content in own.items():
        write_synced(os.path.join(aside, path), content)
    for path, target in links.items():
        os.symlink(target, os.path.join(aside, path))
    if len(folders) > FEW:
        sync_at_once(sorted(folders))
    else:
        for folder in sorted(folders):
            sync(folder)
    os.rename(aside, final)
    sync(os.path.dirname(final))


def _make_folders(path: str, made: set[str]) -> None:
    if path not in made:
        _make_folders(os.path.dirname(path), made)
        os.mkdir(path)
        made.add(path)


def linked_folders(folder: str, files: Iterable[str]) -> list[str]:
    """Those of its folders that are symbolic links, the outer ones first: what is in them is not ours, whatever it holds."""
    found = {""}
    for path in files:
        parts = path.split("/")[:-1]
        found |= {"/".join(parts[: depth + 1]) for depth in range(len(parts))}
    return [path for path in sorted(found) if os.path.islink(os.path.join(folder, path).rstrip("/"))]


def mend_tree(
    blobs: str, folder: str, aside: str, files: Files, own: Mapping[str, bytes], links: Mapping[str, str]
) -> None:
    """Puts right what is not as it should be, file by file: it may be in use."""
    for path in linked_folders(folder, files):
        delete(os.path.join(folder, path))
    for path, file in files.items():
        place = os.path.join(folder, *path.split("/"))
        if not intact(place, file["sha256"], file["size"]):
            make_folder(os.path.dirname(place))
            delete(aside)
            os.link(os.path.join(blobs, file["sha256"]), aside)
            if os.path.isdir(place) and not os.path.islink(place):
                delete(place)
            os.rename(aside, place)
            sync(os.path.dirname(place))
    for path, content in own.items():
        write_durably(os.path.join(folder, path), content)
    for path, target in links.items():
        point_durably(os.path.join(folder, path), target)
