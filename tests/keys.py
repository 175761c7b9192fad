"""Real keys, a real ssh-agent, and signatures that ssh-keygen itself makes, without any code of edgekit's."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def why_no_ssh_keygen() -> str:
    """Why signatures cannot be tested here; "" if they can."""
    return "" if shutil.which("ssh-keygen") else "there is no ssh-keygen: apt install openssh-client"


def make_key(folder: Path, name: str, kind: str = "ed25519") -> Path:
    """A private key without a passphrase, with its .pub beside it."""
    path = folder / name
    subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-C", name, "-f", path], check=True)
    return path


def public(key: Path) -> str:
    """`type base64` of a key pair."""
    return " ".join(key.with_name(key.name + ".pub").read_text().split()[:2])


def fingerprint_of(key: Path) -> str:
    """As ssh-keygen itself says it."""
    done = subprocess.run(["ssh-keygen", "-l", "-f", f"{key}.pub"], check=True, capture_output=True, text=True)
    return done.stdout.split()[1]


def ssh_sign(key: Path, content: bytes, namespace: str = "edgekit-bundle") -> bytes:
    """What `ssh-keygen -Y sign` makes of it."""
    done = subprocess.run(
        ["ssh-keygen", "-Y", "sign", "-n", namespace, "-f", key], input=content, check=True, capture_output=True
    )
    return done.stdout


@contextmanager
def ssh_agent(folder: Path, *keys: Path, token: Path | None = None) -> Iterator[str]:
    """The socket of an ssh-agent that holds these keys, which may be on a token; it ends with the block."""
    socket = str(folder / "agent.sock")
    allowed = [] if token is None else ["-P", token]
    done = subprocess.run(["ssh-agent", "-a", socket, *allowed], check=True, capture_output=True, text=True)
    found = re.search(r"SSH_AGENT_PID=(\d+)", done.stdout)
    assert found is not None
    environment = {**os.environ, "SSH_AUTH_SOCK": socket}
    try:
        provider = [] if token is None else ["-S", token]
        subprocess.run(["ssh-add", "-q", *provider, *keys], check=True, env=environment)
        yield socket
    finally:
        environment["SSH_AGENT_PID"] = found[1]
        subprocess.run(["ssh-agent", "-k"], check=True, capture_output=True, env=environment)
