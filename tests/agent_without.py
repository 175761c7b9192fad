"""The agent as it is sent, with fsyncs taken out: what such an agent breaks, a test of power cuts has to find."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

from edgekit.deploy.parts import packed_agent

ALL = "all"
# Names an fsync by the functions that it is called from, writes that down, and skips it if it is the one.
NAMED = """

def _named_fsync(handle):
    import sys
    names, frame = [], sys._getframe(1)
    while frame is not None:
        if frame.f_globals.get("__name__", "").startswith("edgekit.deploy."):
            names.insert(0, frame.f_code.co_name)
        frame = frame.f_back
    dull = ("serve", "reply_to", "answer", "<lambda>", "<module>", "sync", "sync_at_once", "work", "_act", "main")
    kind = " (folder)" if stat.S_ISDIR(os.fstat(handle).st_mode) else " (file)"
    name = " > ".join(name for name in names if name not in dull) + kind
    with open({labels!r}, "a") as file:
        file.write(name + "\\n")
    if name != {left_out!r}:
        os.fsync(handle)
"""


def agent_without(left_out: str, labels: Path | None = None) -> bytes:
    """The agent without that fsync, which writes to `labels` which it called; or without all of them.

    It has no sync(2) either, which a disk may answer early, and does one thing after the other.
    """
    changed = []
    for name, source in json.loads(zlib.decompress(packed_agent())):
        source = source.replace("os.sync()", "None").replace("AT_ONCE = 12", "AT_ONCE = 1")
        if left_out == ALL:
            source = source.replace("os.fsync(", "bool(")
        elif name.endswith(".disk"):
            source = source.replace("os.fsync(", "_named_fsync(")
            source += NAMED.format(labels=str(labels), left_out=left_out)
        changed.append((name, source))
    assert not any("os.fsync(" in source for name, source in changed if left_out == ALL)
    return zlib.compress(json.dumps(changed).encode(), 9)


def called(path: Path) -> dict[str, int]:
    """Which fsyncs were called, and how often."""
    found: dict[str, int] = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        found[line] = found.get(line, 0) + 1
    return found
