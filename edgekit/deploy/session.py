"""The workstation's side of the protocol: bootstraps the probe, then asks the agent, one request at a time."""

from __future__ import annotations

import contextlib
import json
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from edgekit import errors
from edgekit.deploy.address import Address, Local, check_python
from edgekit.deploy.answers import ANSWERS, fits, plain, plain_lines, plain_values
from edgekit.deploy.hello import Hello, check_usable, read_hello
from edgekit.deploy.parts import command_line_probe, packed_agent, packed_probe
from edgekit.deploy.transport import BOOTSTRAP, AskHostKey, Channel, open_channel
from edgekit.errors import DeviceError, DeviceUnreachable, DeviceUnsupported, EdgekitError

MAGIC = b"\nEDGEKIT 1\n"
HELLO_S = 60.0  # for a board to start Python
ANSWER_S = 300.0  # for it to answer: it may have to write all it got to a slow card
CHECK_S = 900.0  # for the golden check: the agent itself gives up after 600
_LONGEST_FRAME = 64 << 20  # bytes; a listing of a large runtime is under 1 MB
_TOLD_EACH = 1 << 20  # bytes of a blob, after which whoever waits is told
_SENT_BY_SHELL = 1 << 20  # bytes a login shell may print before the probe speaks
# no lock is held once these are answered
_FREE = {"hello", "trial", "confirm", "service", "outcome", "rollback", "adopt", "change signers", "remove", "status"}
_CHANGES = (
    "trial",
    "service",
    "confirm",
    "rollback",
    "adopt",
    "remove",
    "helper",
)  # after these, a lost answer leaves open what happened


def refuse_host_key(host: str, key_type: str, fingerprint: str) -> bool:
    """The answer where nobody can be asked."""
    return False


class Session:
    """A device that listens; the agent is sent with the first request. With `strict`, an old Python or an unsafe root is
    an error as soon as the device has spoken, and no agent is run there."""

    def __init__(
        self, channel: Channel, address: Address, python: str, agent: bytes | None = None, *, strict: bool = True
    ) -> None:
        self._channel = channel
        self._packed_agent = packed_agent() if agent is None else agent
        self._address = address
        self._python = python
        self._has_agent = False
        self._strict = strict
        self._operation = "hello"
        self._hello: Hello | None = None
        self._received = bytearray()
        if isinstance(address, Local):  # others have it on their command line
            self._write(b"%d\n" % len(packed_probe()) + packed_probe())
            self._send({"root": str(address.root), "strict": strict})

    @property
    def hello(self) -> Hello:
        """What the device says of itself; it is waited for when it is asked for, or when there is an answer to read."""
        if self._hello is None:
            operation, self._operation = self._operation, "hello"
            self._skip_to_magic()
            try:
                self._hello = read_hello(self._receive())
            except ValueError as error:
                raise self._not_ours() from error
            if self._strict:
                check_usable(self._hello, self._address)
            self._operation = operation
        return self._hello

    def request(self, operation: str, **arguments: Any) -> Mapping[str, Any]:
        """The agent's answer; its refusal is raised as the EdgekitError that it names."""
        return next(self.requests((operation, arguments)))

    def requests(self, *wanted: tuple[str, Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
        """The answers to several requests that are sent now; each is only looked at if the one before went well."""
        following: dict[str, Any] | None = None
        for operation, arguments in reversed(wanted[1:]):
            following = {"op": operation, **arguments, "then": following}
        operation, arguments = wanted[0]
        try:
            self._send_request(operation, **arguments, **({} if following is None else {"then": following}))
        except DeviceUnreachable:
            self._answer()  # an agent that stopped listening has said why
            raise
        return self._answers([operation for operation, _ in wanted])

    def _answers(self, operations: Sequence[str]) -> Iterator[Mapping[str, Any]]:
        for operation in operations:
            self._operation = operation
            yield self._answer()

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
        """Lets the agent end, and waits for it if it may hold its lock: that is free when we return."""
        if self._has_agent:
            with contextlib.suppress(OSError):
                self._channel.end()
                if self._operation not in _FREE:
                    self._channel.ending()

    def _send_request(self, operation: str, **arguments: Any) -> None:
        self._operation = operation
        if not self._has_agent:
            self._send({"agent": len(self._packed_agent)})
            self._write(self._packed_agent)
            self._has_agent = True
        self._send({"op": operation, **arguments})

    def _answer(self) -> Mapping[str, Any]:
        assert self.hello  # it comes first
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

    def _patience_s(self) -> float:
        return {"hello": HELLO_S, "release": CHECK_S, "trial": CHECK_S, "service": CHECK_S}.get(
            self._operation, ANSWER_S
        )

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
    at_once: bool = False,
) -> Iterator[Session]:
    """A session with the device. Raises DeviceError if there is none to be had, DeviceUnsupported for an old Python.

    `agent` is what answers there, as `packed_sources` makes it; None is the one that deploys. Without `strict` an old
    Python and an unsafe root are let through, for who only looks. With `at_once` the device has said nothing yet: the
    first request goes with the question who it is, a round trip less, and what is wrong with it is said in its place.
    """
    program = BOOTSTRAP if isinstance(address, Local) else command_line_probe(strict)
    with open_channel(address, python=check_python(python), program=program, ask=ask) as channel:
        session = Session(channel, address, python, agent, strict=strict)
        if not at_once:
            assert session.hello
        yield session
        session.end()


def _is_packable(data: bytes) -> bool:
    """Whether packing is worth its time, by a sample from the middle: weights hardly shrink, code does by half."""
    middle = data[len(data) // 2 :][: 1 << 15]
    return len(data) > 512 and len(zlib.compress(middle, 1)) < 0.9 * len(middle)
