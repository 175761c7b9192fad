"""On the device: other programs, started without a shell and with nothing of ours that they could keep.

Sent together with the agent; standard library only, Python >= 3.9.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence

COMMAND_S = 60.0


def run(command: Sequence[str], timeout_s: float = COMMAND_S) -> tuple[int, str, str]:
    """Exit code, stdout and the last line of stderr; 127 where there is no such command, 124 where it does not end."""
    known = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "XDG_RUNTIME_DIR": runtime_folder()}
    kept = {name: os.environ[name] for name in ("HOME", "USER", "DBUS_SESSION_BUS_ADDRESS") if name in os.environ}
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout_s,
            env={**kept, **known},
            check=False,
        )
    except OSError as error:
        return 127, "", f"{command[0]}: {error.strerror}"
    except subprocess.TimeoutExpired:
        return 124, "", f"{command[0]} did not end in {timeout_s:.0f} s"
    lines = done.stderr.decode(errors="replace").strip().splitlines()
    return done.returncode, done.stdout.decode(errors="replace"), lines[-1] if lines else f"exit code {done.returncode}"


def runtime_folder() -> str:
    return os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.geteuid()}"
