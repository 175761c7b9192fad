"""The device's side of `edgekit power calibrate`: sent over the channel, it lets the release that is current measure itself."""

from __future__ import annotations

import hashlib
import json
import os
import select
import subprocess
from collections.abc import Callable
from typing import Any, BinaryIO

LONGEST_S = 120.0  # of one measurement, with loading the model
WORDS = ("variant", "threads", "seconds", "clock_khz", "delegate", "meter")


def serve(
    root: str, receive: Callable[[], dict[str, Any]], send: Callable[[dict[str, Any]], None], stream: BinaryIO
) -> None:
    """Answers {"op": "point", "seconds": S, ...} until the workstation closes the channel; without a variant it idles."""
    while True:
        request = receive()
        try:
            send(_answer(os.path.join(root, "current"), request, stream))
        except OSError:  # nobody listens any more
            return


def _answer(release: str, request: dict[str, Any], stream: BinaryIO) -> dict[str, Any]:
    try:
        with open(os.path.join(release, "manifest.json"), "rb") as file:
            manifest = hashlib.sha256(file.read()).hexdigest()
    except OSError:
        return _refused("NotInstalled", "there is no release to measure", "edgekit deploy BUNDLE DEVICE")
    command = ["/bin/sh", os.path.join(release, "run"), "point"]
    for word in WORDS:
        if request.get(word) is not None:
            command.append(f"--{word.replace('_', '-')}={request[word]}")
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, cwd=release
    ) as child:
        for _ in range(round(LONGEST_S / 0.5)):
            try:
                out, err = child.communicate(timeout=0.5)
                break
            except subprocess.TimeoutExpired:
                if select.select([stream], [], [], 0)[0]:  # nothing is due: the workstation has gone
                    child.kill()
                    raise SystemExit(0) from None
        else:
            child.kill()
            return _refused("DeviceError", f"a measurement did not end in {LONGEST_S:.0f} s", "is the board busy?")
    if child.returncode:
        lines = err.decode(errors="replace").strip().splitlines() or ["it said nothing"]
        todo = "".join(lines[1:2]).strip() or "deploy this edgekit's runner: edgekit deploy BUNDLE DEVICE"
        return _refused("DeviceError", lines[0].replace("edgekit.runner: ", "")[:300], todo)
    try:
        return {"point": json.loads(out), "manifest": manifest}
    except ValueError:
        return _refused("DeviceError", "the runner's measurement is not JSON", "deploy again")


def _refused(kind: str, message: str, hint: str) -> dict[str, Any]:
    return {"error": kind, "message": message, "hint": hint}
