"""The device's side of `edgekit bench DEVICE`: sent over the channel, it starts the current release's own runner.

Standard library only, Python >= 3.9. What may be started is `ROOT/current/run` with bench or check, nothing else.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Callable
from typing import Any, BinaryIO

LONGEST_S = 280.0  # of one run: the workstation waits 300
VERBS = ("bench", "check")


def serve(
    root: str, receive: Callable[[], dict[str, Any]], send: Callable[[dict[str, Any]], None], stream: BinaryIO
) -> None:
    """Answers {"op": "run", "arguments": [...]} until the workstation closes the channel."""
    while True:
        request = receive()
        try:
            send(_answer(root, request))
        except OSError:  # nobody listens any more
            return


def _bundle(release: str) -> str:
    """The hash that names the bundle of a release."""
    with open(os.path.join(release, "manifest.json"), "rb") as stream:
        return hashlib.sha256(stream.read()).hexdigest()


def _answer(root: str, request: dict[str, Any]) -> dict[str, Any]:
    release = os.path.realpath(os.path.join(root, "current"))
    run = os.path.join(release, "run")
    arguments = request.get("arguments")
    is_ours = isinstance(arguments, list) and all(isinstance(word, str) for word in arguments)
    if request.get("op") == "current" and os.path.isfile(run):
        return {"bundle": _bundle(release), "cores": len(os.sched_getaffinity(0))}
    if not os.path.isfile(run):
        return {"error": "NotInstalled", "message": "there is no release", "hint": "edgekit deploy BUNDLE DEVICE first"}
    if request.get("op") != "run" or not is_ours or not arguments or arguments[0] not in VERBS:
        return {
            "error": "DeviceError",
            "message": "only bench and check are run here",
            "hint": "a fault in edgekit: report it",
        }
    try:
        done = subprocess.run(
            ["/bin/sh", run, *arguments], capture_output=True, timeout=LONGEST_S, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        return {"code": None, "out": [], "errors": [f"no end within {LONGEST_S:g} s"]}
    return {  # as lines: what the other side takes for one is shown on a terminal as one
        "code": done.returncode,
        "out": done.stdout[-(1 << 20) :].decode(errors="replace").splitlines(),
        "errors": done.stderr[-(1 << 14) :].decode(errors="replace").splitlines(),
    }
