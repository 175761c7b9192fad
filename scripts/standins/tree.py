"""A Debian tree that is a device: systemd, sshd, python3, and a user `pi` who may use sudo. Nothing of edgekit is in it."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

BUILD = Path(__file__).resolve().parents[2] / "build" / "standins"
SUITE = "bookworm"
PACKAGES = (
    "systemd,systemd-sysv,udev,dbus,libpam-systemd,polkitd,openssh-server,sudo,"
    "python3,python3-venv,iproute2,procps,kmod,e2fsprogs"
)
SOURCES = Path("/etc/apt/sources.list.d/debian.sources"), Path("/etc/apt/sources.list")
MASKED = (  # what would be busy at boot, or waits for what is not there
    *("systemd-networkd-wait-online", "getty@tty1.service", "apt-daily.timer", "apt-daily-upgrade.timer"),
    *("dpkg-db-backup.timer", "e2scrub_all.timer", "e2scrub_reap.service", "fstrim.timer", "man-db.timer"),
)
TOOLS = {  # command -> Debian's package
    "mmdebstrap": "mmdebstrap",
    "arch-test": "arch-test",
    "ssh-keygen": "openssh-client",
}


def missing_tools(tools: dict[str, str]) -> list[str]:
    """The Debian packages of those commands that are not here."""
    return sorted({package for command, package in tools.items() if shutil.which(command) is None})


def install_tools(tools: dict[str, str]) -> None:
    """Installs what is missing, as root on Debian; elsewhere says what is needed."""
    packages = missing_tools(tools)
    if not packages:
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        sys.exit(f"not installed here: {' '.join(packages)}\n  sudo apt install {' '.join(packages)}")
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    wait = ["-o", "DPkg::Lock::Timeout=300"]
    subprocess.run(["apt-get", *wait, "update", "-qq"], check=True)
    run_quietly(["apt-get", *wait, "install", "-y", "-qq", "--no-install-recommends", *packages], env=quiet)


def run_quietly(command: list[str], **options: object) -> None:
    """Runs a command; what it printed is shown only when it fails, which ends the program."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)  # type: ignore[call-overload]
    if done.returncode != 0:
        sys.stderr.write(done.stdout[-4000:])
        sys.exit(f"exit code {done.returncode}: {' '.join(command)}")


def client_key() -> Path:
    """The private key that every device lets in, made once for this checkout."""
    path = BUILD / "client_key"
    with locked("client_key"):
        if not path.exists():
            words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "edgekit stand-in", "-f", str(path)]
            subprocess.run(words, check=True)
    return path


def tree(arch: str) -> Path:
    """The tree for `arch` (Debian's name for it): built with mmdebstrap, or as it was left. Nobody may write to it."""
    source = Path(__file__).read_bytes()
    key = client_key().with_suffix(".pub").read_text()
    folder = BUILD / f"{arch}-{hashlib.sha256(source + key.encode()).hexdigest()[:12]}"
    with locked(folder.name):
        if not folder.exists():
            for old in BUILD.glob(f"{arch}-*"):
                if old.is_dir():
                    shutil.rmtree(old)
            _build(arch, folder, key)
    return folder


@contextlib.contextmanager
def locked(name: str) -> Iterator[None]:
    """Two test runs in one checkout build a thing once."""
    BUILD.mkdir(parents=True, exist_ok=True)
    with (BUILD / f".{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _build(arch: str, folder: Path, key: str) -> None:
    with tempfile.TemporaryDirectory(dir=BUILD, prefix=".building-") as beside:
        root = Path(beside) / "root"
        without = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("man", "doc", "locale")]
        # the host's own apt sources: whichever mirror this machine uses, the trees come from there too
        sources = next((str(path) for path in SOURCES if path.is_file()), None)
        run_quietly(
            ["mmdebstrap", f"--architectures={arch}", "--variant=apt", f"--include={PACKAGES}", *without,
             "--aptopt=Acquire::Check-Valid-Until \"false\"", "--aptopt=Apt::Install-Recommends \"false\"",
             SUITE, str(root), *([sources] if sources else [])],
        )  # fmt: skip
        _make_device_of(root, key)
        root.rename(folder)


def _make_device_of(root: Path, key: str) -> None:
    def write(name: str, text: str, mode: int = 0o644) -> None:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)

    # a password that nobody can type, but not a locked account, which sshd would refuse; the same for root
    run_quietly(["chroot", str(root), "useradd", "-m", "-p", "*", "-s", "/bin/bash", "pi"])
    write("etc/sudoers.d/pi", "pi ALL=(ALL) NOPASSWD: ALL\n", 0o440)
    for home in ("home/pi", "root"):
        (root / home / ".ssh").mkdir(mode=0o700, exist_ok=True)
        write(f"{home}/.ssh/authorized_keys", key, 0o600)
    run_quietly(["chroot", str(root), "chown", "-R", "pi:pi", "/home/pi/.ssh"])
    write("etc/hostname", "stand-in\n")
    write("etc/hosts", "127.0.0.1 localhost stand-in\n")
    write("etc/systemd/network/80-dhcp.network", "[Match]\nName=en* eth*\n[Network]\nDHCP=yes\n")
    write("etc/fstab", "LABEL=root / ext4 defaults,errors=remount-ro 0 1\n")
    write("etc/ssh/sshd_config.d/stand-in.conf", "UseDNS no\nPermitRootLogin prohibit-password\n")
    for old in (root / "etc" / "ssh").glob("ssh_host_*"):
        old.unlink()  # each device has its own
    run_quietly(["systemctl", f"--root={root}", "-q", "enable", "systemd-networkd", "ssh"])
    run_quietly(["systemctl", f"--root={root}", "-q", "mask", *MASKED])
    shutil.rmtree(root / "var" / "cache" / "apt", ignore_errors=True)
    shutil.rmtree(root / "var" / "lib" / "apt" / "lists", ignore_errors=True)
    release = root / "etc" / "os-release"
    text = release.read_text()
    release.unlink()  # a link into usr, which is not there yet when systemd-nspawn looks
    release.write_text(text)
    (root / "etc" / "machine-id").write_text("")
