"""On the device: the process that ends a trial when nobody else does, where no systemd does it.

It belongs to nobody's session, holds all its code in memory, and counts the time since the start of the machine: neither a
lost connection, nor a full disk, nor a clock that is set meanwhile keeps it from its work. A power cut does; then
the next start of the machine ends the trial (trial.py).
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from typing import NoReturn

from edgekit.deploy.disk import Refused
from edgekit.deploy.journal import Journal, Moment

LOOK_S = 1.0  # between two looks at the journal
AGAIN = "nothing was switched; try again"


def start_process(agent_path: str, release: str, act: Callable[[str, list[str]], int]) -> None:
    """A guard for that release is there when this returns: a copy of this process, all code in memory, that calls `act`.

    It holds nothing that we have open: neither our lock nor our channel. Raises Refused if it does not start.
    """
    try:
        child = os.fork()
        if child == 0:
            _become_guard(agent_path, release, act)
        _, status = os.waitpid(child, 0)
    except OSError as error:
        raise Refused("DeviceError", f"the guard does not start: {error.strerror or error}", AGAIN) from None
    if status != 0:
        raise Refused("DeviceError", f"the guard does not start (status {status})", AGAIN)


def _become_guard(agent_path: str, release: str, act: Callable[[str, list[str]], int]) -> NoReturn:
    """Ends this process, after it has left one that no session, terminal or parent has and that does the work."""
    code = 1
    try:
        os.setsid()
        os.chdir("/")
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor in map(
            int, os.listdir("/proc/self/fd")
        ):  # before the next fork: who waits for us may rely on it
            if descriptor != null:
                with contextlib.suppress(OSError):  # what listed them is closed already
                    os.close(descriptor)
        for descriptor in (0, 1, 2):
            os.dup2(null, descriptor)
        with contextlib.suppress(OSError), open("/proc/self/comm", "w") as name:
            name.write(f"guard-{release}")  # for ps, which shows its first 15 characters
        code = act(agent_path, ["guard", release]) if os.fork() == 0 else 0
    finally:
        os._exit(code)  # nothing of the process that we are a copy of must happen twice


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
