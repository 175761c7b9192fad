"""SSH, the only place that imports paramiko, and where its errors become ours.

`ssh -G` resolves ssh_config, so that aliases, Include and Match mean what they mean to `ssh`. Host keys are strict: a
changed one is a hard stop, an unknown one is asked about once, on a terminal only.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import shlex
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import paramiko

from edgekit.deploy.address import Remote
from edgekit.deploy.transport import AskHostKey
from edgekit.errors import DeviceRefused, DeviceUnreachable, HostKeyChanged, HostKeyUnknown, InputError

TIMEOUT_S = 20


@dataclass(frozen=True)
class Route:
    """How to reach a host, resolved."""

    host: str
    user: str
    port: int
    key_name: str  # the name its host key is filed under
    identities: tuple[Path, ...]
    known_hosts: tuple[Path, ...]
    proxy: str | None  # a command that speaks to the host on its stdin and stdout
    identities_only: bool


def ssh_config(remote: Remote) -> str:
    """What `ssh -G` prints for the device: one `keyword value` a line."""
    command = ["ssh", "-G"]
    command += ["-p", str(remote.port)] if remote.port else []
    command += ["-l", remote.user] if remote.user else []
    try:
        done = subprocess.run([*command, "--", remote.host], capture_output=True, text=True, timeout=TIMEOUT_S)
    except OSError as error:
        raise DeviceUnreachable("ssh is not installed here", hint="install openssh-client") from error
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
        return values.get(keyword, [default])[0]

    port = int(one("port", "22"))
    host = one("hostname", remote.host)
    name = one("hostkeyalias") or (host if port == 22 else f"[{host}]:{port}")
    proxy = one("proxycommand")
    jump = one("proxyjump")
    if jump and jump != "none":
        if "," in jump:
            raise InputError(f"{remote}: several ProxyJump hosts are not supported", hint="use a ProxyCommand instead")
        where, _, jump_port = jump.removeprefix("ssh://").partition(":")
        words = ["ssh", *(["-p", jump_port] if jump_port else []), "-W", f"{host}:{port}", "--", where]
        proxy = shlex.join(words)
    files = [Path(path).expanduser() for path in values.get("identityfile", [])]
    known = [own_known_hosts()]
    for keyword in ("userknownhostsfile", "globalknownhostsfile"):
        known += [Path(path).expanduser() for path in shlex.split(one(keyword)) if path != "/dev/null"]
    return Route(
        host=host,
        user=one("user"),
        port=port,
        key_name=name,
        identities=tuple(path for path in files if path.is_file()),
        known_hosts=tuple(known),
        proxy=proxy if proxy and proxy != "none" else None,
        identities_only=one("identitiesonly") == "yes",
    )


def own_known_hosts() -> Path:
    """Host keys that a person vouched for when edgekit asked."""
    config = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(config).expanduser() / "edgekit" / "known_hosts"


def read_known_hosts(paths: tuple[Path, ...], name: str) -> tuple[list[paramiko.PKey], list[paramiko.PKey]]:
    """The host keys on file for `name`: the trusted and the revoked. Lines that paramiko cannot read vouch for nothing."""
    trusted: list[paramiko.PKey] = []
    revoked: list[paramiko.PKey] = []
    for path in paths:
        try:
            lines = path.read_text("utf-8", "replace").splitlines()
        except OSError:
            continue
        for line in lines:
            is_revoked = line.startswith("@revoked ")
            if not line.strip() or (line.startswith(("#", "@")) and not is_revoked):
                continue
            try:
                entry = paramiko.hostkeys.HostKeyEntry.from_line(line.removeprefix("@revoked "))
            except Exception:  # noqa: S112  # paramiko raises what it likes on a key type it does not know
                continue
            if entry is None or entry.key is None or entry.hostnames is None:
                continue
            if is_revoked:  # whatever names the line has: nobody should meet this key again
                revoked.append(entry.key)
            elif _names(entry.hostnames, name):
                trusted.append(entry.key)
    return trusted, revoked


def _names(hostnames: list[str], name: str) -> bool:
    return any(
        paramiko.HostKeys.hash_host(name, known) == known if known.startswith("|1|") else known == name
        for known in hostnames
    )


def fingerprint(key: paramiko.PKey) -> str:
    """As `ssh` shows it: SHA256:..."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(key.asbytes()).digest()).decode().rstrip("=")


class _Channel:
    def __init__(self, channel: paramiko.Channel) -> None:
        self._channel = channel
        self.stdin: BinaryIO = channel.makefile("wb")  # type: ignore[assignment]  # paramiko's own file type
        self.stdout: BinaryIO = channel.makefile("rb")  # type: ignore[assignment]

    def ending(self) -> tuple[int | None, str]:
        text = self._channel.makefile_stderr("rb").read().decode(errors="replace")
        if self._channel.status_event.wait(5):
            return self._channel.recv_exit_status(), text
        return None, text


@contextmanager
def ssh_channel(remote: Remote, command: str, *, ask: AskHostKey) -> Iterator[_Channel]:
    """`command`, running on the device. Raises DeviceUnreachable, DeviceRefused, HostKeyUnknown or HostKeyChanged."""
    route = parse_route(ssh_config(remote), remote)
    with contextlib.ExitStack() as stack:
        with _our_errors(route):
            transport = paramiko.Transport(_connect(route, stack))
            stack.callback(transport.close)
            transport.set_keepalive(15)
            trusted, revoked = read_known_hosts(route.known_hosts, route.key_name)
            _prefer_known_key_types(transport, trusted)
            transport.start_client(timeout=TIMEOUT_S)
            _check_host_key(transport.get_remote_server_key(), trusted, revoked, route, ask)
            _authenticate(transport, route)
            channel = transport.open_session(timeout=TIMEOUT_S)
            channel.exec_command(command)
        yield _Channel(channel)


def _connect(route: Route, stack: contextlib.ExitStack) -> Any:
    if route.proxy is not None:
        proxy = paramiko.ProxyCommand(route.proxy)
        stack.callback(proxy.close)
        return proxy
    connection = socket.create_connection((route.host, route.port), timeout=TIMEOUT_S)
    # paramiko sets no option itself; without this one, small packets wait for delayed ACKs: 44 ms instead of 2
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def _prefer_known_key_types(transport: paramiko.Transport, known: list[paramiko.PKey]) -> None:
    """Asks the server for a key of a type that we have on file, as `ssh` does, else it offers one we cannot compare."""
    options = transport.get_security_options()
    names = {key.get_name() for key in known}
    if "ssh-rsa" in names:
        names |= {"rsa-sha2-512", "rsa-sha2-256"}
    options.key_types = sorted(options.key_types, key=lambda name: name not in names)  # stable: ours first


def _check_host_key(
    key: paramiko.PKey, trusted: list[paramiko.PKey], revoked: list[paramiko.PKey], route: Route, ask: AskHostKey
) -> None:
    shown = f"{key.get_name()} {fingerprint(key)}"
    if key in revoked:
        raise HostKeyChanged(f"{route.key_name} shows a revoked host key: {shown}", hint="do not connect to it")
    if key in trusted:
        return
    if trusted:
        raise HostKeyChanged(
            f"the host key of {route.key_name} has changed: it now shows {shown}",
            hint=f"if the board was set up anew: ssh-keygen -R '{route.key_name}' (and -f {own_known_hosts()}); "
            "if not, somebody may be in between",
        )
    if not ask(route.key_name, key.get_name(), fingerprint(key)):
        raise HostKeyUnknown(
            f"the host key of {route.key_name} is not known: {shown}",
            hint=f"compare it with the board's own, then: ssh-keyscan -p {route.port} {route.host} >> ~/.ssh/known_hosts",
        )
    path = own_known_hosts()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as stream:
        stream.write(f"{route.key_name} {key.get_name()} {key.get_base64()}\n")


def _authenticate(transport: paramiko.Transport, route: Route) -> None:
    """Agent keys and key files in the order `ssh` has; the first that is accepted wins."""
    agent_keys = () if route.identities_only else paramiko.Agent().get_keys()
    locked = []
    keys: list[paramiko.PKey] = list(agent_keys)
    for path in route.identities:
        try:
            keys.append(paramiko.PKey.from_path(path))
        except (paramiko.PasswordRequiredException, TypeError):
            locked.append(path)
        except (paramiko.SSHException, ValueError, OSError):
            continue  # a kind of key that paramiko cannot use, or not a key
    if route.identities_only:  # then an agent may still hold the named files' keys
        wanted = {path.with_suffix(path.suffix + ".pub") for path in route.identities}
        public = {line.split()[1] for line in (p.read_text() for p in wanted if p.is_file()) if len(line.split()) > 1}
        keys += [key for key in paramiko.Agent().get_keys() if key.get_base64() in public]
    for key in keys:
        try:
            transport.auth_publickey(route.user, key)
        except paramiko.AuthenticationException:
            continue
        return
    hint = f"try: ssh-copy-id -p {route.port} {route.user}@{route.host}"
    if locked:
        hint = f"{locked[0]} has a passphrase: ssh-add {locked[0]} first"
    raise DeviceRefused(f"{route.user}@{route.host} accepted none of our {len(keys)} keys", hint=hint)


@contextmanager
def _our_errors(route: Route) -> Iterator[None]:
    where = f"{route.host} port {route.port}"
    try:
        yield
    except paramiko.AuthenticationException as error:
        raise DeviceRefused(
            f"{route.user}@{route.host} refused us: {error}", hint="too many keys in the agent? set IdentitiesOnly"
        ) from error
    except socket.gaierror as error:
        raise DeviceUnreachable(
            f"no such host: {route.host}", hint="check the name, or add it to ~/.ssh/config"
        ) from error
    except (paramiko.SSHException, EOFError, TimeoutError, ConnectionError, OSError) as error:
        reason = str(error) or type(error).__name__
        raise DeviceUnreachable(f"cannot reach {where}: {reason}", hint="is it powered and on this network?") from error
