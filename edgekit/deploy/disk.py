"""On the device: what the agent asks of names, files and folders, and how it says no.

Sent together with the agent; standard library only, Python >= 3.9, plain system calls.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import stat
from collections.abc import Collection, Iterable
from typing import Any

ID = re.compile(r"[0-9a-f]{16}")
SHA256 = re.compile(r"[0-9a-f]{64}")
COMPONENT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,127}")
DEEPEST = 16  # folders
AT_ONCE = 12  # threads that sync files

# file systems that live in memory, or are a layer over one that is not written to
FORGETFUL = {"tmpfs", "ramfs", "rootfs", "overlay", "overlayfs", "aufs", "unionfs", "fuse.unionfs-fuse", "squashfs"}

OUR_FAULT = "this is a fault in edgekit: report it"


class Refused(Exception):
    """Goes to the workstation as an error of that kind (a class of edgekit.errors)."""

    def __init__(self, kind: str, message: str, hint: str) -> None:
        super().__init__(message)
        self.reply = {"error": kind, "message": message, "hint": hint}


def explain(error: OSError, root: str) -> dict[str, Any]:
    """An OSError as an answer that a person can use."""
    where = error.filename or root
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Refused("DeviceFull", f"no space left under {root}", "make room there, then deploy again").reply
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        message = f"cannot write {where}: {error.strerror}"
        return Refused("DeviceRefused", message, f"make {root} writable for the login user").reply
    return Refused("DeviceError", f"{where}: {error.strerror or error}", "look at the board's disk and its logs").reply


def checked(grammar: re.Pattern[str], name: Any) -> str:
    """`name` itself, if it is a text of that grammar."""
    if not isinstance(name, str) or not grammar.fullmatch(name):
        raise Refused("DeviceError", f"not a name for a file of ours: {name!r}", OUR_FAULT)
    return name


def checked_size(size: Any) -> int:
    """`size` itself, if it is a number of bytes."""
    if type(size) is not int or size < 0:
        raise Refused("DeviceError", f"not a size: {size!r}", OUR_FAULT)
    return size


def read_listing(name: str, text: str, key: str) -> dict[str, Any]:
    """A list of files whose name is its hash, with every name, hash and size in it checked."""
    if hashlib.sha256(text.encode(errors="replace")).hexdigest()[:16] != checked(ID, name):
        raise Refused("DeviceDamaged", f"the list of {name} is damaged", "deploy again with --verify")
    try:
        listing = json.loads(text)
        files = listing["files"].items() if listing[key] == 1 else None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        files = None
    if files is None:
        raise Refused("DeviceError", f"not a list that this agent knows: {name}", OUR_FAULT)
    check_files(files)
    return dict(listing)


def is_listable(path: str) -> bool:
    """Whether a file with that path may be in a list."""
    parts = path.split("/")
    return len(parts) <= DEEPEST and all(map(COMPONENT.fullmatch, parts))


def check_files(files: Iterable[tuple[str, Any]]) -> None:
    """Refused if a path among them could lead elsewhere, or if one has no hash or size."""
    for path, file in files:
        if not is_listable(path) or not isinstance(file, dict):
            raise Refused("DeviceError", f"not a name for a file of ours: {path!r}", OUR_FAULT)
        checked(SHA256, file.get("sha256"))
        checked_size(file.get("size"))


def intact(path: str, sha256: str, size: int) -> bool:
    """True if the file is a plain file of that size and hash."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    digest = hashlib.sha256()
    try:
        if os.fstat(handle).st_size != size:
            return False
        for block in iter(lambda: os.read(handle, 1 << 20), b""):
            digest.update(block)
    except OSError:  # a disk that cannot read it back
        return False
    finally:
        os.close(handle)
    return digest.hexdigest() == sha256


def read_file(path: str, most: int = 64 << 20) -> bytes:
    """What a plain file holds. Raises OSError if it is not there, or is a link."""
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        parts = []
        while most > 0:
            block = os.read(handle, min(most, 1 << 20))
            if not block:
                break
            parts.append(block)
            most -= len(block)
        return b"".join(parts)
    finally:
        os.close(handle)


def write_all(handle: int, content: bytes) -> None:
    """All of it: a system call may take less."""
    left = memoryview(content)
    while left:
        left = left[os.write(handle, left) :]


def write_synced(path: str, content: bytes) -> None:
    """A new file whose content is on the disk when this returns; its name is once its folder is synced."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    try:
        write_all(handle, content)
        os.fsync(handle)
    finally:
        os.close(handle)


def write_durably(path: str, content: bytes) -> None:
    """Puts a file in place by rename: after a power cut it is there whole or as it was before."""
    folder, name = os.path.split(path)
    aside = os.path.join(folder, ".tmp-" + name)
    write_synced(aside, content)
    os.rename(aside, path)
    sync(folder)


def point_durably(path: str, target: str) -> None:
    """Puts a symbolic link in place by rename: it points to the old target or to the new one, never to neither."""
    folder, name = os.path.split(path)
    aside = os.path.join(folder, ".tmp-" + name)
    delete(aside)
    os.symlink(target, aside)
    os.rename(aside, path)
    sync(folder)


def sync(path: str) -> None:
    """What a file holds, or which names a folder holds, is on the disk when this returns."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_at_once(paths: Collection[str]) -> None:
    """`sync` of each, in several threads: what a journalling file system is asked for at once, it writes as one."""
    import threading

    left = list(paths)
    errors: list[OSError] = []

    def work() -> None:
        with contextlib.suppress(IndexError):
            while not errors:
                path = left.pop(0)
                try:
                    sync(path)
                except OSError as error:
                    errors.append(error)

    started = []
    with contextlib.suppress(RuntimeError):  # no more threads to be had: then those that there are do it
        for _ in range(min(len(left), AT_ONCE) - 1):
            thread = threading.Thread(target=work)
            thread.start()
            started.append(thread)
    work()
    for thread in started:
        thread.join()
    if errors:
        raise errors[0]


def forgets(path: str, mounts: str = "/proc/self/mountinfo") -> str:
    """The kind of file system that `path` is on, or would be, if that may be empty after a reboot; else ""."""
    real, longest, found = os.path.realpath(path), -1, ""
    with contextlib.suppress(OSError):
        for line in read_file(mounts).decode(errors="replace").splitlines():
            front, _, back = line.partition(" - ")
            if len(front.split()) < 5 or not back.split():
                continue
            point = front.split()[4].replace("\\040", " ")
            if longest <= len(point) and (real + "/").startswith(point.rstrip("/") + "/"):  # the last one is on top
                longest, found = len(point), back.split()[0]
    return found if found in FORGETFUL else ""


def make_folder(path: str, mode: int = 0o777) -> None:
    """A folder that is there after a power cut, and all above it."""
    if os.path.isdir(path):
        return
    above = os.path.dirname(path)
    make_folder(above)
    with contextlib.suppress(FileExistsError):  # if it is something else, whoever uses it will see
        os.mkdir(path, mode)
    sync(above)


def delete(path: str) -> None:
    """Nothing is at `path` any more; a symbolic link is deleted, not followed."""
    try:
        is_folder = stat.S_ISDIR(os.lstat(path).st_mode)
    except FileNotFoundError:
        return
    if not is_folder:
        os.unlink(path)
        return
    for name in os.listdir(path):
        delete(os.path.join(path, name))
    os.rmdir(path)
