"""One channel to a Python on the device: bytes in, bytes out. Local process or SSH, the protocol is the same."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import BinaryIO, Protocol

from edgekit.deploy.address import Address, Local
from edgekit.errors import DeviceUnreachable

# The whole program arrives on stdin: nothing is quoted, no file has to be there. -I: nobody's environment gets in.
BOOTSTRAP = "import sys,zlib;i=sys.stdin.buffer;exec(zlib.decompress(i.read(int(i.readline()))))"

AskHostKey = Callable[[str, str, str], bool]  # host, key type, fingerprint -> does the person vouch for it?


class Channel(Protocol):
    """A running command on the device."""

    stdin: BinaryIO
    stdout: BinaryIO

    def ending(self) -> tuple[int | None, str]:
        """After stdout has ended: the command's exit code (None if unknown) and what it wrote to stderr."""


@contextmanager
def open_channel(address: Address, *, python: str, ask: AskHostKey) -> Iterator[Channel]:
    """A Python on the device that waits for its program on stdin. Raises DeviceError when it cannot be had."""
    if isinstance(address, Local):
        with _local_channel(python) as channel:
            yield channel
        return
    from edgekit.deploy.ssh import ssh_channel  # paramiko is slow to import and of no use for a local device

    with ssh_channel(address, f"exec {python} -I -c '{BOOTSTRAP}'", ask=ask) as channel:
        yield channel


class _Process:
    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        self.process = process
        self.stdin: BinaryIO = process.stdin  # type: ignore[assignment]  # typeshed says IO[bytes]
        self.stdout: BinaryIO = process.stdout  # type: ignore[assignment]
        self._stderr = process.stderr

    def ending(self) -> tuple[int | None, str]:
        text = self._stderr.read().decode(errors="replace")
        return self.process.wait(timeout=30), text


@contextmanager
def _local_channel(python: str) -> Iterator[_Process]:
    # python3 means the interpreter behind this one: a virtual environment's packages are not on the "device"
    program = os.path.realpath(sys.executable) if python == "python3" else python
    try:
        process = subprocess.Popen(
            [program, "-I", "-c", BOOTSTRAP],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for us; the agent ends when its stdin does
        )
    except OSError as error:
        raise DeviceUnreachable(f"{program} does not start: {error.strerror}", hint="give another --python") from error
    with process:
        try:
            yield _Process(process)
        finally:
            with contextlib.suppress(OSError):  # the agent may be gone already
                process.stdin.close()  # type: ignore[union-attr]
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
