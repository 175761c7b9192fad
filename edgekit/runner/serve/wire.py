"""HTTP/1.1 (RFC 9112), the part that a service of JSON needs: heads and bodies bounded in bytes and time, nothing guessed.

What two parsers could understand differently is refused: two lengths, a length and an encoding, folded headers.
"""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple
from urllib.parse import unquote

HEAD_BYTES = 16 << 10
REQUEST_S = 30.0  # for all of a request to arrive, once its first byte has
SEND_S = 30.0  # for each step of an answer to be taken
_REQUEST_LINE = re.compile(rb"([A-Z]{1,16}) (/[\x21-\x7e]{0,2000}) HTTP/1\.([01])")
_HEADER = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\x20-\x7e\x80-\xff\t]*?)[ \t]*")
_ONCE = {"content-length", "transfer-encoding", "host", "authorization", "expect", "content-encoding"}
_REASONS = {
    200: "OK",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    411: "Length Required",
    413: "Content Too Large",
    415: "Unsupported Media Type",
    417: "Expectation Failed",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    501: "Not Implemented",
    503: "Service Unavailable",
    505: "HTTP Version Not Supported",
}


class Request(NamedTuple):
    """A request that has arrived whole."""

    method: str
    path: tuple[str, ...]  # its parts, decoded
    headers: Mapping[str, str]  # names in lower case
    body: bytes


class Answer(NamedTuple):
    """Goes out as JSON."""

    status: int
    content: Mapping[str, Any]
    headers: tuple[tuple[str, str], ...] = ()


class Head(NamedTuple):
    """What comes before the body."""

    method: str
    path: tuple[str, ...]
    headers: Mapping[str, str]
    keeps_alive: bool
    length: int  # bytes of the body


class Refusal(Exception):
    """The request cannot be answered otherwise. What follows on the connection could be anything: it is closed."""

    def __init__(self, status: int, message: str, *headers: tuple[str, str]) -> None:
        super().__init__(message)
        self.answer = Answer(status, {"error": message}, headers)


class Ended(Exception):
    """The other side went away, or stopped sending."""


class Connection:
    """A socket, read with a deadline for the whole and not only for each step."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._received = bytearray()

    def wait(self, idle_s: float) -> None:
        """Returns with the first byte of a request. Raises Ended if there is none."""
        if not self._received:
            self._fill(time.monotonic() + idle_s)

    def read_head(self, limit: int) -> Head:
        """Raises Refusal for what is not HTTP, or announces more than `limit` bytes; Ended when it does not arrive."""
        deadline = time.monotonic() + REQUEST_S
        while (end := self._received.find(b"\r\n\r\n")) < 0:
            if len(self._received) > HEAD_BYTES:
                raise Refusal(431, f"more than {HEAD_BYTES} bytes of headers")
            self._fill(deadline)
        head = parse_head(bytes(self._received[:end]), limit)
        del self._received[: end + 4]
        return head

    def read_body(self, length: int) -> bytes:
        """That many bytes."""
        deadline = time.monotonic() + REQUEST_S
        while len(self._received) < length:
            self._fill(deadline)
        body = bytes(self._received[:length])
        del self._received[:length]
        return body

    def send(self, data: bytes) -> None:
        try:
            self.sock.settimeout(SEND_S)
            self.sock.sendall(data)
        except OSError as error:  # a timeout is one too
            raise Ended from error

    def send_answer(self, answer: Answer, *, close: bool) -> None:
        self.send(packed(answer, close=close))

    def _fill(self, deadline: float) -> None:
        left = deadline - time.monotonic()
        try:
            if left <= 0:
                raise TimeoutError
            self.sock.settimeout(left)
            block = self.sock.recv(1 << 16)
        except (TimeoutError, socket.timeout):  # two classes before Python 3.10
            if self._received:
                raise Refusal(408, f"the request did not arrive in {REQUEST_S:.0f} s") from None
            raise Ended from None
        except OSError as error:
            raise Ended from error
        if not block:
            raise Ended
        self._received += block


def parse_head(text: bytes, limit: int) -> Head:
    """A head from its bytes, without the empty line. Raises Refusal."""
    first, *lines = text.split(b"\r\n")
    found = _REQUEST_LINE.fullmatch(first)
    if found is None:
        if re.fullmatch(rb"[A-Z]+ \S+ HTTP/\d\.\d", first):
            raise Refusal(505, "only HTTP/1.1 and HTTP/1.0, with a path")
        raise Refusal(400, "not an HTTP request")
    headers = _headers(lines)
    version = found[3]
    if version == b"1" and "host" not in headers:
        raise Refusal(400, "no Host header")
    if "transfer-encoding" in headers:
        raise Refusal(501 if "content-length" not in headers else 400, "send a Content-Length, not in chunks")
    if headers.get("content-encoding", "identity") != "identity":
        raise Refusal(415, "compressed requests are not taken")
    method = found[1].decode()
    length = _length(headers, method, limit)
    words = {word.strip().lower() for word in headers.get("connection", "").split(",")}
    keeps_alive = "close" not in words if version == b"1" else "keep-alive" in words
    path = found[2].decode().split("?")[0]
    try:
        parts = tuple(unquote(part, errors="strict") for part in path.strip("/").split("/"))
    except UnicodeDecodeError:
        raise Refusal(400, "the path is not UTF-8") from None
    return Head(method, parts, headers, keeps_alive, length)


def _headers(lines: list[bytes]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for line in lines:
        found = _HEADER.fullmatch(line)
        if found is None:
            raise Refusal(400, "not an HTTP header")
        name, value = found[1].decode().lower(), found[2].decode("latin-1")
        if name in headers and name in _ONCE:
            raise Refusal(400, f"two {name} headers")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


def _length(headers: Mapping[str, str], method: str, limit: int) -> int:
    text = headers.get("content-length")
    if text is None:
        if method in ("POST", "PUT", "PATCH"):
            raise Refusal(411, "send a Content-Length")
        return 0
    if not (text.isascii() and text.isdigit()):
        raise Refusal(400, "Content-Length is not a number")
    if len(text) > 15 or int(text) > limit:
        raise Refusal(413, f"the body may have {limit} bytes")
    return int(text)


def packed(answer: Answer, *, close: bool) -> bytes:
    """An answer as it is sent."""
    body = json.dumps(answer.content, allow_nan=False).encode()
    lines = [
        f"HTTP/1.1 {answer.status} {_REASONS[answer.status]}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        "Cache-Control: no-store",
        "X-Content-Type-Options: nosniff",
        *(f"{name}: {value}" for name, value in answer.headers),
        *(["Connection: close"] if close else []),
    ]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


Answering = Callable[[Request], Answer]
