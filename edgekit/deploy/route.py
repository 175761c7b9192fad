"""How to reach a host: what `ssh -G` says of it, so that aliases, Include and Match mean what they mean to `ssh`."""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path

from edgekit.deploy.address import Address, Local, Remote
from edgekit.deploy.known_hosts import own_known_hosts, read_known_hosts
from edgekit.deploy.touch import is_on_token
from edgekit.errors import DeviceUnreachable, InputError

# keyword -> values with which nothing is lost
_ONLY_SSH: dict[str, tuple[str, ...]] = {
    "pkcs11provider": (),
    "securitykeyprovider": ("internal",),
    "certificatefile": (),
    "knownhostscommand": (),
    "revokedhostkeys": (),
    "verifyhostkeydns": ("false",),
    "proxyusefdpass": (),
    "addressfamily": ("any",),
    "bindaddress": (),
    "bindinterface": (),
}
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
    beyond_paramiko: str = ""  # what of the configuration only `ssh` itself can do; "" if nothing

    def __str__(self) -> str:
        return f"{self.host} port {self.port}"


def find_route(remote: Remote) -> Route:
    """The route to the device. Raises InputError if `ssh` does not accept its name or the configuration."""
    return remote.route or parse_route(_ssh_config(remote), remote)


def resolved(address: Address) -> Address:
    """The same address with its route, for several connections: `ssh -G` takes as long as the rest of a login."""
    return address if isinstance(address, Local) else dataclasses.replace(address, route=find_route(address))


def only_openssh(route: Route) -> str:
    """Why only `ssh` itself can go this route, in a word or two; "" if paramiko can."""
    if route.beyond_paramiko:
        return route.beyond_paramiko
    known = read_known_hosts(route.known_hosts, route.key_name)
    return "@cert-authority" if known.authorities and not known.trusted else ""


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
        beyond_paramiko=_beyond_paramiko(values),
    )


def _beyond_paramiko(values: dict[str, list[str]]) -> str:
    """The first setting, as ssh_config(5) names it, that paramiko would pass over: a login that fails, or one less check."""
    for keyword, harmless in _ONLY_SSH.items():
        for value in values.get(keyword, []):
            if value.strip('"') not in (*harmless, "none", "no"):
                return keyword
    agent = values.get("identityagent", ["SSH_AUTH_SOCK"])[0]
    if agent not in ("SSH_AUTH_SOCK", "$SSH_AUTH_SOCK", os.environ.get("SSH_AUTH_SOCK")):
        return "identityagent"
    if any(is_on_token(Path(path).expanduser()) for path in values.get("identityfile", [])):
        return "identityfile with a FIDO key"
    return ""


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
