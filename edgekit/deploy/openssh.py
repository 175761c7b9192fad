"""SSH by the `ssh` command: for FIDO and PKCS#11 keys, user and host certificates, and whatever else paramiko cannot do.

`ssh` checks the host key, strictly. Only when it does not get through is the key looked at here, to say what is wrong and to ask
about an unknown one.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from edgekit.deploy.address import Remote
from edgekit.deploy.known_hosts import HostKey, check_host_key, read_known_hosts, read_one_key
from edgekit.deploy.route import Route
from edgekit.deploy.touch import is_on_token, tell_to_touch
from edgekit.deploy.transport import ENDING_S, AskHostKey, ProcessChannel
from edgekit.errors import DeviceRefused, DeviceUnreachable

CONNECT_S = 20.0
PERSON_S = 120.0  # at a terminal somebody may have to type a PIN or touch a key
_UP = b"\nEDGEKIT UP\n"  # printed there before the command starts: until then a failure is one of the connection
_LONGEST_GREETING = 1 << 20  # bytes that a login shell may print before it
_OPTIONS = {
    "ConnectTimeout": f"{CONNECT_S:.0f}",
    "ServerAliveInterval": "15",
    "ServerAliveCountMax": "4",
    "ClearAllForwardings": "yes",
    "RemoteCommand": "none",
    "LogLevel": "ERROR",  # what it prints is quoted, so only what is wrong
}


class _Channel(ProcessChannel):
    """What came behind `_UP` is handed out first."""

    def __init__(self, process: subprocess.Popen[bytes], errors: IO[bytes]) -> None:
        super().__init__(process, errors)
        self.early = b""

    def receive(self, timeout_s: float) -> bytes:
        if self.early:
            block, self.early = self.early, b""
            return block
        return super().receive(timeout_s)


@contextmanager
def openssh_channel(remote: Remote, route: Route, command: str, *, ask: AskHostKey) -> Iterator[ProcessChannel]:
    """`command`, running on the device. Raises DeviceUnreachable, DeviceRefused, HostKeyUnknown or HostKeyChanged."""
    if any(map(is_on_token, route.identities)):
        tell_to_touch("log in")
    with contextlib.ExitStack() as stack:
        for is_last in (False, True):
            running = stack.enter_context(contextlib.ExitStack())
            channel = running.enter_context(_running(remote, route, f"printf '\\nEDGEKIT UP\\n'; {command}"))
            if _is_up(channel):
                break
            words = _last_words(channel)
            running.close()
            if is_last or not _has_vouched(remote, route, ask, words):
                raise DeviceUnreachable(f"ssh does not reach {route}: {words}", hint=_try_by_hand(remote))
        yield channel


def shown_host_key(remote: Remote, route: Route) -> HostKey | None:
    """The key that the device shows now, whatever is on file; nobody is logged in. None if it cannot be reached."""
    with tempfile.TemporaryDirectory(prefix="edgekit-") as folder:
        shown = Path(folder) / "known_hosts"
        only_there = {
            "UserKnownHostsFile": f'"{shown}"',
            "GlobalKnownHostsFile": "/dev/null",
            "KnownHostsCommand": "none",
            "StrictHostKeyChecking": "accept-new",
            "HashKnownHosts": "no",
            "UpdateHostKeys": "no",
            "PreferredAuthentications": "none",
            "BatchMode": "yes",
        }
        with contextlib.suppress(subprocess.TimeoutExpired):
            subprocess.run(
                [*_ssh(remote, only_there), "true"], stdin=subprocess.DEVNULL, capture_output=True, timeout=CONNECT_S
            )
        return read_one_key(shown)


def _ssh(remote: Remote, options: dict[str, str]) -> list[str]:
    words = [f"-o{name}={value}" for name, value in {**_OPTIONS, **options}.items()]
    port = ["-p", str(remote.port)] if remote.port else []
    return ["ssh", "-T", *words, *port, *(["-l", remote.user] if remote.user else []), "--", remote.host]


@contextmanager
def _running(remote: Remote, route: Route, command: str) -> Iterator[_Channel]:
    asks = sys.stdin.isatty() and sys.stderr.isatty()
    files = " ".join(f'"{path}"' for path in route.known_hosts)
    options = {"StrictHostKeyChecking": "yes", "BatchMode": "no" if asks else "yes"}
    options |= {"UserKnownHostsFile": files} if files else {}
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [*_ssh(remote, options), command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            bufsize=0,
            start_new_session=not asks,  # Ctrl-C is for us; but a question needs our terminal
        )
        with process:
            try:
                yield _Channel(process, errors)
            finally:
                with contextlib.suppress(OSError):
                    process.stdin.close()  # type: ignore[union-attr]
                try:
                    process.wait(timeout=ENDING_S)
                except subprocess.TimeoutExpired:
                    process.terminate()


def _is_up(channel: _Channel) -> bool:
    received = b""
    deadline = time.monotonic() + (PERSON_S if sys.stdin.isatty() else 2 * CONNECT_S)
    while len(received) < _LONGEST_GREETING and (left := deadline - time.monotonic()) > 0:
        try:
            block = channel.receive(left)
        except TimeoutError:
            return False
        if not block:
            return False
        received += block
        if (at := received.find(_UP)) >= 0:
            channel.early = received[at + len(_UP) :]
            return True
    return False


def _has_vouched(remote: Remote, route: Route, ask: AskHostKey, words: str) -> bool:
    """Whether a person has just vouched for the key, so that it is worth another try. Raises what is wrong otherwise."""
    key = shown_host_key(remote, route)
    if key is None:
        return False
    known = read_known_hosts(route.known_hosts, route.key_name)
    if key not in known.revoked and (key in known.trusted or known.authorities):
        login = f"{route.user}@{route.host}"
        raise DeviceRefused(f"ssh cannot log in to {login}: {words}", hint=f"what does this show: ssh -v {remote}")
    check_host_key(key, known, route, ask)
    return True


def _last_words(channel: _Channel) -> str:
    code, said = channel.ending()
    lines = ["".join(c if c.isprintable() else "?" for c in line.strip()) for line in said.splitlines() if line.strip()]
    return lines[-1] if lines else ("no answer" if code is None else f"exit code {code}")


def _try_by_hand(remote: Remote) -> str:
    return f"what does this show: {' '.join(['ssh', '-v', *_ssh(remote, {})[-1:]])}"
