"""Keys on a FIDO token: which they are, and telling a person to touch it.

OpenSSH says so only where its stderr is a terminal, and `ssh-keygen -q` or one that signs through an agent never does.
"""

from __future__ import annotations

import base64
import contextlib
import sys
from pathlib import Path

_PRIVATE = b"-----BEGIN OPENSSH PRIVATE KEY-----"
_ON_TOKEN = (b"sk-ssh-ed25519@openssh.com", b"sk-ecdsa-sha2-nistp256@openssh.com")


def is_on_token(key: Path) -> bool:
    """Whether a key is on a FIDO token, as its .pub says or its key file, where that needs no passphrase."""
    for path in (key, Path(f"{key}.pub")):
        with contextlib.suppress(OSError, ValueError):
            text = path.read_bytes()
            if text.startswith(_PRIVATE):
                text = base64.b64decode(b"".join(text.splitlines()[1:-1]))
                return any(kind in text for kind in _ON_TOKEN)
            if text.startswith(_ON_TOKEN):
                return True
    return False


def tell_to_touch(purpose: str) -> None:
    """To be called before OpenSSH is, which then waits without a word."""
    print(f"edgekit: you may need to touch the FIDO token to {purpose}", file=sys.stderr, flush=True)
