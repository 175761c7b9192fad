"""Logging in with keys, by paramiko, in as few round trips as the protocol allows."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import paramiko
from cryptography.exceptions import UnsupportedAlgorithm
from paramiko.auth_handler import AuthHandler

from edgekit.deploy.route import Route
from edgekit.deploy.touch import tell_to_touch
from edgekit.errors import DeviceRefused

CONNECT_S = 20.0

# Over a link of 100 ms, a login is nothing but waiting. What follows saves three of the eight round trips up to the first word
# of the command: nothing is asked for that the next message does not depend on.


class _Offer(AuthHandler):
    """Sends a key right behind the request for the service that it is for. sshd reads one after the other anyway."""

    def _request_auth(self) -> None:
        super()._request_auth()  # type: ignore[misc]
        accepted = paramiko.Message()
        accepted.add_string("ssh-userauth")
        accepted.rewind()
        super()._parse_service_accept(accepted)  # type: ignore[misc]

    def _parse_service_accept(self, message: paramiko.Message) -> None:
        """The server's own word: what follows it is sent."""


def _offer(transport: paramiko.Transport, user: str, key: paramiko.PKey) -> Callable[[], None]:
    """Sends a key. Returns what waits for the answer, and raises as `auth_publickey` does."""
    if "rsa" in key.get_name():  # which hash the server takes, it says in between
        return lambda: (transport.auth_publickey(user, key), None)[1]
    handler, answered = _Offer(transport), threading.Event()
    transport.auth_handler = handler
    handler.auth_publickey(user, key, answered)
    return lambda: (handler.wait_for_response(answered), None)[1]


def log_in(transport: paramiko.Transport, route: Route) -> paramiko.Channel:
    """A session's channel. With a single key it is asked for along with the login, as RFC 4252, 5.1 provides for."""
    keys, locked = _keys(route)
    with ThreadPoolExecutor(1) as pool:
        opening: Future[paramiko.Channel] | None = None

        def offer(user: str, key: paramiko.PKey) -> None:
            nonlocal opening
            wait = _offer(transport, user, key)
            if len(keys) == 1 and "rsa" not in key.get_name():
                opening = pool.submit(transport.open_session, timeout=CONNECT_S)
            wait()

        try:
            _authenticate(transport, route, keys, locked, offer)
        except BaseException:
            transport.close()  # or the pool would wait for a channel that nobody opens
            raise
        return transport.open_session(timeout=CONNECT_S) if opening is None else opening.result()


def _authenticate(
    transport: paramiko.Transport,
    route: Route,
    keys: Sequence[paramiko.PKey],
    locked: Sequence[Path],
    offer: Callable[[str, paramiko.PKey], None],
) -> None:
    """The agent's keys and key files, each once; the first that is accepted wins. A named key goes before others."""
    login = f"{route.user}@{route.host}"
    tried = 0
    for key in keys:
        if not transport.is_active():
            raise DeviceRefused(
                f"{login} stopped listening after {tried} keys",
                hint="say which key is for it: IdentityFile and IdentitiesOnly yes in ~/.ssh/config",
            )
        tried += 1
        if _is_on_token(key):
            tell_to_touch("log in")
        try:
            offer(route.user, key)
        except paramiko.BadAuthenticationType as error:
            raise DeviceRefused(
                f"{login} does not accept keys, only: {', '.join(error.allowed_types)}",
                hint="set PubkeyAuthentication yes in its sshd_config: edgekit never asks for passwords",
            ) from error
        except paramiko.SSHException:  # not this key; or it hung up, which the next round sees
            continue
        if transport.is_authenticated():
            return
        raise DeviceRefused(f"{login} wants more than a key", hint="edgekit logs in by key alone: allow that for it")
    if locked:
        others = f", and {login} accepted none of our other {tried} keys" if tried else ""
        raise DeviceRefused(f"the key {locked[0]} has a passphrase{others}", hint=f"first: ssh-add {locked[0]}")
    setup = f"ssh-copy-id -p {route.port} {login}"
    if not keys:
        raise DeviceRefused(
            f"there is no key here to log in to {login} with", hint=f"ssh-keygen -t ed25519, then {setup}"
        )
    raise DeviceRefused(f"{login} accepted none of our {tried} keys", hint=f"try: {setup}")


def _keys(route: Route) -> tuple[list[paramiko.PKey], list[Path]]:
    """What we can log in with, in the order `ssh` has; and the key files that nobody has opened with their passphrase."""
    held: dict[str, paramiko.PKey] = {key.get_base64(): key for key in paramiko.Agent().get_keys()}
    named: dict[str, paramiko.PKey] = {}
    locked = []
    for path in route.identities:
        if path.suffix == ".pub" or not path.is_file():
            continue
        try:
            key = paramiko.PKey.from_path(path)
            named[key.get_base64()] = key
        except (paramiko.PasswordRequiredException, TypeError):  # TypeError: cryptography's word for it
            if _public_half(path) not in held:
                locked.append(path)
        except (paramiko.SSHException, UnsupportedAlgorithm, ValueError, OSError):
            continue  # a kind of key that paramiko cannot use, or not a key
    ours = named.keys() | {_public_half(path) for path in route.identities}
    keys = [key for blob, key in held.items() if blob in ours]
    keys += [key for blob, key in held.items() if blob not in ours and not route.identities_only]
    keys += [key for blob, key in named.items() if blob not in held]
    keys.sort(key=_is_on_token)  # last: it has to be touched before we hear whether the device takes that key
    return keys, locked


def _is_on_token(key: paramiko.PKey) -> bool:
    return key.get_name().startswith("sk-")


def _public_half(path: Path) -> str:
    """The key in `id.pub` beside `id`; "" if there is none."""
    public = path if path.suffix == ".pub" else path.with_name(path.name + ".pub")
    try:
        return public.read_text("utf-8", "replace").split()[1]
    except (OSError, IndexError):
        return ""
