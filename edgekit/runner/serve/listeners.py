"""Where the service listens: a Unix socket for who may open it, or TCP for who knows the token."""

from __future__ import annotations

import contextlib
import errno
import hmac
import ipaddress
import os
import re
import socket
import stat
from collections.abc import Callable

from edgekit.errors import InputError
from edgekit.runner.serve.server import Listener
from edgekit.runner.serve.wire import Refusal, Request

BACKLOG = 512  # who meets a full one on a Unix socket, and has a timeout, gets EAGAIN and does not wait
SHORTEST_TOKEN = 16  # characters
_LONGEST_PATH = 107  # bytes, of sockaddr_un


def unix_listener(path: str) -> tuple[Listener, Callable[[], None]]:
    """A listener at `path`, mode 0660, and what takes it away again. A file that a dead service left there is replaced.

    Raises InputError if something else is there, a living service among them.
    """
    if len(os.fsencode(path)) > _LONGEST_PATH - 8:
        raise InputError(
            f"the path of a socket may have {_LONGEST_PATH - 8} bytes", hint="name a shorter one: --socket"
        )
    folder, name = os.path.split(os.path.abspath(path))
    aside = os.path.join(folder, f".{os.getpid():x}~")  # shorter than any name that has to fit
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        _check_free(path)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(aside)
        umask = os.umask(0o117)
        try:
            sock.bind(aside)
        finally:
            os.umask(umask)
        sock.listen(BACKLOG)
        inode = os.stat(aside).st_ino
        os.rename(aside, os.path.join(folder, name))  # who connects meets one that listens, the old one or this
    except OSError as error:
        hint = "name a socket in a folder that you may write: --socket"
        raise InputError(f"cannot listen at {path}: {error.strerror}", hint=hint) from error

    def remove() -> None:
        with contextlib.suppress(OSError):
            if os.stat(path).st_ino == inode:  # not that of a service started meanwhile
                os.unlink(path)

    return Listener(sock, lambda request: None), remove


def _check_free(path: str) -> None:
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise InputError(f"{path} is there and is not a socket", hint="name another one: --socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(path)
        except OSError as error:
            if error.errno in (errno.ECONNREFUSED, errno.ENOENT):  # nobody listens: what a dead service left
                return
            raise
    raise InputError(f"another service listens at {path}", hint="stop that one, or name another socket: --socket")


def tcp_listener(address: str, token: str, *, to_network: bool) -> tuple[Listener, str]:
    """A listener at `HOST:PORT` that wants `token`, and where it is, as a URL. Only addresses of this machine itself
    (127.0.0.0/8, ::1), unless `to_network`."""
    host, port = _parse(address)
    if not host.is_loopback and not to_network:
        raise InputError(
            f"{address} can be reached from the network, without encryption",
            hint="listen at 127.0.0.1 and use ssh -L, or say --allow-network",
        )
    family = socket.AF_INET6 if host.version == 6 else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((str(host), port))
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise InputError(f"cannot listen at {address}: {error.strerror}", hint="choose another --http") from error
    shown = f"[{host}]" if host.version == 6 else str(host)
    expected = hmac.new(b"edgekit", token.encode(), "sha256").digest()

    def admit(request: Request) -> None:
        if not is_own_name(request.headers.get("host", ""), loopback=host.is_loopback):
            raise Refusal(403, "the Host header names another machine")
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        found = hmac.new(b"edgekit", given.strip().encode("latin-1", "replace"), "sha256").digest()
        if scheme.lower() != "bearer" or not hmac.compare_digest(found, expected):
            raise Refusal(401, "a bearer token is needed", ("WWW-Authenticate", "Bearer"))

    return Listener(sock, admit), f"http://{shown}:{sock.getsockname()[1]}"


def is_own_name(host: str, *, loopback: bool) -> bool:
    """True if a Host header can be meant for this machine: an address, or a name that no web page can make its own.

    A page at evil.example may let that name point here (DNS rebinding), and its scripts send it.
    """
    found = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9.-]+)(:\d{1,5})?", host)
    if found is None:
        return False
    name = found[1].strip("[]").lower()
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        own = socket.gethostname().lower()
        return name == "localhost" or (not loopback and name in (own, f"{own}.local", own.partition(".")[0]))
    return address.is_loopback if loopback else True


def _parse(address: str) -> tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, int]:
    found = re.fullmatch(r"(\[.+\]|[^:\[\]]+):(\d{1,5})", address)
    try:
        if found is None or int(found[2]) > 65535:
            raise ValueError
        return ipaddress.ip_address(found[1].strip("[]")), int(found[2])
    except ValueError:
        raise InputError(f"{address!r} is not ADDRESS:PORT", hint="for example --http 127.0.0.1:8080") from None


def read_token(path: str | None) -> str:
    """The token of `--token-file`, or of systemd's LoadCredential=token:PATH. Raises InputError for none, or a bad one."""
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    if path is None and folder:
        path = os.path.join(folder, "token")
    make = "make one: (umask 077; head -c 24 /dev/urandom | base64 > token), and give --token-file token"
    if path is None:
        raise InputError("TCP needs a token, so that not every program and web page may ask", hint=make)
    try:
        with open(path, encoding="ascii") as stream:
            mode = os.fstat(stream.fileno()).st_mode
            token = stream.read(4096).strip()
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}", hint=make) from error
    if mode & 0o077:
        raise InputError(f"{path} can be read by others", hint=f"chmod 600 {path}, and put a new token into it")
    if len(token) < SHORTEST_TOKEN or not token.isprintable() or " " in token:
        raise InputError(f"{path} is not a token of at least {SHORTEST_TOKEN} characters", hint=make)
    return token
