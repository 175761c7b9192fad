"""What systemd is told, by datagram (sd_notify(3)); outside of systemd nothing is, and nothing fails."""

from __future__ import annotations

import os
import socket


class Notify:
    """The socket that systemd named in the environment, which programs that we start must not use."""

    def __init__(self) -> None:
        self._address = os.environ.pop("NOTIFY_SOCKET", "")
        watchdog_us, pid = os.environ.pop("WATCHDOG_USEC", ""), os.environ.pop("WATCHDOG_PID", "")
        is_ours = pid in ("", str(os.getpid())) and watchdog_us.isdigit()
        # how long it waits for a sign of life; None: it does not
        self.watchdog_s = int(watchdog_us) / 1e6 if is_ours and int(watchdog_us) > 0 else None

    def __call__(self, *lines: str) -> None:
        """Tells it lines like READY=1."""
        if not self._address:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
                sock.settimeout(5)
                sock.sendto("\n".join(lines).encode(), address)
        except OSError:  # a manager that restarts: it asks again what it missed
            pass
