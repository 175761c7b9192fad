"""A file of XNNPACK's packed weights for the next start, which has its name only when it is whole and on the disk.

XNNPACK believes a file with a right header: one with zeros in its middle, as a power cut may leave it, changed the answers of
ResNet8 without a word (LiteRT 2.3).
"""

from __future__ import annotations

import contextlib
import glob
import os
import threading
from collections.abc import Callable
from typing import Any


def keeping_weights(place: str, open_with: Callable[[str], Any]) -> Any:
    """What `open_with` makes of the file `place`, or of one that it writes beside it and that then gets that name."""
    if os.path.exists(place):
        return open_with(place)
    aside = f"{place}.{os.getpid()}-{threading.get_ident()}"
    _forget(place, aside)
    try:
        made = open_with(aside)
        with contextlib.suppress(OSError):  # no space, perhaps: the next start packs again
            _sync(aside)
            os.replace(aside, place)
            _sync(os.path.dirname(place))
        return made
    finally:
        with contextlib.suppress(OSError):
            os.unlink(aside)


def _forget(place: str, aside: str) -> None:
    """Deletes what processes that are gone left there; one of them may have had our number, and its file would be believed."""
    for path in glob.glob(f"{glob.escape(place)}.*-*"):
        with contextlib.suppress(OSError, ValueError):
            if path == aside or not _is_alive(int(path[len(place) + 1 :].partition("-")[0])):
                os.unlink(path)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    return True


def _sync(path: str) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
