"""Bytecode as Python itself looks for it and would run it: nothing of edgekit's own judges it here."""

from __future__ import annotations

import importlib.util
import marshal

HEADER = 16  # bytes (PEP 552)


def compiled(source: str) -> str:
    """Where Python looks for the bytecode of a source."""
    return importlib.util.cache_from_source(source)


def runs(bytecode: bytes, source: bytes) -> bool:
    """Whether that is what this Python makes of the source."""
    try:
        code = marshal.loads(bytecode[HEADER:])
    except (EOFError, ValueError, TypeError):
        return False
    is_ours = bytecode[:4] == importlib.util.MAGIC_NUMBER
    return is_ours and bool(code == compile(source, "", "exec", dont_inherit=True))
