"""On the device: the keys whose signatures count. A key goes from unknown to enrolled to revoked, and never back.

    ROOT/allowed_signers    name namespaces="..." type key: ssh-keygen(1), ALLOWED SIGNERS; from then on it takes signed releases
    ROOT/revoked_keys       public keys, one a line

Because nothing ever goes back, a change may be applied twice, or half of it before a power cut and then again.
Sent together with the agent; standard library only, Python >= 3.9.
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Mapping
from typing import Any

from edgekit.deploy.disk import Refused, checked, write_durably
from edgekit.deploy.signing import ALLOWED, REVOKED, read_fields
from edgekit.deploy.sshsig import BUNDLES, SIGNERS, check_signature, fingerprint, key_lines, read_keys

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@+-]{0,63}")
MOST = 1000  # keys of a device: more are no list that anybody keeps
KINDS = re.compile(
    r"ssh-ed25519|ssh-rsa|ecdsa-sha2-nistp(256|384|521)|sk-(ssh-ed25519|ecdsa-sha2-nistp256)@openssh\.com"
)


def list_signers(root: str, min_seq: Mapping[str, int]) -> dict[str, Any]:
    """Every key with its name, fingerprint, the least `seq` it may sign, and whether it was revoked."""
    allowed = read_keys(os.path.join(root, ALLOWED))
    gone = {key for _, _, key in key_lines(read_keys(os.path.join(root, REVOKED)) or b"")}
    rows = [
        {
            "name": name,
            "type": kind,
            "key": fingerprint(key),
            "public": f"{kind} {base64.b64encode(key).decode()}",
            "min_seq": min_seq.get(fingerprint(key), 0),
            "revoked": key in gone,
        }
        for name, kind, key in key_lines(allowed or b"")
    ]
    return {"enforced": allowed is not None, "signers": rows}


def change_signers(root: str, text: Any, signature: Any, *, unsigned: bool) -> dict[str, Any]:
    """Applies {"edgekit_signers": 1, "add": {name: public key}, "revoke": [public key]}.

    The first one enrols: whoever could log in may. After that it needs the signature of an enrolled key, or `unsigned`.
    """
    allowed_path, revoked_path = os.path.join(root, ALLOWED), os.path.join(root, REVOKED)
    allowed, gone = read_keys(allowed_path), read_keys(revoked_path) or b""
    who = None
    if not isinstance(text, str) or not isinstance(signature, (str, type(None))):
        raise _refused("that is no change of signers")
    if allowed is not None and not unsigned:
        if signature is None:
            raise Refused(
                "NotTrusted",
                "this device has signers: a change of them has to be signed by one",
                "add --sign KEY (or --unsigned, if a key was lost and this login is to be enough)",
            )
        who = check_signature(text.encode(errors="replace"), signature.encode(), allowed_path, revoked_path, SIGNERS)
    add, revoke = read_change(text)
    known = {key for _, _, key in key_lines(allowed or b"")}
    revoked = {key for _, _, key in key_lines(gone)}
    for key in add.values():
        if key[1] in revoked:
            raise _refused(f"{fingerprint(key[1])} was revoked here, and stays so", "make a new key: edgekit keygen")
    left = (known | {key for _, key in add.values()}) - revoked - {key for _, key in revoke}
    if not left and not unsigned:
        raise _refused("no key would be left that counts", "add another one in the same step (or --unsigned)")
    lines = [f'{name} namespaces="{BUNDLES},{SIGNERS}" {line}' for name, (line, key) in add.items() if key not in known]
    if len(known) + len(lines) > MOST:
        raise _refused(f"a device keeps at most {MOST} keys", "edgekit remove DEVICE, and enrol those that count")
    if lines or allowed is None:  # first: a power cut between the two leaves one key too many, and not one too few
        write_durably(allowed_path, _with_lines(allowed or b"", lines))
    lines = [line for line, key in revoke if key not in revoked]
    if lines and gone.startswith(b"SSHKRL"):
        raise _refused(f"{revoked_path} is a KRL, which somebody made there", "revoke it where the KRL is made")
    if lines:
        write_durably(revoked_path, _with_lines(gone, lines))
    return {"changed_by": who}


def read_change(text: str) -> tuple[dict[str, tuple[str, bytes]], list[tuple[str, bytes]]]:
    """(name -> key to add, keys to revoke), each key as (line, key); Refused if something does not fit."""
    fields = read_fields(text.encode(errors="replace"), "edgekit_signers", {"add", "revoke"})
    add, revoke = fields["add"], fields["revoke"]
    if not isinstance(add, dict) or not isinstance(revoke, list) or not (add or revoke):
        raise _refused("that is no change of signers")
    return {checked(NAME, name): _parse_key(line) for name, line in add.items()}, [_parse_key(line) for line in revoke]


def _parse_key(line: Any) -> tuple[str, bytes]:
    """A public key and its line as `type base64`, made anew: what is written here is read by ssh-keygen."""
    text = line if isinstance(line, str) else ""
    found = [(kind, key) for first, kind, key in key_lines(text.encode(errors="replace")) if first == kind]
    if len(text.splitlines()) != 1 or len(found) != 1 or not KINDS.fullmatch(found[0][0]):
        raise _refused(f"not a public key that can sign: {str(line)[:60]!r}")
    kind, key = found[0]
    return f"{kind} {base64.b64encode(key).decode()}", key


def _with_lines(text: bytes, lines: list[str]) -> bytes:
    end = b"" if not text or text.endswith(b"\n") else b"\n"
    return text + end + "".join(line + "\n" for line in lines).encode()


def _refused(message: str, hint: str = "edgekit signers --help shows how") -> Refused:
    return Refused("NotTrusted", message, hint)
