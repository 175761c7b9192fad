"""SSH by paramiko, and where its errors become ours; how it logs in is in login.py.

Host keys are strict: a changed one is a hard stop, an unknown one is asked about once, on a terminal only.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

import paramiko

from edgekit.deploy.known_hosts import HostKey, KnownKeys, check_host_key, read_known_hosts
from edgekit.deploy.login import CONNECT_S, log_in
from edgekit.deploy.route import Route
from edgekit.deploy.transport import ENDING_S, AskHostKey
from edgekit.errors import DeviceUnreachable, EdgekitError

DEAD_S = 60  # a peer that acknowledges nothing for that long is gone
_BLOCK = 1 << 16
_PACKET = 1 << 15  # bytes that OpenSSH takes in one
_MOST_STDERR = 1 << 16

# what paramiko logs it also raises; without a handler Python would print it, traceback and all
logging.getLogger("paramiko").addHandler(logging.NullHandler())


class _Channel:
    def __init__(self, channel: paramiko.Channel, transport: paramiko.Transport) -> None:
        self._channel = channel
        self._transport = transport

    def send(self, data: bytes, timeout_s: float) -> None:
        self._channel.settimeout(timeout_s)
        left = memoryview(data)
        with _as_oserror():
            while left:  # sendall would copy all that is left for each packet
                sent = self._channel.send(bytes(left[:_PACKET]))
                if sent == 0:
                    raise EOFError("the channel is closed")
                left = left[sent:]

    def receive(self, timeout_s: float) -> bytes:
        self._channel.settimeout(timeout_s)
        with _as_oserror():
            return self._channel.recv(_BLOCK)

    def end(self) -> None:
        with _as_oserror():
            self._channel.shutdown_write()

    def ending(self) -> tuple[int | None, str]:
        text = b""
        self._channel.settimeout(ENDING_S)
        with contextlib.suppress(OSError), _as_oserror():
            while len(text) < _MOST_STDERR and (block := self._channel.recv_stderr(_BLOCK)):
                text += block
        code = self._channel.recv_exit_status() if self._channel.status_event.wait(ENDING_S) else None
        if code == -1 and not self._transport.is_active():  # -1: it ended without a word
            code = None
        return code, text.decode(errors="replace")


@contextmanager
def _as_oserror() -> Iterator[None]:
    try:
        yield
    except (paramiko.SSHException, EOFError) as error:
        raise ConnectionError(str(error)) from error


class NothingInCommon(DeviceUnreachable):
    """The server has no key exchange, cipher or kind of host key that paramiko knows; `ssh` may know one."""


@contextmanager
def ssh_channel(route: Route, command: str, *, ask: AskHostKey) -> Iterator[_Channel]:
    """`command`, running on the device. Raises DeviceUnreachable, DeviceRefused, HostKeyUnknown or HostKeyChanged."""
    with contextlib.ExitStack() as stack:
        said = stack.enter_context(tempfile.TemporaryFile())  # by the ProxyCommand, if there is one
        with _our_errors(route, said):
            connection = stack.enter_context(_proxied(route.proxy, said) if route.proxy else _connected(route))
            transport = paramiko.Transport(connection)
            stack.callback(transport.close)
            known = read_known_hosts(route.known_hosts, route.key_name)
            _prefer_known_key_types(transport, known)
            _prefer_fast_ciphers(transport)
            transport.start_client(timeout=CONNECT_S)
            shown = transport.get_remote_server_key()
            check_host_key(HostKey(shown.get_name(), shown.asbytes()), known, route, ask)
            channel = log_in(transport, route)
            _start(channel, transport, command)
        yield _Channel(channel, transport)


class _Prompt(socket.socket):
    """Acknowledges what arrives at once. sshd does not set TCP_NODELAY before a session is open: until then each second
    small packet of its waits for our delayed ACK, 42 ms of the 90 that a connection takes on loopback (measured)."""

    def recv(self, size: int, flags: int = 0) -> bytes:
        received = super().recv(size, flags)
        if hasattr(socket, "TCP_QUICKACK"):  # Linux; it does not last, so every time
            self.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        return received


@contextmanager
def _connected(route: Route) -> Iterator[socket.socket]:
    plain = socket.create_connection((route.host, route.port), timeout=CONNECT_S)
    with _Prompt(plain.family, plain.type, plain.proto, plain.detach()) as connection:
        connection.settimeout(CONNECT_S)
        # paramiko sets no option itself; without this one, small packets wait for delayed ACKs: 44 ms instead of 2
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in (
            ("TCP_KEEPIDLE", 15),
            ("TCP_KEEPINTVL", 5),
            ("TCP_KEEPCNT", (DEAD_S - 15) // 5),
            ("TCP_USER_TIMEOUT", DEAD_S * 1000),  # and what we sent is not waited for any longer either
        ):
            if hasattr(socket, option):  # Linux
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
        yield connection


@contextmanager
def _proxied(command: str, said: IO[bytes]) -> Iterator[socket.socket]:
    """The near end of a ProxyCommand, started as `ssh` starts it."""
    near, far = socket.socketpair()
    with near:
        with far:
            process = subprocess.Popen(
                ["/bin/sh", "-c", f"exec {command}"], stdin=far.fileno(), stdout=far.fileno(), stderr=said
            )
        try:
            yield near
        finally:
            process.terminate()
            try:
                process.wait(ENDING_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _last_words(said: IO[bytes]) -> str:
    """What a ProxyCommand that gave up wrote last: it may need a moment for it."""
    deadline = time.monotonic() + 1
    while said.seek(0, os.SEEK_END) == 0 and time.monotonic() < deadline:
        time.sleep(0.02)
    said.seek(0)
    lines = said.read().decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else ""


def _prefer_known_key_types(transport: paramiko.Transport, known: KnownKeys) -> None:
    """Asks the server for a key of a type that we have on file, as `ssh` does, else it offers one we cannot compare."""
    options = transport.get_security_options()
    names = {key.type for key in known.trusted}
    if "ssh-rsa" in names:
        names |= {"rsa-sha2-512", "rsa-sha2-256"}
    options.key_types = sorted(options.key_types, key=lambda name: name not in names)  # stable: ours first


def _start(channel: paramiko.Channel, transport: paramiko.Transport, command: str) -> None:
    """Asks for the command. If the server says no it closes the channel: whoever reads from it sees that."""
    message = paramiko.Message()
    message.add_byte(paramiko.common.cMSG_CHANNEL_REQUEST)
    message.add_int(channel.remote_chanid)
    message.add_string("exec")
    message.add_boolean(True)
    message.add_string(command)
    transport._send_user_message(message)  # type: ignore[attr-defined]


def _prefer_fast_ciphers(transport: paramiko.Transport) -> None:
    """AES-GCM first: no second pass for the MAC. paramiko has it last."""
    options = transport.get_security_options()
    options.ciphers = sorted(options.ciphers, key=lambda name: "gcm" not in name)


@contextmanager
def _our_errors(route: Route, said: IO[bytes]) -> Iterator[None]:
    try:
        yield
    except EdgekitError:
        raise
    except socket.gaierror as error:
        raise DeviceUnreachable(
            f"no such host: {route.host}", hint="check the name, or add it to ~/.ssh/config"
        ) from error
    except ConnectionRefusedError as error:
        raise DeviceUnreachable(f"{route} refuses connections", hint="is sshd running there, on that port?") from error
    except paramiko.ssh_exception.IncompatiblePeer as error:
        raise NothingInCommon(
            f"paramiko and the sshd of {route} have nothing in common: {error}", hint="try it with --transport openssh"
        ) from error
    except (paramiko.SSHException, EOFError) as error:
        if route.proxy and (words := _last_words(said)):
            raise DeviceUnreachable(
                f"cannot reach {route} by `{route.proxy}`: {words}", hint="what does that command print by hand?"
            ) from error
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DeviceUnreachable(
            f"no SSH session with {route}: {reason}", hint=f"what does this show: ssh -v -p {route.port} {route.host}"
        ) from error
    except OSError as error:  # TimeoutError is one
        reason = error.strerror or str(error) or "no answer"
        raise DeviceUnreachable(f"cannot reach {route}: {reason}", hint="is it powered and on this network?") from error
