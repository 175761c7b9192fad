"""On the workstation: which keys a device takes signatures from, and changes of that, signed or over the login alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgekit.deploy.address import Address
from edgekit.deploy.session import Session, open_session, refuse_host_key
from edgekit.deploy.sign import Signed, Signer, read_public_key
from edgekit.deploy.transport import AskHostKey
from edgekit.errors import InputError

Row = Mapping[str, Any]  # a key as the device lists it: name, type, key (fingerprint), public, min_seq, revoked


def make_change(add: Mapping[str, str], revoke: Sequence[str]) -> bytes:
    """What a device is asked to change; keys as `type base64`. It holds for every device, and may be applied twice."""
    fields = {"edgekit_signers": 1, "add": dict(add), "revoke": list(revoke)}
    return (json.dumps(fields, indent=1, sort_keys=True) + "\n").encode()


def name_of(path: Path, name: str | None) -> str:
    """The name to enrol a key by: the given one, or the first word of its comment."""
    found = name or (read_public_key(path)[2].split() or [""])[0]
    if not found:
        raise InputError(f"{path} has no comment to name it by", hint="give it a name: --name alice")
    return found


def list_signers(address: Address, *, python: str = "python3", ask: AskHostKey = refuse_host_key) -> Mapping[str, Any]:
    """`enforced` (the device takes signed releases only) and `signers`, a Row for each key."""
    with open_session(address, python=python, ask=ask) as session:
        return {"device": str(address), **session.request("signers")}


def change_signers(
    address: Address,
    *,
    add: Mapping[str, str],
    revoke: Sequence[str] = (),
    sign: Signer | None = None,
    unsigned: bool = False,
    python: str = "python3",
    ask: AskHostKey = refuse_host_key,
) -> Mapping[str, Any]:
    """Enrols and revokes keys; `revoke` names them as `type base64`, by fingerprint, or by the name they have there.

    The first key of a device needs no signature: whoever may log in enrols it. Later changes need one of an enrolled
    key, or `unsigned`. Raises NotTrusted, and then nothing has changed.
    """
    with open_session(address, python=python, ask=ask) as session:
        known = session.request("signers")["signers"] if revoke else []
        change = make_change(add, [_find(key, known) for key in revoke])
        signature = b"" if sign is None else sign(change)
        return _apply(session, address, Signed(change, signature), unsigned)


def apply_change(
    address: Address, signed: Signed, *, python: str = "python3", ask: AskHostKey = refuse_host_key
) -> Mapping[str, Any]:
    """Hands a change to the device that was signed before, elsewhere. Raises NotTrusted, and then nothing has changed."""
    with open_session(address, python=python, ask=ask) as session:
        return _apply(session, address, signed, False)


def _apply(session: Session, address: Address, signed: Signed, unsigned: bool) -> Mapping[str, Any]:
    frame = signed.frame
    session.request("change signers", text=frame["statement"], signature=frame["signature"] or None, unsigned=unsigned)
    return {"device": str(address), **session.request("signers")}


def _find(wanted: str, known: Sequence[Row]) -> str:
    if " " in wanted:
        return wanted
    found = [row for row in known if wanted in (row["name"], row["key"]) and not row["revoked"]]
    if len(found) != 1:
        names = ", ".join(f"{row['name']} {row['key']}" for row in known) or "none"
        which = "more than one key" if found else "no key that counts"
        raise InputError(f"{which} there is called {wanted!r}", hint=f"name one, or its .pub file; there are: {names}")
    return str(found[0]["public"])
