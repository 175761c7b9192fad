"""On the device: whether a release gives its golden answers, as its own runner finds in a process of its own.

Sent together with the agent; standard library only, Python >= 3.9.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import time
from typing import Any, BinaryIO

from edgekit.deploy.disk import OUR_FAULT, Refused

CHECK_S = 600.0  # for the golden vectors, on the slowest board

# What the launcher does (release.py), but that the libraries of the runtime are there already when the release is named.
_WARM = """
import os, sys
sys.dont_write_bytecode = True
site = sys.argv[1]
sys.path = [site] + [place for place in sys.path if place]
try:
    import importlib.metadata, zipfile, numpy, ai_edge_litert.interpreter
except Exception:
    pass  # the release will say
here = sys.stdin.readline().rstrip("\\n")
if here:
    os.chdir(here)
    sys.path[:1] = [here, here + "/site"]
    os.environ.update(PYTHONPATH=here + ":" + here + "/site", PYTHONDONTWRITEBYTECODE="1")
    sys.argv = ["-c", "check", here, "--json"]
    from edgekit.runner.__main__ import main
    sys.exit(main())
"""


def golden_check(
    folder: str, stream: BinaryIO | None = None, warm: subprocess.Popen[bytes] | None = None
) -> dict[str, Any]:
    """What the release's own runner reports; Refused if it does not answer, or not as it should.

    With the stream that the workstation speaks on, ends with the workstation. `warm` is what `start_warm` gave: if the
    release does not pass in it, its own launcher has the word.
    """
    started, code = time.monotonic(), -1
    if warm is not None:
        code, out, err = _outcome(warm, stream, os.path.realpath(folder).encode() + b"\n")
    if code != 0:
        code, out, err = _outcome(_start_check(folder), stream)
    if code == 0:
        with contextlib.suppress(ValueError, TypeError, RecursionError):
            return dict(json.loads(out), seconds=round(time.monotonic() - started, 3))
        raise Refused("ReleaseUnhealthy", "the runner's report on the device is not JSON", OUR_FAULT)
    lines = err.strip().splitlines() or ["it said nothing"]
    if lines[0].startswith("edgekit.runner: "):  # an error on purpose: what, then what to do
        what, todo = lines[0][len("edgekit.runner: ") :], "".join(lines[1:2]).strip()
    else:
        what, todo = lines[-1], ""
    if code == 5:
        raise Refused("GoldenMismatch", what, todo or "nothing was switched")
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    message = f"the runner failed on the device ({how}): {what[:300]}"
    raise Refused("ReleaseUnhealthy", message, todo or "nothing was switched; is this bundle made for this board?")


def start_warm(site: str) -> subprocess.Popen[bytes]:
    """A Python that loads the libraries of the runtime in `site` while the release is on its way; importing them takes longer
    than the check. It waits for `golden_check`, and ends with us."""
    return _start([sys.executable, "-s", "-c", _WARM, site], subprocess.PIPE, site)


def _start_check(folder: str) -> subprocess.Popen[bytes]:
    """`run check` of a release, by its launcher."""
    command = ["/bin/sh", os.path.join(folder, "run"), "check", "--json"]
    return _start(command, subprocess.DEVNULL, folder)


def _start(command: list[str], given: int, folder: str) -> subprocess.Popen[bytes]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    child = subprocess.Popen(
        command, stdin=given, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, cwd=folder
    )
    # a model that wants more memory than there is costs its own check, and nothing that runs
    with contextlib.suppress(OSError), open(f"/proc/{child.pid}/oom_score_adj", "w") as score:
        score.write("1000")
    return child


def _outcome(
    child: subprocess.Popen[bytes], stream: BinaryIO | None, said: bytes | None = None
) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a check, which is told `said`."""
    with child:
        deadline = time.monotonic() + CHECK_S
        while True:
            try:
                out, err = child.communicate(said, timeout=0.5)
                if _has_ended(stream):  # nobody is there to go on for
                    raise SystemExit(0)
                return child.returncode, out.decode(errors="replace"), err.decode(errors="replace")
            except subprocess.TimeoutExpired:
                said = None  # it is on its way
                if _has_ended(stream):
                    child.kill()
                    raise SystemExit(0) from None
                if time.monotonic() > deadline:
                    child.kill()
                    message = f"the golden check did not end in {CHECK_S:.0f} s"
                    raise Refused("ReleaseUnhealthy", message, "nothing was switched; is it busy?") from None


def _has_ended(stream: BinaryIO | None) -> bool:
    """True if the workstation is gone: while it waits for us nothing is due, so what there is to read is the end."""
    with contextlib.suppress(OSError):  # one that cannot be asked
        return stream is not None and bool(select.select([stream], [], [], 0)[0])
    return False
