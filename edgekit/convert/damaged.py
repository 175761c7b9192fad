"""What Python's own readers raise of a damaged archive: a list that is long, and that grows with each fuzzing."""

from __future__ import annotations

import lzma
import struct
import zipfile
import zlib

# a wrong method or version, an end too early, a password, an offset that leads out of the file, text that is none
ARCHIVE_ERRORS = (
    ValueError, OSError, EOFError, LookupError, RuntimeError, TypeError, NotImplementedError, OverflowError,
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error,
)  # fmt: skip
