"""The workstation's side of the protocol: bootstraps the probe, then asks the agent, one request at a time."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from edgekit import errors
from edgekit.deploy.address import Address, Local, check_python
from edgekit.deploy.platforms import Platform
from edgekit.deploy.transport import AskHostKey, Channel, open_channel
from edgekit.errors import DeviceError, DeviceUnreachable, DeviceUnsupported, EdgekitError

MAGIC = b"\nEDGEKIT 1\n"
OLDEST_PYTHON = (3, 9)
_LONGEST_FRAME = 64 << 20  # bytes; a listing of a large runtime is under 1 MB
_SENT_BY_SHELL = 1 << 20  # bytes a login shell may print before the probe speaks


def refuse_host_key(host: str, key_type: str, fingerprint: str) -> bool:
    """The answer where nobody can be asked."""
    return False


@dataclass(frozen=True)
class Hello:
    """What the device said of itself."""

    python: tuple[int, ...]
    executable: str
    arch: str
    libc: str
    numpy: str | None
    system: str  # for a person: the name of its Linux
    board: str  # for a person: the device tree's model, "" on a PC
    root: str
    free_bytes: int | None
    current: str | None  # release id
    previous: str | None
    runtimes: tuple[str, ...]

    @property
    def platform(self) -> Platform:
        """What decides which wheels run there."""
        return Platform((self.python[0], self.python[1]), self.arch, self.libc, self.numpy)


class Session:
    """A device that listens. `hello` is known from the start; the agent is sent with the first request."""

    def __init__(self, channel: Channel, address: Address, python: str) -> None:
        self._channel = channel
        self._address = address
        self._python = python
        self._has_agent = False
        self._write(b"%d\n" % len(_packed("probe.py")) + _packed("probe.py"))
        self._send({"root": str(address.root) if isinstance(address, Local) else None})
        self._skip_to_magic()
        self.hello = _read_hello(self._receive())

    def request(self, operation: str, **arguments: Any) -> Mapping[str, Any]:
        """The agent's answer; its refusal is raised as the EdgekitError that it names."""
        self._send_request(operation, **arguments)
        return self._answer()

    def put(self, sha256: str, path: Path, *, answer: bool) -> None:
        """Sends one file as a blob, packed if that makes it smaller. Only with `answer` waits until it is stored."""
        data = path.read_bytes()
        packed = zlib.compress(data, 3) if len(data) > 512 else data
        is_smaller = len(packed) < len(data)
        body = packed if is_smaller else data
        try:
            self._send_request("put", sha256=sha256, size=len(data), stored=len(body), packed=is_smaller, answer=answer)
            self._write(body)
        except DeviceUnreachable:
            self._answer()  # an agent that stopped listening has said why
            raise
        if answer:
            self._answer()

    def _send_request(self, operation: str, **arguments: Any) -> None:
        if not self._has_agent:
            agent = _packed("agent.py")
            self._send({"agent": len(agent)})
            self._write(agent)
            self._has_agent = True
        self._send({"op": operation, **arguments})

    def _answer(self) -> Mapping[str, Any]:
        answer = self._receive()
        if "error" in answer:
            kind = getattr(errors, str(answer["error"]), DeviceError)
            if not (isinstance(kind, type) and issubclass(kind, EdgekitError)):
                kind = DeviceError
            raise kind(f"{self._address}: {answer['message']}", hint=str(answer.get("hint", "")))
        return answer

    def _send(self, message: Mapping[str, Any]) -> None:
        data = json.dumps(message).encode()
        self._write(struct.pack(">I", len(data)) + data)

    def _write(self, data: bytes) -> None:
        try:
            self._channel.stdin.write(data)
            self._channel.stdin.flush()
        except OSError as error:
            if not self._has_agent:
                raise self._no_start() from error
            raise DeviceUnreachable(
                f"{self._address}: the connection broke while sending",
                hint="nothing was switched; deploy again, files that arrived are kept",
            ) from error

    def _read(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            try:
                block = self._channel.stdout.read(count - len(data))
            except OSError:
                block = b""
            if not block:
                raise self._lost()
            data += block
        return data

    def _receive(self) -> dict[str, Any]:
        (size,) = struct.unpack(">I", self._read(4))
        if size > _LONGEST_FRAME:
            raise DeviceError(f"{self._address}: not an answer of ours", hint="does its shell print to the session?")
        try:
            message = json.loads(self._read(size))
        except ValueError as error:
            raise DeviceError(f"{self._address}: not an answer of ours", hint="deploy again") from error
        return dict(message)

    def _skip_to_magic(self) -> None:
        """A login shell may print a greeting before the probe speaks."""
        seen = b""
        while not seen.endswith(MAGIC):
            try:
                byte = self._channel.stdout.read(1)
            except OSError:
                byte = b""
            if not byte or len(seen) > _SENT_BY_SHELL:
                raise self._no_start()
            seen += byte

    def _no_start(self) -> EdgekitError:
        code, text = self._channel.ending()
        last = (text.strip().splitlines() or [f"exit code {code}"])[-1]
        if code in (126, 127) or "not found" in last or "No such file" in last:
            return DeviceUnsupported(
                f"{self._address} has no {self._python}: {last}",
                hint="on the device: sudo apt install python3 (or name another one with --python)",
            )
        return DeviceUnreachable(f"{self._address}: {self._python} did not start: {last}", hint="try it there by hand")

    def _lost(self) -> EdgekitError:
        code, text = self._channel.ending()
        if code not in (None, 0, 255) and text.strip():
            return DeviceError(
                f"{self._address}: the agent failed: {text.strip().splitlines()[-1]}",
                hint="this is a fault in edgekit: report it, with the board's system and Python",
            )
        return DeviceUnreachable(f"{self._address}: the connection broke", hint="nothing was switched; try again")


@contextmanager
def open_session(address: Address, *, python: str = "python3", ask: AskHostKey = refuse_host_key) -> Iterator[Session]:
    """A session with the device. Raises DeviceError if there is none to be had, DeviceUnsupported for an old Python."""
    with open_channel(address, python=check_python(python), ask=ask) as channel:
        session = Session(channel, address, python)
        if session.hello.python < OLDEST_PYTHON:
            found = ".".join(str(part) for part in session.hello.python)
            raise DeviceUnsupported(
                f"{address}: {session.hello.executable} is Python {found}, the runner needs 3.9 or newer",
                hint="install a newer python3 beside it and name it with --python (3.9-3.14 have interpreter wheels)",
            )
        yield session


@cache
def _packed(name: str) -> bytes:
    """A source file of ours, as it is sent: without comments' weight it would hardly be smaller."""
    return zlib.compress((Path(__file__).parent / name).read_bytes(), 9)


def _read_hello(fields: Mapping[str, Any]) -> Hello:
    return Hello(
        python=tuple(int(part) for part in fields["python"]),
        executable=str(fields["executable"]),
        arch=str(fields["arch"]),
        libc=str(fields["libc"]),
        numpy=fields["numpy"],
        system=str(fields["system"]),
        board=str(fields["board"]),
        root=str(fields["root"]),
        free_bytes=fields["free_bytes"],
        current=fields["current"],
        previous=fields["previous"],
        runtimes=tuple(fields["runtimes"]),
    )
