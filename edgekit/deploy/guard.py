"""On the device: the process that ends a trial when nobody else does, where no systemd does it.

It belongs to nobody's session, holds all its code in memory, and counts the time since the start of the machine: neither a
lost connection, nor a full disk, nor a clock that is set meanwhile keeps it from its work. A power cut does; then
the next start of the machine ends the trial (trial.py).
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable

from edgekit.deploy.disk import Refused
from edgekit.deploy.journal import Journal, Moment

START_S = 60.0  # for Python to start on the slowest board
LOOK_S = 1.0  # between two looks at the journal


def start_process(agent_path: str, release: str) -> None:
    """A guard for that release is there when this returns. Raises Refused if it does not start."""
    command = [sys.executable, "-I", agent_path, "guard", release, "--detach"]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=START_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Refused("DeviceError", f"the guard does not start: {error}", "nothing was switched; try again") from None
    if done.returncode != 0:
        said = (done.stderr.decode(errors="replace").strip().splitlines() or ["it said nothing"])[-1]
        raise Refused("DeviceError", f"the guard does not start: {said}", "nothing was switched; try again")


def detach() -> bool:
    """True in a new process that no session, terminal or parent has; False in the one that asked for it."""
    if os.fork():
        return False
    os.setsid()
    if os.fork():
        os._exit(0)
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    return True


def wait(
    release: str,
    read: Callable[[], Journal | None],
    now: Callable[[], Moment],
    sleep: Callable[[float], None] = time.sleep,
) -> bool:
    """True when somebody has to decide on the release; False as soon as it is no longer on trial."""
    while True:
        found = read()
        if found is None or not found.is_trial or found.to != release:
            return False
        left = found.decide_s - now().seconds
        if left <= 0 or found.boot != now().boot:
            return True
        sleep(min(left, LOOK_S))
