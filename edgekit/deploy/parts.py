"""What of edgekit is sent to a device: the probe to all, and the agent to those on which something is to be done."""

from __future__ import annotations

import base64
import zlib
from functools import cache
from pathlib import Path

from edgekit.deploy.transport import packed_sources

AGENT = (  # in the order in which they import one another
    "disk",
    "journal",
    "tree",
    "folder",
    "bytecode",
    "store",
    "guard",
    "command",
    "units",
    "systemd",
    "service",
    "helper",
    "vectors",
    "golden",
    "health",
    "trial",
    "alone",
    "look",
    "recorded",
    "sshsig",
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
def command_line_probe(strict: bool) -> str:
    """The probe as Python in one line, for a command: sshd takes nothing for a command's stdin before it runs, a round trip
    later. No character of it means anything to a shell within single quotes."""
    probe = base64.b64encode(packed_probe()).decode()
    wanted = f'{{"WANTED":{{"root":None,"strict":{strict}}}}}'
    return f'import binascii,zlib;exec(zlib.decompress(binascii.a2b_base64("{probe}")),{wanted})'


@cache
def packed_agent() -> bytes:
    """As `packed_sources` makes it."""
    return packed_sources(tuple(f"edgekit.deploy.{name}" for name in AGENT))
