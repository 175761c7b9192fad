"""The same job by other tools: 12 files into a new folder, their SHA-256 compared on the device, `current` switched to it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import paramiko

VENV = Path(__file__).resolve().parents[2] / "build" / "bench-peers"


@dataclass(frozen=True)
class Job:
    """What every tool is given."""

    files: Mapping[str, str]  # path relative to `source` -> SHA-256
    source: Path
    to: Path  # a folder that is not there yet; beside it, `current`
    host: str  # as our ssh_config has it
    port: int
    user: str
    key: Path
    ssh_config: Path
    known_hosts: Path

    @property
    def checks(self) -> str:
        """What `sha256sum -c` reads."""
        return "".join(f"{sha256}  {name}\n" for name, sha256 in self.files.items())

    @property
    def finish(self) -> str:
        """A shell command: compare, then switch."""
        return f"cd {self.to} && sha256sum --quiet -c - && ln -sfn {self.to} {self.to.parent}/current"


def by_paramiko(job: Job) -> None:
    """As one would write it: a put and a sha256sum for each file."""
    client = paramiko.SSHClient()
    client.load_host_keys(str(job.known_hosts))
    client.connect("127.0.0.1", job.port, job.user, key_filename=str(job.key), allow_agent=False, look_for_keys=False)

    def run(command: str) -> str:
        _, out, _ = client.exec_command(command)
        assert out.channel.recv_exit_status() == 0, command
        return out.read().decode()

    with client, client.open_sftp() as sftp:
        run(f"mkdir -p {job.to}/models")
        for name, sha256 in job.files.items():
            sftp.put(str(job.source / name), f"{job.to}/{name}")
            assert run(f"sha256sum {job.to}/{name}").split()[0] == sha256
        run(f"ln -sfn {job.to} {job.to.parent}/current")


def by_scp(job: Job) -> None:
    _run(["scp", "-q", "-r", "-F", job.ssh_config, job.source, f"{job.host}:{job.to}"])
    _run(["ssh", "-F", job.ssh_config, job.host, job.finish], input=job.checks)


def by_rsync(job: Job) -> None:
    _run(["rsync", "-a", "-e", f"ssh -F {job.ssh_config}", f"{job.source}/", f"{job.host}:{job.to}/"])
    _run(["ssh", "-F", job.ssh_config, job.host, job.finish], input=job.checks)


def by_ansible(job: Job) -> None:
    """copy compares checksums itself. With pipelining, which is faster than its default."""
    folder = job.to.parent / "ansible"
    folder.mkdir(exist_ok=True)
    items = [{"name": name, "sha256": sha256} for name, sha256 in job.files.items()]
    copy = {"src": f"{job.source}/{{{{ item.name }}}}", "dest": f"{job.to}/{{{{ item.name }}}}"}
    tasks = [
        {"file": {"path": f"{job.to}/models", "state": "directory"}},
        {"copy": {**copy, "checksum": None}, "loop": items},
        {"file": {"src": str(job.to), "dest": f"{job.to.parent}/current", "state": "link", "force": True}},
    ]
    del tasks[1]["copy"]["checksum"]  # type: ignore[attr-defined]
    (folder / "play.json").write_text(json.dumps([{"hosts": "all", "gather_facts": False, "tasks": tasks}]))
    ours = {
        "ANSIBLE_PIPELINING": "1",
        "ANSIBLE_SSH_ARGS": f"-F {job.ssh_config} -o ControlMaster=auto -o ControlPersist=2s",
        "ANSIBLE_SSH_CONTROL_PATH_DIR": f"/tmp/ek-{os.getpid()}-{job.to.name}",
        "ANSIBLE_LOCALHOST_WARNING": "0",
        "ANSIBLE_PYTHON_INTERPRETER": "/usr/bin/python3",
    }
    words = [VENV / "bin" / "ansible-playbook", "-i", f"{job.host},", folder / "play.json"]
    _run(words, env={**os.environ, **ours, "PATH": f"{VENV / 'bin'}:{os.environ['PATH']}"})
    shutil.rmtree(ours["ANSIBLE_SSH_CONTROL_PATH_DIR"], ignore_errors=True)


def by_pyinfra(job: Job) -> None:
    folder = job.to.parent / "pyinfra"
    folder.mkdir(exist_ok=True)
    lines = ["from pyinfra.operations import files", f"files.directory(path={f'{job.to}/models'!r})"]
    lines += [f"files.put(src={str(job.source / name)!r}, dest={f'{job.to}/{name}'!r})" for name in job.files]
    lines += [
        f"files.link(path={f'{job.to.parent}/current'!r}, target={str(job.to)!r}, force=True, force_backup=False)"
    ]
    (folder / "job.py").write_text("\n".join(lines) + "\n")
    data = {
        "ssh_port": job.port,
        "ssh_user": job.user,
        "ssh_key": str(job.key),
        "ssh_known_hosts_file": str(job.known_hosts),
    }
    hosts = [("127.0.0.1", data)]
    (folder / "inventory.py").write_text(f"hosts = {hosts!r}\n")
    _run([VENV / "bin" / "pyinfra", "-y", folder / "inventory.py", folder / "job.py"], cwd=folder)


def installed_peers() -> dict[str, Callable[[Job], None]]:
    """Those that can be run here; Ansible and pyinfra get an environment of their own."""
    peers = {"file by file, paramiko": by_paramiko, "scp -r": by_scp}
    if shutil.which("rsync"):
        peers["rsync -a"] = by_rsync
    if not (VENV / "bin" / "pyinfra").exists():
        print(f"installing Ansible and pyinfra into {VENV}", file=sys.stderr)
        _run([sys.executable, "-m", "venv", VENV])
        _run([VENV / "bin" / "pip", "install", "-q", "--disable-pip-version-check", "ansible-core", "pyinfra"])
    return {**peers, "Ansible": by_ansible, "pyinfra": by_pyinfra}


def _run(words: list[object], **options: object) -> None:
    done = subprocess.run([str(w) for w in words], capture_output=True, text=True, **options)  # type: ignore[call-overload]
    if done.returncode != 0:
        sys.exit(f"bench: exit code {done.returncode} of {words[0]}: {(done.stderr + done.stdout)[-800:]}")
