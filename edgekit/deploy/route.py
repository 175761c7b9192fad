"""How to reach a host: what `ssh -G` says of it, so that aliases, Include and Match mean what they mean to `ssh`."""

from __future__ import annotations

import re
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path

from edgekit.deploy.address import Remote
from edgekit.deploy.known_hosts import own_known_hosts
from edgekit.errors import DeviceUnreachable, InputError

CONFIG_S = 20  # for ssh -G: a Match exec may look something up


@dataclass(frozen=True)
class Route:
    """A host, resolved."""

    host: str
    user: str
    port: int
    key_name: str  # the name its host key is filed under
    identities: tuple[Path, ...]  # private keys, or public ones whose private half an agent holds; may not exist
    known_hosts: tuple[Path, ...]
    proxy: str | None  # a shell command that speaks to the host on its stdin and stdout
    identities_only: bool

    def __str__(self) -> str:
        return f"{self.host} port {self.port}"


def find_route(remote: Remote) -> Route:
    """The route to the device. Raises InputError if `ssh` does not accept its name or the configuration."""
    return parse_route(_ssh_config(remote), remote)


def _ssh_config(remote: Remote) -> str:
    """What `ssh -G` prints for the device: one `keyword value` a line."""
    command = ["ssh", "-G"]
    command += ["-p", str(remote.port)] if remote.port else []
    command += ["-l", remote.user] if remote.user else []
    try:
        done = subprocess.run(
            [*command, "--", remote.host], capture_output=True, text=True, errors="replace", timeout=CONFIG_S
        )
    except FileNotFoundError as error:
        raise DeviceUnreachable("ssh is not installed here", hint="sudo apt install openssh-client") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InputError(f"ssh -G {remote.host} does not answer: {error}", hint="look at ~/.ssh/config") from error
    if done.returncode != 0:
        reason = (done.stderr.strip() or "no reason given").splitlines()[-1]
        raise InputError(f"ssh does not accept {remote}: {reason}", hint="look at ~/.ssh/config")
    return done.stdout


def parse_route(config: str, remote: Remote) -> Route:
    """The route that `ssh -G` output describes."""
    values: dict[str, list[str]] = {}
    for line in config.splitlines():
        keyword, _, value = line.partition(" ")
        values.setdefault(keyword.lower(), []).append(value.strip())

    def one(keyword: str, default: str = "") -> str:
        value = values.get(keyword, [default])[0]
        return default if value == "none" else value

    port = int(one("port", "22"))
    host = one("hostname", remote.host)
    user = one("user")
    proxy = one("proxycommand") or None
    jump = one("proxyjump")
    if jump:
        proxy = jump_command(jump, host, port)
    elif proxy is not None:
        proxy = expand_tokens(proxy, {"h": host, "p": str(port), "r": user, "n": remote.host})
    known = [own_known_hosts()]
    for keyword in ("userknownhostsfile", "globalknownhostsfile"):
        known += [Path(path).expanduser() for path in _words(one(keyword)) if path != "/dev/null"]
    return Route(
        host=host,
        user=user,
        port=port,
        key_name=one("hostkeyalias") or (host if port == 22 else f"[{host}]:{port}"),
        identities=tuple(Path(path).expanduser() for path in values.get("identityfile", []) if path != "none"),
        known_hosts=tuple(known),
        proxy=proxy,
        identities_only=one("identitiesonly") == "yes",
    )


def jump_command(jump: str, host: str, port: int) -> str:
    """`ssh` itself goes through the jump hosts ("a", "user@a:2222", "a,b"); we speak through its stdin and stdout."""
    *before, last = jump.split(",")
    words = ["ssh", *(["-J", ",".join(before)] if before else [])]
    words += ["-o", "ServerAliveInterval=15", "-W", f"[{host}]:{port}" if ":" in host else f"{host}:{port}"]
    return shlex.join([*words, "--", last if "://" in last else f"ssh://{last}"])


def expand_tokens(command: str, values: dict[str, str]) -> str:
    """A ProxyCommand with its %h, %p, %r, %n and %% filled in (ssh_config(5), TOKENS)."""
    return re.sub(r"%(.)", lambda found: "%" if found[1] == "%" else values.get(found[1], found[0]), command)


def _words(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError:  # a quote in a file's name: `ssh -G` prints names as they are
        return text.split()
