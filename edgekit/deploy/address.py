"""How a person names a device: `local:DIR`, an ssh_config alias, or `user@host[:port]`."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from edgekit.errors import InputError

if TYPE_CHECKING:
    from edgekit.deploy.route import Route

Transport = Literal["auto", "paramiko", "openssh"]  # auto: paramiko, and `ssh` itself for what paramiko cannot do
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*|\[[0-9A-Fa-f:.]+(%[A-Za-z0-9]+)?\]")
_PYTHON = re.compile(r"[A-Za-z0-9_./+-]+")


@dataclass(frozen=True)
class Local:
    """This machine, with everything of edgekit's under `root`."""

    root: Path

    def __str__(self) -> str:
        return f"local:{self.root}"


@dataclass(frozen=True)
class Remote:
    """A device behind sshd; None means: as ssh_config says."""

    host: str
    user: str | None
    port: int | None
    transport: Transport = "auto"
    route: Route | None = field(default=None, compare=False, repr=False)  # how to get there, once that is found out

    def __str__(self) -> str:
        user = f"{self.user}@" if self.user else ""
        port = f":{self.port}" if self.port else ""
        return f"{user}[{self.host}]{port}" if ":" in self.host else f"{user}{self.host}{port}"


Address = Local | Remote


def parse_address(text: str | Address, transport: Transport = "auto") -> Address:
    """The device that `text` names, an Address as it is. Raises InputError for anything that is not a plain address."""
    if isinstance(text, (Local, Remote)):
        return text
    if text.startswith("local:"):
        if not text[6:] or "\0" in text:
            raise InputError(f"{text!r} names no folder", hint="for example local:./device")
        return Local(Path(text[6:]).absolute())
    user, at, rest = text.rpartition("@")
    host, colon, port = rest.partition(":") if not rest.startswith("[") else _split_bracketed(rest)
    good_port = not colon or (colon == ":" and port.isascii() and port.isdigit() and 0 < int(port) < 65536)
    if (at and not _USER.fullmatch(user)) or not _HOST.fullmatch(host) or not good_port:
        raise InputError(
            f"{text!r} is not a device", hint="give local:DIR, an alias of ~/.ssh/config, or user@host[:port]"
        )
    return Remote(host.strip("[]"), user or None, int(port) if colon else None, transport)


def check_python(path: str) -> str:
    """`path` itself, if it can be put on a command line as it is; it goes through the device's login shell."""
    if not _PYTHON.fullmatch(path) or path.startswith("-"):
        raise InputError(f"{path!r} is not a plain path to a Python", hint="for example /usr/bin/python3.11")
    return path


def _split_bracketed(rest: str) -> tuple[str, str, str]:
    host, bracket, tail = rest.partition("]")
    return host + bracket, tail[:1], tail[1:]
