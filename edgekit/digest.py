"""SHA-256, which names and guards everything that edgekit stores."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

_SMALL = 1 << 20  # bytes


def sha256(content: bytes) -> str:
    """The SHA-256 of `content`, hex."""
    digest = _new(len(content))
    digest.update(content)
    return str(digest.hexdigest())


def sha256_file(path: Path | str) -> str:
    """The SHA-256 of a file's content, hex."""
    with open(path, "rb") as stream:
        digest = _new(os.fstat(stream.fileno()).st_size)
        for block in iter(lambda: stream.read(1 << 20), b""):
            digest.update(block)
    return str(digest.hexdigest())


def _new(size: int) -> Any:
    """A SHA-256 to be filled with about `size` bytes.

    OpenSSL's is six times as fast as Python's own, but takes 3 ms to load: more than it saves below a MB, and a
    board that only answers once would wait for it.
    """
    if size < _SMALL and "hashlib" not in sys.modules:
        try:
            if sys.version_info >= (3, 12):
                from _sha2 import sha256
            else:
                from _sha256 import sha256  # type: ignore[import-not-found]
            return sha256()
        except ImportError:  # a Python that was built without it
            pass
    import hashlib

    return hashlib.sha256()
