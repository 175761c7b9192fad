"""A TCP link on loopback in front of a server: counts what passes, delays it, slows it, stops it, cuts it."""

from __future__ import annotations

import contextlib
import multiprocessing
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

_BLOCK = 1 << 16
_BLOCKS_UNDER_WAY = 256  # in each direction: 16 MiB, more than any window that ssh opens


class Link:
    """What connects to `port` gets what `connect` connects to."""

    def __init__(self, connect: Callable[[], socket.socket]) -> None:
        self.connections = 0
        self.bytes = {"there": 0, "back": 0}
        self.round_trip_s = 0.0
        self.rate: float | None = None  # bytes per second in each direction and connection; None: as fast as it goes
        self._frozen = threading.Event()
        self._cut_after: int | None = None
        self._connect = connect
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        self._sockets: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def total_bytes(self) -> int:
        return sum(self.bytes.values())

    def reset_counts(self) -> None:
        self.connections = 0
        self.bytes = {"there": 0, "back": 0}

    def freeze(self) -> None:
        """From now on nothing comes out on either side, and nobody is told."""
        self._frozen.set()

    def cut_after(self, count: int) -> None:
        """The link breaks once that many bytes went there."""
        self._cut_after = count

    def cut(self) -> None:
        """Breaks every connection now; new ones are let through."""
        for one in list(self._sockets):
            with contextlib.suppress(OSError):  # wakes the thread that waits in it
                one.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._sockets.add(near)
            threading.Thread(target=self._join, args=(near,), daemon=True).start()

    def _join(self, near: socket.socket) -> None:
        with near, contextlib.suppress(OSError), self._connect() as far:
            self._sockets.add(far)
            near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            far.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            time.sleep(self.round_trip_s)  # the handshake that loopback did not have to wait for
            back = threading.Thread(target=self._carry, args=(far, near, "back"), daemon=True)
            back.start()
            self._carry(near, far, "there")
            back.join()
            self._sockets.discard(far)
        self._sockets.discard(near)

    def _carry(self, source: socket.socket, sink: socket.socket, way: str) -> None:
        under_way: queue.Queue[tuple[float, bytes]] = queue.Queue(_BLOCKS_UNDER_WAY)
        writer = threading.Thread(target=self._deliver, args=(under_way, sink), daemon=True)
        writer.start()
        free = 0.0  # when the link has sent what it was given before
        with contextlib.suppress(OSError):
            while block := source.recv(_BLOCK if self.rate is None else max(512, min(_BLOCK, int(self.rate / 50)))):
                if hasattr(socket, "TCP_QUICKACK"):  # the link itself adds no delayed ACK
                    source.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
                self.bytes[way] += len(block)
                if self._cut_after is not None and self.bytes["there"] > self._cut_after:
                    source.shutdown(socket.SHUT_RDWR)
                    break
                if self._frozen.is_set():
                    continue
                free = max(free, time.monotonic()) + (len(block) / self.rate if self.rate else 0)
                under_way.put((free + self.round_trip_s / 2, block))
                if self.rate and (ahead := free - time.monotonic() - 0.25) > 0:  # a router's queue, not an endless one
                    time.sleep(ahead)
        under_way.put((0, b""))
        writer.join()

    def _deliver(self, under_way: queue.Queue[tuple[float, bytes]], sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while (item := under_way.get())[1]:
                if (wait := item[0] - time.monotonic()) > 0:
                    time.sleep(wait)
                sink.sendall(item[1])
            sink.shutdown(socket.SHUT_RDWR if self._cut_after is not None else socket.SHUT_WR)
            return
        while under_way.get()[1]:  # nobody wants it any more: the reader must not wait for us
            pass


@contextmanager
def link_to(port: int) -> Iterator[Link]:
    """A Link to a port of this machine, closed in the end."""
    link = Link(lambda: socket.create_connection(("127.0.0.1", port)))
    try:
        yield link
    finally:
        link.close()


class FarLink:
    """A Link in a process of its own, for timing: in ours, its threads would take turns with those that are timed."""

    def __init__(self, near: Connection) -> None:
        self._near = near
        self.port: int = self._ask("port")

    def _ask(self, *what: Any) -> Any:
        self._near.send(what)
        return self._near.recv()

    @property
    def round_trip_s(self) -> float:
        return float(self._ask("round_trip_s"))

    @round_trip_s.setter
    def round_trip_s(self, value: float) -> None:
        self._ask("round_trip_s", value)

    @property
    def total_bytes(self) -> int:
        return int(self._ask("total_bytes"))

    @property
    def connections(self) -> int:
        return int(self._ask("connections"))

    def reset_counts(self) -> None:
        self._ask("reset_counts", None)


@contextmanager
def far_link_to(port: int) -> Iterator[FarLink]:
    """A FarLink to a port of this machine, gone in the end."""
    near, far = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=_answer, args=(port, near, far), daemon=True)
    process.start()
    far.close()
    try:
        yield FarLink(near)
    finally:
        near.close()
        process.join(10)


def _answer(port: int, near: Connection, far: Connection) -> None:
    near.close()
    with link_to(port) as link, contextlib.suppress(EOFError):
        while True:
            name, *values = far.recv()
            if name == "reset_counts":
                link.reset_counts()
            elif values:
                setattr(link, name, values[0])
            far.send(None if values else getattr(link, name))
