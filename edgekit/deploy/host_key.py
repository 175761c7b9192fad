"""The key that a device shows beside the ones on file for it, and putting it in their place when a person vouches for it."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgekit.deploy.address import Address, Local, parse_address
from edgekit.deploy.known_hosts import HostKey, KnownKeys, own_known_hosts, read_known_hosts, remember_host_key
from edgekit.deploy.openssh import shown_host_key
from edgekit.deploy.route import find_route
from edgekit.errors import DeviceUnreachable, HostKeyChanged, InputError


@dataclass(frozen=True)
class Look:
    """What a device shows, and what is on file."""

    name: str  # the name its key is filed under
    shown: HostKey
    known: KnownKeys
    files: tuple[Path, ...]

    @property
    def verdict(self) -> Literal["known", "signed", "unknown", "changed", "revoked"]:
        """`signed`: an authority is on file for it, and `ssh` will check what that signed."""
        if self.shown in self.known.revoked:
            return "revoked"
        if self.shown in self.known.trusted:
            return "known"
        if self.known.authorities:
            return "signed"
        return "changed" if self.known.trusted else "unknown"


def look_at_host_key(device: str | Address) -> Look:
    """The device's key as it is now. Nobody is logged in. Raises DeviceUnreachable if it does not answer."""
    address = parse_address(device)
    if isinstance(address, Local):
        raise InputError(f"{address} is this machine: there is no host key", hint="give the address of a board")
    route = find_route(address)
    shown = shown_host_key(address, route)
    if shown is None:
        raise DeviceUnreachable(f"{route} shows no host key", hint=f"what does this show: ssh -v {address.host}")
    return Look(route.key_name, shown, read_known_hosts(route.known_hosts, route.key_name), route.known_hosts)


def replace_host_key(look: Look) -> list[Path]:
    """Forgets the other keys of that name in the person's own files, remembers this one; the files that were changed."""
    if look.verdict == "revoked":
        raise HostKeyChanged(
            f"{look.name} shows a host key that is marked as revoked: {look.shown.type} {look.shown.fingerprint}",
            hint="do not connect to it: somebody may hold its private half",
        )
    changed = []
    for path in look.files:
        if not read_known_hosts([path], look.name).trusted:
            continue
        done = subprocess.run(
            ["ssh-keygen", "-R", look.name, "-f", str(path)], capture_output=True, text=True, errors="replace"
        )
        others = [key for key in read_known_hosts([path], look.name).trusted if key != look.shown]
        if done.returncode != 0 or others:
            reason = (done.stderr.strip() or "it stands there under a pattern").splitlines()[-1]
            raise InputError(
                f"cannot take the old host key of {look.name} out of {path}: {reason}", hint="remove that line by hand"
            )
        changed.append(path)
    remember_host_key(look.name, look.shown)
    return [*changed, *([own_known_hosts()] if own_known_hosts() not in changed else [])]
