"""Connections: a thread each, as many as are allowed, and none that can keep the others waiting."""

from __future__ import annotations

import contextlib
import selectors
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence

from edgekit.runner.serve.wire import Answer, Answering, Connection, Ended, Refusal, Request

CONNECTIONS = 64
IDLE_S = 60.0  # for the next request on an open connection
BODIES = 4  # of the largest size, that may be in memory at a time

Admit = Callable[[Request], None]  # raises Refusal


class Listener:
    """A socket that listens, and who may ask there."""

    def __init__(self, sock: socket.socket, admit: Admit) -> None:
        self.sock = sock
        self.admit = admit


class Server:
    """Answers on its listeners from `start` until `stop`."""

    def __init__(self, answer: Answering, listeners: Sequence[Listener], *, limit: int) -> None:
        self._answer = answer
        self._listeners = listeners
        self._limit = limit
        self._lock = threading.Lock()
        self._connections: set[socket.socket] = set()
        self._idle: dict[socket.socket, None] = {}  # in the order in which they became idle
        self._bytes_left = BODIES * limit
        self._stopping = False
        self._ended = threading.Condition(self._lock)
        self._wake, self._woken = socket.socketpair()
        self._accepting = threading.Thread(target=self._accept, name="accept", daemon=True)

    def start(self) -> None:
        self._accepting.start()

    def stop(self, grace_s: float) -> bool:
        """Takes no more connections; True if all requests that had begun were answered within `grace_s`."""
        self._wake.send(b"x")
        self._accepting.join()
        deadline = time.monotonic() + grace_s
        with self._ended:
            for sock in self._idle:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RD)
            while self._connections and time.monotonic() < deadline:
                self._ended.wait(deadline - time.monotonic())
            return not self._connections

    # -- in the thread that accepts

    def _accept(self) -> None:
        with selectors.DefaultSelector() as selector:
            for listener in self._listeners:
                listener.sock.setblocking(False)
                selector.register(listener.sock, selectors.EVENT_READ, listener)
            selector.register(self._woken, selectors.EVENT_READ)
            while not self._stopping:
                for key, _ in selector.select():
                    if key.data is None:
                        with self._lock:
                            self._stopping = True
                    else:
                        self._take(key.data)
        for listener in self._listeners:
            self._take(listener)  # who was connected already is answered
            listener.sock.close()

    def _take(self, listener: Listener) -> None:
        """All who wait at a listener."""
        while True:
            try:
                sock, _ = listener.sock.accept()
            except BlockingIOError:
                return
            except OSError as error:  # no more descriptors, or somebody who left again
                print(f"edgekit.runner: cannot accept: {error}", file=sys.stderr, flush=True)
                time.sleep(0.05)
                return
            sock.setblocking(True)
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if not self._has_room(sock):
                with contextlib.suppress(Ended):
                    refusal = Refusal(503, "too many connections", ("Retry-After", "1"))
                    sock.settimeout(0.1)
                    Connection(sock).send_answer(refusal.answer, close=True)
                sock.close()
                continue
            threading.Thread(target=self._converse, args=(sock, listener), daemon=True).start()

    def _has_room(self, sock: socket.socket) -> bool:
        """Counts the connection; if there are too many, the one that has been idle longest makes room."""
        with self._ended:
            if len(self._connections) >= CONNECTIONS:
                oldest = next(iter(self._idle), None)
                if oldest is None:
                    return False
                del self._idle[oldest]
                with contextlib.suppress(OSError):
                    oldest.shutdown(socket.SHUT_RDWR)
            self._connections.add(sock)
            return True

    # -- in the thread of a connection

    def _converse(self, sock: socket.socket, listener: Listener) -> None:
        connection = Connection(sock)
        try:
            while self._waits(connection):
                if not self._exchange(connection, listener):
                    break
        except Ended:
            pass
        except Refusal as refusal:
            with contextlib.suppress(Ended):
                connection.send_answer(refusal.answer, close=True)
                self._read_off(sock)
        finally:
            with self._ended:
                self._connections.discard(sock)
                self._idle.pop(sock, None)
                self._ended.notify_all()
            sock.close()

    def _waits(self, connection: Connection) -> bool:
        """True when a request has begun; False if there will be none."""
        with self._lock:
            idle_s = 0.2 if self._stopping else IDLE_S
            self._idle[connection.sock] = None
        connection.wait(idle_s)
        with self._lock:
            return self._idle.pop(connection.sock, True) is None  # else it was closed to make room

    def _exchange(self, connection: Connection, listener: Listener) -> bool:
        """One request and its answer; True if another one may follow."""
        head = connection.read_head(self._limit)
        listener.admit(Request(head.method, head.path, head.headers, b""))  # before the body: it costs memory
        with self._room_for(head.length):
            expect = head.headers.get("expect")
            if expect is not None and expect.lower() != "100-continue":
                raise Refusal(417, "the only expectation is 100-continue")
            if expect is not None and head.length:
                connection.send(b"HTTP/1.1 100 Continue\r\n\r\n")
            request = Request(head.method, head.path, head.headers, connection.read_body(head.length))
            try:
                answer = self._answer(request)
            except Refusal as refusal:
                answer = refusal.answer
            except Exception:  # a fault of ours: the caller is told that, the log is told all
                print(f"edgekit.runner: {traceback.format_exc()}", file=sys.stderr, flush=True)
                answer = Answer(500, {"error": "the service failed on this request; its log says more"})
        close = self._stopping or not head.keeps_alive
        connection.send_answer(answer, close=close)
        return not close

    @contextlib.contextmanager
    def _room_for(self, length: int) -> Iterator[None]:
        with self._lock:
            if length > self._bytes_left:
                raise Refusal(503, "too many large requests at a time", ("Retry-After", "1"))
            self._bytes_left -= length
        try:
            yield
        finally:
            with self._lock:
                self._bytes_left += length

    @staticmethod
    def _read_off(sock: socket.socket) -> None:
        """What is still on its way, or closing would take back the answer before it was read."""
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_WR)
            sock.settimeout(1)
            deadline, left = time.monotonic() + 2, 64 << 20
            while left > 0 and time.monotonic() < deadline and (block := sock.recv(1 << 16)):
                left -= len(block)
