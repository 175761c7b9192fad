"""On the device: the raw inputs that its runner recorded under ROOT/samples; read here, written by edgekit/runner/record.py.

Sent together with the agent; standard library only, Python >= 3.9, plain system calls.
"""

from __future__ import annotations

import base64
import os
import re
import stat
import zlib
from typing import Any

from edgekit.deploy.disk import Refused, checked

NAME = re.compile(r"[0-9]{12}\.npz")
LARGEST = 32 << 20  # bytes of one sample: its answer has to fit into a frame


def list_recorded(folder: str) -> list[list[Any]]:
    """[name, bytes] of each sample, the oldest first; none where nothing was recorded."""
    try:
        names = sorted(name for name in os.listdir(folder) if NAME.fullmatch(name))
    except (FileNotFoundError, NotADirectoryError):
        return []
    found = []
    for name in names:
        try:
            status = os.lstat(os.path.join(folder, name))
        except FileNotFoundError:  # the runner goes on recording, and lets the oldest go
            continue
        if stat.S_ISREG(status.st_mode) and 0 < status.st_size <= LARGEST:
            found.append([name, status.st_size])
    return found


def read_recorded(folder: str, name: Any) -> dict[str, Any]:
    """One of them, packed; `data` is None if it is gone."""
    try:
        handle = os.open(os.path.join(folder, checked(NAME, name)), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return {"data": None}
    with os.fdopen(handle, "rb") as stream:
        content = stream.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise Refused("DeviceError", f"{name} has grown while it was read", "fetch again")
    return {"data": base64.b64encode(zlib.compress(content, 3)).decode()}
