"""What of edgekit is sent to a device: the probe to all, and the agent to those on which something is to be done."""

from __future__ import annotations

import zlib
from functools import cache
from pathlib import Path

from edgekit.deploy.transport import packed_sources

AGENT = (  # in the order in which they import one another
    "disk",
    "journal",
    "tree",
    "folder",
    "store",
    "guard",
    "command",
    "units",
    "systemd",
    "service",
    "vectors",
    "golden",
    "health",
    "trial",
    "alone",
    "look",
    "recorded",
    "signing",
    "signers",
    "intake",
    "agent",
)


@cache
def packed_probe() -> bytes:
    """As it is sent: without comments it would hardly be smaller."""
    return zlib.compress((Path(__file__).parent / "probe.py").read_bytes(), 9)


@cache
def packed_agent() -> bytes:
    """As `packed_sources` makes it."""
    return packed_sources(tuple(f"edgekit.deploy.{name}" for name in AGENT))
