"""How much memory this machine has, and children that may not take more: a hostile file claims what it likes."""

from __future__ import annotations

import os
import sys
from pathlib import Path

FALLBACK = 8 << 30  # bytes, where nobody can tell
_CGROUP = Path("/sys/fs/cgroup/memory.max")  # of the container that this is, "max" if there is no limit


def memory_bytes() -> int:
    """The memory of this machine, or of the container that this process is in."""
    try:
        found = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return FALLBACK
    try:
        return min(found, int(_CGROUP.read_text("ascii")))
    except (OSError, ValueError):
        return found


def limit_memory() -> None:
    """The calling process gets a MemoryError (C++: bad_alloc) where it would want more than there is, and leaves no core.

    Linux counts what is written to (RLIMIT_DATA), so that the address space that TensorFlow only maps is not counted.
    """
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    if sys.platform == "linux":
        now, most = resource.getrlimit(resource.RLIMIT_DATA)
        wanted = memory_bytes() if now == resource.RLIM_INFINITY else min(memory_bytes(), now)
        resource.setrlimit(resource.RLIMIT_DATA, (wanted, most))
