"""OpenSSH's own server on a loopback port, with keys, configuration and a home of its own, and a client that knows it."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

SSHD = "/usr/sbin/sshd"


def why_no_sshd() -> str:
    """Why the server cannot be run here; "" if it can."""
    if not os.access(SSHD, os.X_OK):
        return f"{SSHD} is not installed: apt install openssh-server"
    if shutil.which("ssh") is None:
        return "there is no ssh client: apt install openssh-client"
    return ""


@dataclass(frozen=True)
class Sshd:
    """A running server. As a client knows it: `board` directly, `behind` through a jump over itself."""

    folder: Path
    port: int
    user: str

    @property
    def root(self) -> Path:
        """The device's ROOT."""
        return self.folder / "state" / "edgekit"

    @property
    def known_hosts(self) -> Path:
        return self.folder / "known_hosts"

    @property
    def own_known_hosts(self) -> Path:
        """The file that edgekit writes itself."""
        return self.folder / "config" / "edgekit" / "known_hosts"

    @property
    def bashrc(self) -> Path:
        """What the device's login shell reads."""
        return self.folder / "home" / ".bashrc"

    @property
    def environment(self) -> dict[str, str]:
        """The client's: an `ssh` that reads our ssh_config and nobody else's, and no home but ours."""
        return {
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
            "HOME": str(self.folder / "client"),
            "XDG_CONFIG_HOME": str(self.folder / "config"),
        }

    def host_key(self) -> str:
        """type and base64, as in known_hosts."""
        return " ".join((self.folder / "host_key.pub").read_text().split()[:2])

    def reset(self) -> None:
        """An empty device, a client that trusts it, nothing special."""
        for name in ("state", "home", "config", "client"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
            (self.folder / name).mkdir()
        self.known_hosts.write_text(f"[127.0.0.1]:{self.port} {self.host_key()}\n")
        self.write_client_config()

    def write_client_config(self, *, port: int | None = None, identity: str = "id", more: str = "") -> None:
        """What `board` and `behind` mean to `ssh`; `more` is lines at the top, which win."""
        common = f"""\
    HostName 127.0.0.1
    Port {port or self.port}
    User {self.user}
    IdentityFile {self.folder / identity}
    IdentitiesOnly yes
    UserKnownHostsFile {self.known_hosts}
    GlobalKnownHostsFile /dev/null
"""
        (self.folder / "ssh_config").write_text(
            f"{more}\nHost board\n{common}\nHost behind\n{common}    ProxyJump board\n"
            f"\nHost piped\n{common}    ProxyCommand ssh -W %h:%p board\n"
        )

    def trust(self, port: int) -> None:
        """The client knows the server's key at that port too."""
        with self.known_hosts.open("a") as stream:
            stream.write(f"[127.0.0.1]:{port} {self.host_key()}\n")

    def trust_key(self, other: Sshd) -> None:
        """This one's client knows another server's key."""
        with self.known_hosts.open("a") as stream:
            stream.write(f"[127.0.0.1]:{other.port} {other.host_key()}\n")

    @contextmanager
    def letting_in(self, public: Path) -> Iterator[None]:
        """While open, that key may log in too."""
        authorized = self.folder / "authorized_keys"
        before = authorized.read_text()
        authorized.write_text(before + public.read_text())
        try:
            yield
        finally:
            authorized.write_text(before)

    def sessions(self) -> list[int]:
        """Process ids of the server's children: connections that are open."""
        pid = (self.folder / "sshd.pid").read_text().strip()
        found = subprocess.run(["ps", "-o", "pid=", "--ppid", pid], capture_output=True, text=True)
        return [int(line) for line in found.stdout.split()]


@contextmanager
def running_sshd(folder: Path, *, authority: bool = False, more: str = "") -> Iterator[Sshd]:
    """A server in `folder`, stopped in the end; `more` is lines for its configuration.

    With `authority`, `folder/ca` has signed its host key, and it lets in whom that signs.
    """
    folder.chmod(0o755)
    for name in ("host_key", "other_host_key", "id", "stranger"):
        _keygen(folder / name, "")
    _keygen(folder / "locked", "a long passphrase")
    public = [(folder / f"{name}.pub").read_text() for name in ("id", "locked")]
    (folder / "authorized_keys").write_text("".join(public))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = Sshd(folder, port, getpass.getuser())
    if authority:
        _keygen(folder / "ca", "")
        sign = ["ssh-keygen", "-q", "-s", str(folder / "ca"), "-I", "test"]
        subprocess.run([*sign, "-h", "-n", "127.0.0.1", str(folder / "host_key.pub")], check=True)
        subprocess.run([*sign, "-n", server.user, str(folder / "stranger.pub")], check=True)
        more += f"HostCertificate {folder / 'host_key-cert.pub'}\nTrustedUserCAKeys {folder / 'ca.pub'}\n"
    (folder / "sshd_config").write_text(
        f"""\
Port {port}
ListenAddress 127.0.0.1
HostKey {folder / "host_key"}
PidFile {folder / "sshd.pid"}
AuthorizedKeysFile {folder / "authorized_keys"}
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
UseDNS no
Subsystem sftp internal-sftp
SetEnv XDG_STATE_HOME={folder / "state"} HOME={folder / "home"}
{more}"""
    )
    (folder / "bin").mkdir()
    client = folder / "bin" / "ssh"
    client.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {folder / "ssh_config"} "$@"\n')
    client.chmod(0o755)
    server.reset()
    made_run = os.geteuid() == 0 and not os.path.isdir("/run/sshd")
    if made_run:
        os.mkdir("/run/sshd", 0o755)  # the server insists, and only its service unit makes it
    process = subprocess.Popen([SSHD, "-D", "-f", str(folder / "sshd_config"), "-E", str(folder / "sshd.log")])
    try:
        _wait_for(port, process, folder / "sshd.log")
        yield server
    finally:
        process.terminate()
        process.wait(10)
        if made_run:
            os.rmdir("/run/sshd")


def _keygen(path: Path, passphrase: str) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", passphrase, "-f", str(path)], check=True)


def _wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(500):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        assert process.poll() is None, log.read_text()
        time.sleep(0.01)
    raise AssertionError(f"sshd does not listen: {log.read_text()}")
