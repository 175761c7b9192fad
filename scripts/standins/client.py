"""An ssh client that knows the stand-ins by name and reads no configuration but its own."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Server:
    """A port of this machine behind which a stand-in's sshd is."""

    port: int
    host_key: str  # type and base64


class Client:
    """A home, an `ssh` on PATH, and known hosts, in a folder of their own."""

    def __init__(self, folder: Path, key: Path) -> None:
        self.folder = folder
        self.key = key
        (folder / "bin").mkdir(parents=True, exist_ok=True)
        (folder / "client").mkdir(exist_ok=True)
        self.ssh = folder / "bin" / "ssh"
        self.ssh.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {folder / "ssh_config"} "$@"\n')
        self.ssh.chmod(0o755)

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs so that its `ssh`, and edgekit, is this client."""
        home, path = self.folder / "client", f"{self.folder / 'bin'}:{os.environ['PATH']}"
        return {"PATH": path, "HOME": str(home), "XDG_CONFIG_HOME": str(home / "config")}

    def know(self, servers: Mapping[str, Server]) -> None:
        """These are all that it knows; its user there is pi."""
        common = (
            f"Host *\n    User pi\n    IdentityFile {self.key}\n    IdentitiesOnly yes\n    StrictHostKeyChecking yes\n"
            f"    UserKnownHostsFile {self.folder / 'known_hosts'}\n    GlobalKnownHostsFile /dev/null\n    LogLevel ERROR\n"
        )
        hosts = [f"Host {name}\n    HostName 127.0.0.1\n    Port {one.port}\n" for name, one in servers.items()]
        (self.folder / "ssh_config").write_text("".join(hosts) + common)
        known = [f"[127.0.0.1]:{one.port} {one.host_key}\n" for one in servers.values()]
        (self.folder / "known_hosts").write_text("".join(known))

    def run(
        self, name: str, *words: str, user: str = "pi", check: bool = True, timeout_s: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """A command over ssh, as its login shell gets it; what it printed is text."""
        command = [str(self.ssh), "-o", "BatchMode=yes", f"{user}@{name}", "--", *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, stdin=subprocess.DEVNULL)
        assert not check or done.returncode == 0, f"{words}: exit code {done.returncode}: {done.stderr}{done.stdout}"
        return done
