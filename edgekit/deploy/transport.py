"""One channel to a Python on the device: bytes in, bytes out. Local process or SSH, the protocol is the same."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Protocol

from edgekit.deploy.address import Address, Local, Remote
from edgekit.deploy.route import find_route, only_openssh
from edgekit.errors import DeviceUnreachable

# For a program that arrives on stdin: nothing is quoted, no file has to be there. -I: nobody's environment gets in.
BOOTSTRAP = "import sys,zlib;i=sys.stdin.buffer;exec(zlib.decompress(i.read(int(i.readline()))))"
ENDING_S = 5.0  # for a command to end once its output has
_BLOCK = 1 << 16
_MOST_STDERR = 1 << 16  # bytes; only the last line is shown

AskHostKey = Callable[[str, str, str], bool]  # host, key type, fingerprint -> does the person vouch for it?


def packed_sources(modules: tuple[str, ...]) -> bytes:
    """edgekit's own modules as they are sent, in the order in which they import one another; the last one has `serve`."""
    package = Path(__file__).parents[1]
    files = ((name, package.joinpath(*name.split(".")[1:]).with_suffix(".py")) for name in modules)
    return zlib.compress(json.dumps([(name, file.read_text("utf-8")) for name, file in files]).encode(), 9)


class Channel(Protocol):
    """A running command on the device. Both directions raise OSError when it broke, TimeoutError when it hangs."""

    def send(self, data: bytes, timeout_s: float) -> None:
        """Returns when all is on its way; `timeout_s` is for each step forward."""

    def receive(self, timeout_s: float) -> bytes:
        """What has arrived, at least a byte; b"" after the last one."""

    def end(self) -> None:
        """Tells the command that nothing more will come."""

    def ending(self) -> tuple[int | None, str]:
        """Its exit code (negative: killed by a signal; None: still running, or nobody can tell) and its stderr."""


@contextmanager
def open_channel(address: Address, *, python: str, program: str, ask: AskHostKey) -> Iterator[Channel]:
    """A Python on the device that runs `program`. Raises DeviceError when it cannot be had.

    `program` is ours, and has no single quote: it goes through the device's login shell.
    """
    assert "'" not in program
    if isinstance(address, Local):
        with _local_channel(python, program) as channel:
            yield channel
        return
    with _ssh_channel(address, f"exec {python} -I -c '{program}'", ask) as channel:
        yield channel


@contextmanager
def _ssh_channel(remote: Remote, command: str, ask: AskHostKey) -> Iterator[Channel]:
    """By paramiko, unless that cannot do what the configuration asks for, or the person said otherwise."""
    route = find_route(remote)
    with contextlib.ExitStack() as stack:
        channel: Channel | None = None
        if remote.transport == "paramiko" or (remote.transport == "auto" and not only_openssh(route)):
            from edgekit.deploy.ssh import NothingInCommon, ssh_channel  # slow to import, of no use for a local device

            try:
                channel = stack.enter_context(ssh_channel(route, command, ask=ask))
            except NothingInCommon:
                if remote.transport == "paramiko":
                    raise
        if channel is None:
            from edgekit.deploy.openssh import openssh_channel

            channel = stack.enter_context(openssh_channel(remote, route, command, ask=ask))
        yield channel


class ProcessChannel:
    """A channel to a process of this machine: Python itself, or `ssh`."""

    def __init__(self, process: subprocess.Popen[bytes], errors: IO[bytes]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._process = process
        self._stdin = process.stdin
        self._out = process.stdout.fileno()
        self._errors = errors
        os.set_blocking(self._stdin.fileno(), False)  # our end of the pipe only: a hung agent must not hang us

    def send(self, data: bytes, timeout_s: float) -> None:
        left = memoryview(data)
        while left:
            _wait(self._stdin.fileno(), select.POLLOUT, timeout_s)
            with contextlib.suppress(BlockingIOError):
                left = left[os.write(self._stdin.fileno(), left[:_BLOCK]) :]

    def receive(self, timeout_s: float) -> bytes:
        _wait(self._out, select.POLLIN, timeout_s)
        return os.read(self._out, _BLOCK)

    def end(self) -> None:
        self._stdin.close()

    def ending(self) -> tuple[int | None, str]:
        try:
            code: int | None = self._process.wait(timeout=ENDING_S)
        except subprocess.TimeoutExpired:
            code = None
        size = self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(0, size - _MOST_STDERR))
        return code, self._errors.read().decode(errors="replace")


def _wait(descriptor: int, event: int, timeout_s: float) -> None:
    poll = select.poll()
    poll.register(descriptor, event)
    if not poll.poll(timeout_s * 1000):
        raise TimeoutError


@contextmanager
def _local_channel(python: str, program: str) -> Iterator[ProcessChannel]:
    # python3 means the interpreter behind this one: a virtual environment's packages are not on the "device"
    started = os.path.realpath(sys.executable) if python == "python3" else python
    with tempfile.TemporaryFile() as errors:  # not a pipe, which could fill up while nobody reads it
        try:
            process = subprocess.Popen(
                [started, "-I", "-c", program],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                bufsize=0,
                start_new_session=True,  # Ctrl-C is for us; the agent ends when its stdin does
            )
        except OSError as error:
            hint = "name another one with --python"
            raise DeviceUnreachable(f"{started} does not start: {error.strerror}", hint=hint) from error
        with process:
            try:
                yield ProcessChannel(process, errors)
            finally:
                process.stdin.close()  # type: ignore[union-attr]
                try:
                    process.wait(timeout=ENDING_S)
                except subprocess.TimeoutExpired:
                    process.kill()
