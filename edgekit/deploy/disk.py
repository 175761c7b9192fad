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
import shutil
from typing import Any

ID = re.compile(r"[0-9a-f]{16}")
SHA256 = re.compile(r"[0-9a-f]{64}")
COMPONENT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,127}")
DEEPEST = 16  # folders

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
    except (ValueError, KeyError, TypeError, AttributeError):
        files = None
    if files is None:
        raise Refused("DeviceError", f"not a list that this agent knows: {name}", OUR_FAULT)
    for path, file in files:
        parts = path.split("/")
        if len(parts) > DEEPEST or not isinstance(file, dict):
            raise Refused("DeviceError", f"not a name for a file of ours: {path!r}", OUR_FAULT)
        for part in parts:
            checked(COMPONENT, part)
        checked(SHA256, file.get("sha256"))
        checked_size(file.get("size"))
    return dict(listing)


def intact(path: str, sha256: str, size: int) -> bool:
    """True if the file is a plain file of that size and hash."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    digest = hashlib.sha256()
    with os.fdopen(handle, "rb") as stream:
        if os.fstat(stream.fileno()).st_size != size:
            return False
        try:
            for block in iter(lambda: stream.read(1 << 20), b""):
                digest.update(block)
        except OSError:  # a disk that cannot read it back
            return False
    return digest.hexdigest() == sha256


def write_durably(path: str, content: bytes) -> None:
    """Puts a file in place by rename: after a power cut it is there whole or not at all."""
    folder, name = os.path.split(path)
    aside = os.path.join(folder, ".tmp-" + name)
    with open(aside, "wb") as out:
        out.write(content)
        out.flush()
        os.fsync(out.fileno())
    os.rename(aside, path)
    sync_folder(folder)


def sync_folder(path: str) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def delete(path: str) -> None:
    """Nothing is at `path` any more; a symbolic link is deleted, not followed."""
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    else:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
