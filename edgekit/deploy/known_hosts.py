"""Host keys on file: OpenSSH's known_hosts, and one of our own for keys that a person vouched for when edgekit asked."""

from __future__ import annotations

import base64
import contextlib
import fnmatch
import hashlib
import hmac
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.errors import HostKeyChanged, HostKeyUnknown, InputError

if TYPE_CHECKING:
    from edgekit.deploy.route import Route
    from edgekit.deploy.transport import AskHostKey


@dataclass(frozen=True)
class HostKey:
    """A public key as known_hosts holds it."""

    type: str
    blob: bytes

    @property
    def fingerprint(self) -> str:
        """As `ssh` shows it: SHA256:..."""
        return "SHA256:" + base64.b64encode(hashlib.sha256(self.blob).digest()).decode().rstrip("=")


@dataclass(frozen=True)
class KnownKeys:
    """What is on file for a host."""

    trusted: tuple[HostKey, ...]
    revoked: tuple[HostKey, ...]  # for whichever host: nobody should meet these again
    authorities: tuple[HostKey, ...] = ()  # what they sign is trusted; `ssh` can check that, paramiko cannot


def own_known_hosts() -> Path:
    """Where `remember_host_key` writes."""
    config = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(config).expanduser() / "edgekit" / "known_hosts"


def read_known_hosts(paths: Iterable[Path], name: str) -> KnownKeys:
    """The keys on file for `name` (`host`, or `[host]:port`). A file that is not there vouches for nothing."""
    lines: list[str] = []
    for path in paths:
        with contextlib.suppress(OSError):
            lines += path.read_text("utf-8", "replace").splitlines()
    return parse_known_hosts(lines, name)


def parse_known_hosts(lines: Iterable[str], name: str) -> KnownKeys:
    """The keys for `name` in the lines of sshd(8)'s SSH_KNOWN_HOSTS format; what cannot be read vouches for nothing."""
    trusted: list[HostKey] = []
    revoked: list[HostKey] = []
    authorities: list[HostKey] = []
    for line in lines:
        fields = line.split()
        marker = fields.pop(0) if fields and fields[0].startswith("@") else ""
        if len(fields) < 3 or fields[0].startswith("#"):
            continue
        try:
            key = HostKey(fields[1], base64.b64decode(fields[2], validate=True))
        except ValueError:
            continue
        if marker == "@revoked":
            revoked.append(key)
        elif marker in ("", "@cert-authority") and _is_named(fields[0], name):
            (authorities if marker else trusted).append(key)
    return KnownKeys(tuple(trusted), tuple(revoked), tuple(authorities))


def read_one_key(path: Path) -> HostKey | None:
    """The key in a file with one line, for whichever host; None if there is none."""
    try:
        _, kind, blob = path.read_text("utf-8", "replace").split()[:3]
        return HostKey(kind, base64.b64decode(blob, validate=True))
    except (OSError, ValueError):
        return None


def remember_host_key(name: str, key: HostKey) -> None:
    """Appends the key to our own file. Raises InputError if that cannot be written."""
    path = own_known_hosts()
    line = f"{name} {key.type} {base64.b64encode(key.blob).decode()}\n"
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "r+b") as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, size - 1))
            missing_newline = size > 0 and stream.read(1) != b"\n"  # an edit by hand, or a full disk back then
            stream.write((("\n" if missing_newline else "") + line).encode())
    except OSError as error:
        raise InputError(
            f"cannot remember the host key in {path}: {error.strerror}", hint="make that file writable"
        ) from error


def _is_named(patterns: str, name: str) -> bool:
    """Whether the first field of a line means `name`: plain, hashed, or with * and ? and ! as ssh has them."""
    found = False
    for pattern in patterns.split(","):
        if pattern.startswith("|1|"):
            found = found or _is_hash_of(pattern, name)
        elif pattern.startswith("!"):
            if _matches(pattern[1:], name):
                return False
        else:
            found = found or _matches(pattern, name)
    return found


def _matches(pattern: str, name: str) -> bool:
    return fnmatch.fnmatchcase(name.lower(), pattern.lower().replace("[", "[[]"))


def _is_hash_of(hashed: str, name: str) -> bool:
    try:
        salt, digest = (base64.b64decode(part, validate=True) for part in hashed[3:].split("|"))
    except ValueError:
        return False
    return hmac.compare_digest(hmac.new(salt, name.encode(), "sha1").digest(), digest)


def check_host_key(key: HostKey, known: KnownKeys, route: Route, ask: AskHostKey) -> None:
    """Returns for a key that is on file, or that a person has just vouched for; it is on our file then.

    Raises HostKeyChanged for a revoked key and for another than is on file, HostKeyUnknown if nobody vouches for it.
    """
    shown = f"{key.type} {key.fingerprint}"
    if key in known.revoked:
        raise HostKeyChanged(
            f"{route.key_name} shows a host key that is marked as revoked: {shown}",
            hint="do not connect to it: somebody may hold its private half",
        )
    if key in known.trusted:
        return
    if known.trusted:
        raise HostKeyChanged(
            f"the host key of {route.key_name} has changed: it now shows {shown}",
            hint="if the board was set up anew: edgekit host-key replace DEVICE; if not, somebody may be in between",
        )
    if not ask(route.key_name, key.type, key.fingerprint):
        raise HostKeyUnknown(
            f"the host key of {route.key_name} is not known: {shown}",
            hint=f"compare it with the board's own, then: ssh-keyscan -p {route.port} {route.host} >> ~/.ssh/known_hosts",
        )
    remember_host_key(route.key_name, key)
