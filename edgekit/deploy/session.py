"""The workstation's side of the protocol: bootstraps the probe, then asks the agent, one request at a time."""

from __future__ import annotations

import contextlib
import json
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from edgekit import errors
from edgekit.deploy.address import Address, Local, check_python
from edgekit.deploy.answers import ANSWERS, fits
from edgekit.deploy.transport import AskHostKey, Channel, open_channel, packed_sources
from edgekit.errors import DeviceError, DeviceRefused, DeviceUnreachable, DeviceUnsupported, EdgekitError
from edgekit.platforms import Platform

MAGIC = b"\nEDGEKIT 1\n"
OLDEST_PYTHON = (3, 9)
AGENT = (  # in the order in which they import one another
    "disk",
    "journal",
    "tree",
    "store",
    "guard",
    "command",
    "units",
    "systemd",
    "service",
    "helper",
    "vectors",
    "health",
    "trial",
    "alone",
    "look",
    "recorded",
    "signing",
    "signers",
    "agent",
)
HELLO_S = 60.0  # for a board to start Python
ANSWER_S = 300.0  # for it to answer: it may have to write all it got to a slow card
CHECK_S = 900.0  # for the golden check: the agent itself gives up after 600
_LONGEST_FRAME = 64 << 20  # bytes; a listing of a large runtime is under 1 MB
_TOLD_EACH = 1 << 20  # bytes of a blob, after which whoever waits is told
_SENT_BY_SHELL = 1 << 20  # bytes a login shell may print before the probe speaks
_CHANGES = (
    "trial",
    "confirm",
    "rollback",
    "adopt",
    "remove",
    "helper",
)  # after these, a lost answer leaves open what happened


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
    unsafe: str  # why the root must not be used; "" if it may
    free_bytes: int | None
    current: str | None  # release id
    phase: str | None  # idle or trial; None where no journal is
    good: str | None  # the release that was confirmed last
    previous: str | None
    trial: str | None
    runtimes: tuple[str, ...]
    signers: bool  # it takes signed releases only

    @property
    def platform(self) -> Platform:
        """What decides which wheels run there."""
        return Platform((self.python[0], self.python[1]), self.arch, self.libc, self.numpy)


class Session:
    """A device that listens. `hello` is known from the start; the agent is sent with the first request."""

    def __init__(self, channel: Channel, address: Address, python: str, agent: bytes | None = None) -> None:
        self._channel = channel
        self._packed_agent = _packed_agent() if agent is None else agent
        self._address = address
        self._python = python
        self._has_agent = False
        self._operation = "hello"
        self._received = bytearray()
        self._write(b"%d\n" % len(_packed_probe()) + _packed_probe())
        self._send({"root": str(address.root) if isinstance(address, Local) else None})
        self._skip_to_magic()
        self.hello = self._read_hello(self._receive())

    def request(self, operation: str, **arguments: Any) -> Mapping[str, Any]:
        """The agent's answer; its refusal is raised as the EdgekitError that it names."""
        self._send_request(operation, **arguments)
        return self._answer()

    def put(
        self,
        sha256: str,
        data: bytes,
        *,
        answer: bool,
        offset: int = 0,
        sent: Callable[[float], None] = lambda share: None,
    ) -> list[str]:
        """Sends one blob from `offset` on, packed if that makes it smaller. Only with `answer` waits until it is stored.

        `sent` is told which share of it is on its way. Returns the blobs that have to be sent again, from their
        beginning: what lay there was something else.
        """
        size, data = len(data), data[offset:]
        packed = zlib.compress(data, 1) if _is_packable(data) else data  # a third of the time of level 3, 4 % more
        is_smaller = len(packed) < len(data)
        body = packed if is_smaller else data
        try:
            about = {"size": size, "stored": len(body), "packed": is_smaller, "offset": offset}
            self._send_request("put", sha256=sha256, answer=answer, **about)
            for start in range(0, len(body), _TOLD_EACH):
                self._write(body[start : start + _TOLD_EACH])
                sent(min(1.0, (start + _TOLD_EACH) / len(body)))
        except DeviceUnreachable:
            self._answer()  # an agent that stopped listening has said why
            raise
        return [str(again) for again in self._answer()["again"]] if answer else []

    def end(self) -> None:
        """Lets the agent end and waits for it, so that its lock is free when we return."""
        if self._has_agent:
            with contextlib.suppress(OSError):
                self._channel.end()
                self._channel.ending()

    def _send_request(self, operation: str, **arguments: Any) -> None:
        self._operation = operation
        if not self._has_agent:
            self._send({"agent": len(self._packed_agent)})
            self._write(self._packed_agent)
            self._has_agent = True
        self._send({"op": operation, **arguments})

    def _answer(self) -> Mapping[str, Any]:
        answer = self._receive()
        if "error" in answer:
            kind = getattr(errors, str(answer["error"]), DeviceError)
            if not (isinstance(kind, type) and issubclass(kind, EdgekitError)):
                kind = DeviceError
            raise kind(f"{self._address}: {plain(answer.get('message'))}", hint=plain(answer.get("hint")))
        if not fits(answer, ANSWERS.get(self._operation, dict)):
            raise self._not_ours()
        return answer

    def _send(self, message: Mapping[str, Any]) -> None:
        data = json.dumps(message).encode()
        self._write(struct.pack(">I", len(data)) + data)

    def _write(self, data: bytes) -> None:
        try:
            self._channel.send(data, self._patience_s())
        except TimeoutError as error:
            raise self._hung() from error
        except OSError as error:
            if not self._has_agent:
                raise self._no_start(self._read_block()) from error
            raise DeviceUnreachable(
                f"{self._address}: the connection broke while sending",
                hint="nothing was switched; deploy again: what arrived is not sent again",
            ) from error

    def _read_block(self) -> bytes:
        """What the device sends next; b"" when that was all."""
        try:
            return self._channel.receive(self._patience_s())
        except TimeoutError as error:
            raise self._hung() from error
        except OSError:
            return b""

    def _read(self, count: int) -> bytes:
        while len(self._received) < count:
            block = self._read_block()
            if not block:
                raise self._lost()
            self._received += block
        taken = bytes(self._received[:count])
        del self._received[:count]
        return taken

    def _receive(self) -> dict[str, Any]:
        (size,) = struct.unpack(">I", self._read(4))
        if size > _LONGEST_FRAME:
            raise self._not_ours()
        try:
            return dict(plain_values(dict(json.loads(self._read(size)))))
        except (ValueError, TypeError, RecursionError) as error:  # a nesting too deep for Python is not ours either
            raise self._not_ours() from error

    def _skip_to_magic(self) -> None:
        """A login shell may print a greeting before the probe speaks."""
        start = -1
        while start < 0:
            block = self._read_block()
            if not block or len(self._received) > _SENT_BY_SHELL:
                raise self._no_start(bytes(self._received))
            searched = max(0, len(self._received) - len(MAGIC))
            self._received += block
            start = self._received.find(MAGIC, searched)
        del self._received[: start + len(MAGIC)]

    def _read_hello(self, fields: Mapping[str, Any]) -> Hello:
        try:
            hello = Hello(
                python=tuple(int(part) for part in fields["python"]),
                executable=str(fields["executable"]),
                arch=plain(fields["arch"]),
                libc=plain(fields["libc"]),
                numpy=None if fields["numpy"] is None else plain(fields["numpy"]),
                system=plain(fields["system"]),
                board=plain(fields["board"]),
                root=plain(fields["root"]),
                unsafe=plain(fields["unsafe"]),
                free_bytes=None if fields["free_bytes"] is None else int(fields["free_bytes"]),
                current=None if fields["current"] is None else plain(fields["current"]),
                phase=None if fields["phase"] is None else plain(fields["phase"]),
                good=None if fields["good"] is None else plain(fields["good"]),
                previous=None if fields["prev"] is None else plain(fields["prev"]),
                trial=None if fields["to"] is None else plain(fields["to"]),
                runtimes=tuple(plain(name) for name in fields["runtimes"]),
                signers=bool(fields["signers"]),
            )
            assert len(hello.python) >= 2
        except (KeyError, TypeError, ValueError, AssertionError) as error:
            raise self._not_ours() from error
        return hello

    def _patience_s(self) -> float:
        return {"hello": HELLO_S, "release": CHECK_S, "trial": CHECK_S}.get(self._operation, ANSWER_S)

    # -- what went wrong

    def _no_start(self, printed: bytes) -> EdgekitError:
        code, text = self._channel.ending()
        lines = plain_lines(text) or plain_lines(printed.decode(errors="replace")) or [f"exit code {code}"]
        if code in (126, 127):  # as shells say it: cannot be run, cannot be found
            return DeviceUnsupported(
                f"{self._address} has no {self._python}: {lines[0]}",
                hint="on the device: sudo apt install python3 (or name another one with --python)",
            )
        if code in (None, 0, 255):
            return DeviceUnreachable(
                f"{self._address}: {self._python} did not start: {lines[-1]}",
                hint=f"log in there and see what this prints: {self._python} --version",
            )
        return DeviceUnsupported(
            f"{self._address}: {self._python} did not start (exit code {code}): {lines[-1]}",
            hint="Python 3.9 or newer is needed there; name one with --python",
        )

    def _lost(self) -> EdgekitError:
        code, text = self._channel.ending()
        lines = plain_lines(text)
        if code is not None and code < 0:
            return DeviceError(
                f"{self._address}: the agent was killed there", hint=f"out of memory? {self._aftermath()}"
            )
        if code not in (None, 0, 255) and lines:
            return DeviceError(
                f"{self._address}: the agent failed: {lines[-1]}",
                hint="this is a fault in edgekit: report it, with the board's system and Python",
            )
        return DeviceUnreachable(f"{self._address}: the connection broke", hint=self._aftermath())

    def _hung(self) -> EdgekitError:
        return DeviceUnreachable(
            f"{self._address}: nothing was heard from it for {self._patience_s():.0f} s", hint=self._aftermath()
        )

    def _not_ours(self) -> EdgekitError:
        return DeviceError(
            f"{self._address}: what it answers is not ours", hint="does its login shell print to the session later on?"
        )

    def _aftermath(self) -> str:
        if self._operation in _CHANGES:
            return f"edgekit status {self._address} shows whether it was done"
        return "nothing was switched; try again: what arrived is not sent again"


@contextmanager
def open_session(
    address: Address,
    *,
    python: str = "python3",
    ask: AskHostKey = refuse_host_key,
    agent: bytes | None = None,
    strict: bool = True,
) -> Iterator[Session]:
    """A session with the device. Raises DeviceError if there is none to be had, DeviceUnsupported for an old Python.

    `agent` is what answers there, as `packed_sources` makes it; None is the one that deploys. Without `strict` an old
    Python and an unsafe root are let through, for who only looks.
    """
    with open_channel(address, python=check_python(python), ask=ask) as channel:
        session = Session(channel, address, python, agent)
        hello = session.hello
        if strict and hello.python < OLDEST_PYTHON:
            found = ".".join(str(part) for part in hello.python)
            raise DeviceUnsupported(
                f"{address}: {plain(hello.executable)} is Python {found}, the runner needs 3.9 or newer",
                hint="install a newer python3 beside it and name it with --python (3.9-3.14 have interpreter wheels)",
            )
        if strict and hello.unsafe:
            raise DeviceRefused(
                f"{address}: {hello.root} {hello.unsafe}",
                hint="on the device: make it a folder of the login user that nobody else can write (chmod go-w)",
            )
        yield session
        session.end()


def _is_packable(data: bytes) -> bool:
    """Whether packing is worth its time, by a sample from the middle: weights hardly shrink, code does by half."""
    middle = data[len(data) // 2 :][: 1 << 15]
    return len(data) > 512 and len(zlib.compress(middle, 1)) < 0.9 * len(middle)


def plain(text: object) -> str:
    """What a device says, as one line that a terminal can show: no control characters, no surrogates."""
    said = str(text or "")
    return said if said.isprintable() else "".join(char if char.isprintable() else "?" for char in said)


def plain_values(value: Any) -> Any:
    """The same of every text in an answer: any of them may be shown."""
    if isinstance(value, str):
        return plain(value)
    if isinstance(value, dict):
        return {plain(key): plain_values(one) for key, one in value.items()}
    return [plain_values(one) for one in value] if isinstance(value, list) else value


def plain_lines(text: str) -> list[str]:
    """The lines of what a device says that are not empty."""
    return [plain(line.strip()) for line in text.splitlines() if line.strip()]


def _source(name: str) -> str:
    return (Path(__file__).parent / f"{name}.py").read_text("utf-8")


@cache
def _packed_probe() -> bytes:
    """As it is sent: without comments it would hardly be smaller."""
    return zlib.compress(_source("probe").encode(), 9)


@cache
def _packed_agent() -> bytes:
    return packed_sources(tuple(f"edgekit.deploy.{name}" for name in AGENT))
