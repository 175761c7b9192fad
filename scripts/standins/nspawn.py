"""Light devices: systemd-nspawn boots a Debian tree with its own systemd, sshd, files and network, in about a second.

Real: systemd units, user units, the watchdog, reboots, sudo, ssh, a link that goes down. Not real: another processor, limits on
memory, and power cuts, since the kernel and its page cache are this machine's. Those need `vpi`.

Everything lives in processes: a device is gone when the program that started it is, and its network is reachable only
through a port on 127.0.0.1 that leads to its sshd.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

from . import image, tree
from .client import Client, Server
from .link import Link

TOOLS = {**tree.TOOLS, "systemd-nspawn": "systemd-container", "ip": "iproute2", "ssh": "openssh-client"}
EMULATOR = {"qemu-aarch64-static": "qemu-user-static"}
CGROUPS = ("/sys/fs/cgroup/systemd", "/sys/fs/cgroup/unified")
# As on every board of today. With the older hierarchy a systemd in a container is not told that a service's last process
# has ended, and some reboots wait 90 s for a user's session.
CGROUP2 = ("SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1",)
ARCH = "amd64" if os.uname().machine == "x86_64" else "arm64"
EMULATED = "QEMU_CPU=cortex-a72"
CPUINFO = """\
processor\t: {}
BogoMIPS\t: 108.00
Features\t: fp asimd evtstrm crc32 cpuid
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: 0xd08
CPU revision\t: 3

"""
UP_S = 60.0
_CLONE_NEWNET = 0x40000000
_REBOOT = 133  # how systemd-nspawn --keep-unit says that the device wants to be started again
_FOREVER = f'while :; do setpriv --pdeathsig=TERM "$@"; [ $? -eq {_REBOOT} ] || exit; done'


def why_not() -> str:
    """Why no device can be started here; "" if one can."""
    if os.geteuid() != 0:
        return "systemd-nspawn needs root"
    if packages := tree.missing_tools(TOOLS):
        return f"not installed: {' '.join(packages)} (scripts/farm --build installs them)"
    return ""


class Farm:
    """Devices, and an ssh client's configuration that knows them: dev1, dev2... (user pi; root may log in too).

    Of another architecture than this machine's they are emulated, program by program (qemu-user), under this machine's kernel.
    """

    def __init__(self, folder: Path, arch: str = ARCH) -> None:
        self.folder = folder
        self.client = Client(folder, tree.client_key())
        self.emulated = arch != ARCH
        if self.emulated:
            image.register_arm64()
        self._tree = tree.tree(arch)
        self._hub = _held_network()
        _ip(self._hub.pid, "link", "add", "switch", "type", "bridge")
        _ip(self._hub.pid, "addr", "add", "10.99.0.1/24", "dev", "switch")
        _ip(self._hub.pid, "link", "set", "switch", "up")
        self.devices: list[Device] = []

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs so that it knows the devices."""
        return self.client.environment

    def start(self, count: int = 1) -> list[Device]:
        """New devices, started at once; returns when all of them answer."""
        new = [Device(self, len(self.devices) + 1 + i, self._tree, self._hub.pid) for i in range(count)]
        self.devices += new
        self.client.know({one.name: Server(one.link.port, one.host_key) for one in self.devices})
        for device in new:
            device.wait_up()
        return new

    def close(self) -> None:
        for device in self.devices:
            device.close()
        self._hub.kill()
        self._hub.wait()


class Device:
    """One of them, booted. Its files lie under `root`, where this machine can look at them too (but for /usr and /run)."""

    def __init__(self, farm: Farm, number: int, base: Path, hub: int) -> None:
        self.name = f"dev{number}"
        self.folder = farm.folder / self.name
        self.root = self.folder / "root"
        self._farm = farm
        self._address = f"10.99.0.{number + 1}"
        self._port = f"port{number}"  # of the switch
        self._machine = f"edgekit-{os.getpid()}-{id(farm):x}-{number}"
        self._hub = hub
        self._base = base
        _copy_tree(base, self.root)
        host_key = self.root / "etc" / "ssh" / "ssh_host_ed25519_key"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(host_key)], check=True)
        self.host_key = " ".join(host_key.with_suffix(".pub").read_text().split()[:2])
        (self.root / "etc" / "hostname").write_text(f"{self.name}\n")
        (self.root / "etc" / "fstab").write_text("")
        if farm.emulated:
            _name_the_processor(self.root)
        networkd = self.root / "etc" / "systemd" / "system" / "systemd-networkd.service"
        networkd.symlink_to("/dev/null")  # the address is given from outside, once
        self._network = _held_network()
        self._lay_cable()
        self.link = Link(self._reach_sshd)
        self._start()

    # -- what a test asks for

    def ssh(
        self, *words: str, user: str = "pi", check: bool = True, timeout_s: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """A command over ssh, as its login shell gets it; what it printed is text."""
        return self._farm.client.run(self.name, *words, user=user, check=check, timeout_s=timeout_s)

    def inside(self, *command: str, check: bool = True, timeout_s: float = 60) -> str:
        """What a command prints that root runs there, without ssh: it works with the link down too."""
        enter = ["nsenter", "-t", str(self.pid), "-m", "-u", "-i", "-n", "-p", "-C"]
        clean = ["env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8"]
        done = subprocess.run(
            [*enter, *clean, *command], capture_output=True, text=True, timeout=timeout_s, stdin=subprocess.DEVNULL
        )
        assert not check or done.returncode == 0, f"{command}: exit code {done.returncode}: {done.stderr}{done.stdout}"
        return done.stdout

    def pids(self, pattern: str) -> list[int]:
        """The device's processes whose command line fits a regular expression, as it numbers them."""
        return [int(line) for line in self.inside("pgrep", "-f", "--", pattern, check=False).split()]

    def kill(self, pid: int, number: int = signal.SIGKILL) -> None:
        self.inside("kill", f"-{int(number)}", str(pid))

    def kill_ssh(self) -> None:
        """Every session there dies; the server, `sshd: /usr/sbin/sshd`, stays."""
        self.inside("pkill", "-KILL", "-f", "^sshd: [a-z]+[ @]", check=False)

    def link_down(self) -> None:
        """The cable is pulled: nobody is told."""
        _ip(self._hub, "link", "set", self._port, "down")

    def link_up(self) -> None:
        _ip(self._hub, "link", "set", self._port, "up")

    def reboot(self) -> None:
        """An orderly reboot; returns when it answers again."""
        before = self.boot_id()
        # systemd(1): starts reboot.target. Not `systemctl reboot` in there: on a busy machine that is still there when
        # systemd-shutdown stops all there is; nsenter then stops itself, nobody reaps its child, and 180 s are waited for it
        if self._farm.emulated:  # qemu-user has numbers of its own for real-time signals
            self.inside("systemctl", "--no-block", "reboot", check=False)
        else:
            os.kill(self.pid, signal.SIGRTMIN + 5)
        self.wait_up(not_boot=before)

    def cut(self) -> None:
        """Everything there dies at once, and it boots again. Files are as they were: this is no power cut."""
        before = self.boot_id()
        _kill_tree(self._nspawn.pid)
        self._nspawn.wait()
        self._start()
        self.wait_up(not_boot=before)

    def boot_id(self) -> str:
        # not by a process in there: one that systemd-shutdown stops, stops nsenter too, and is waited for, 90 s
        return Path(f"/proc/{self.pid}/root/proc/sys/kernel/random/boot_id").read_text().strip()

    def wait_up(self, timeout_s: float = UP_S, *, not_boot: str = "") -> None:
        """Returns when sshd answers (in another boot than `not_boot`) and systemd has started everything."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            assert self._nspawn.poll() is None, self.console()
            with contextlib.suppress(OSError, AssertionError, subprocess.TimeoutExpired):
                if self.boot_id() != not_boot and self._answers() and self._has_started():
                    return
            time.sleep(0.05)
        waits_for = ""
        with contextlib.suppress(AssertionError, OSError, subprocess.TimeoutExpired):
            waits_for = self.inside("systemctl", "list-jobs", "--no-pager", check=False, timeout_s=5)
        raise TimeoutError(f"{self.name} is not up after {timeout_s} s\n{waits_for}{self.console()}")

    def console(self) -> str:
        """What it wrote to its console."""
        return (self.folder / "console").read_text(errors="replace")

    @property
    def pid(self) -> int:
        """Its systemd's, as this machine numbers it."""
        for nspawn in _children(self._nspawn.pid):
            for leader in _children(nspawn):
                if os.readlink(f"/proc/{leader}/ns/pid") != os.readlink("/proc/self/ns/pid"):  # not so far yet
                    return leader
        raise ProcessLookupError(f"{self.name} does not run")

    # -- how it is made

    def close(self) -> None:
        self.link.close()
        _kill_tree(self._nspawn.pid)
        self._nspawn.wait()
        self._network.kill()
        self._network.wait()
        shutil.rmtree(f"/run/systemd/nspawn/propagate/{self._machine}", ignore_errors=True)
        for hierarchy in CGROUPS:
            _remove_cgroup(Path(hierarchy) / self._machine)

    def _start(self) -> None:
        command = [
            "systemd-nspawn", "--quiet", "--boot", "--register=no", "--keep-unit", f"--machine={self._machine}",
            f"--hostname={self.name}", f"--directory={self.root}", f"--overlay={self._base / 'usr'}:{self.folder / 'usr'}:/usr",
            f"--network-namespace-path=/proc/{self._network.pid}/ns/net", "--console=pipe", "--link-journal=no",
            "--resolv-conf=off", "--timezone=off",
        ]  # fmt: skip
        entry = "".join(f'echo $$ >"{folder}/cgroup.procs"; ' for folder in self._make_cgroups())
        with (self.folder / "console").open("ab") as console:
            self._nspawn = subprocess.Popen(
                ["setpriv", "--pdeathsig=KILL", "env", *CGROUP2, "sh", "-c", entry + _FOREVER, "sh", *command],
                stdin=subprocess.DEVNULL, stdout=console, stderr=console, start_new_session=True,
            )  # fmt: skip

    def _make_cgroups(self) -> list[Path]:
        """A place of its own for its systemd, else two devices would see one another's services as theirs."""
        made = [Path(hierarchy) / self._machine for hierarchy in CGROUPS if Path(hierarchy).is_dir()]
        for folder in made:
            folder.mkdir(exist_ok=True)
        return made

    def _lay_cable(self) -> None:
        device = self._network.pid
        _ip(self._hub, "link", "add", self._port, "type", "veth", "peer", "name", "host0", "netns", str(device))
        _ip(self._hub, "link", "set", self._port, "master", "switch", "up")
        _ip(device, "link", "set", "lo", "up")
        _ip(device, "addr", "add", f"{self._address}/24", "dev", "host0")
        _ip(device, "link", "set", "host0", "up")

    def _reach_sshd(self) -> socket.socket:
        """A connection to its sshd, made by a thread that is where the other end of its cable is."""
        with open(f"/proc/{self._hub}/ns/net") as network:
            if ctypes.CDLL(None, use_errno=True).setns(network.fileno(), _CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "setns")
        assert threading.current_thread() is not threading.main_thread()
        connection = socket.create_connection((self._address, 22), timeout=3)
        connection.settimeout(None)
        return connection

    def _has_started(self) -> bool:
        return self.inside("systemctl", "is-system-running", check=False, timeout_s=5).strip() in (
            "running",
            "degraded",
        )

    def _answers(self) -> bool:
        with socket.create_connection(("127.0.0.1", self.link.port), timeout=5) as connection:
            return connection.recv(4) == b"SSH-"


def _copy_tree(base: Path, root: Path) -> None:
    """All of it but /usr, which is 230 of 244 MB and is shared, each device's changes beside it."""
    root.mkdir(parents=True)
    parts = [str(path) for path in base.iterdir() if path.name != "usr"]
    subprocess.run(["cp", "-a", *parts, str(root)], check=True)
    (root / "usr").mkdir()
    (root.parent / "usr").mkdir()


def _name_the_processor(root: Path) -> None:
    """qemu-user is a Cortex-A72 for all that runs there, in /proc/cpuinfo too, which is this machine's otherwise.

    The SVE kernels of its `max` answer wrongly, as a golden check says; XNNPACK, told of another processor, crashes.
    """
    (root / "etc" / "environment").write_text(f"{EMULATED}\n")  # for sessions over ssh
    for name in ("system", "user"):
        folder = root / "etc" / "systemd" / f"{name}.conf.d"
        folder.mkdir()
        (folder / "emulated.conf").write_text(f"[Manager]\nDefaultEnvironment={EMULATED}\n")
    (root / "etc" / "cpuinfo").write_text("".join(CPUINFO.format(number) for number in range(os.cpu_count() or 1)))
    units = root / "etc" / "systemd" / "system"
    (units / "cpuinfo.service").write_text(
        "[Unit]\nDefaultDependencies=no\n[Service]\nType=oneshot\nExecStart=mount --bind /etc/cpuinfo /proc/cpuinfo\n"
    )
    (units / "sysinit.target.wants").mkdir(exist_ok=True)
    (units / "sysinit.target.wants" / "cpuinfo.service").symlink_to("../cpuinfo.service")


def _held_network() -> subprocess.Popen[bytes]:
    """A process in a network namespace of its own, which lasts as long as it does."""
    holder = subprocess.Popen(
        ["setpriv", "--pdeathsig=KILL", "unshare", "--net", "--", "sleep", "infinity"], start_new_session=True
    )
    ours = os.readlink("/proc/self/ns/net")
    while os.readlink(f"/proc/{holder.pid}/ns/net") == ours:
        assert holder.poll() is None, "unshare --net failed"
        time.sleep(0.002)
    return holder


def _ip(network: int, *words: str) -> None:
    """The `ip` command, in the network namespace of a process."""
    subprocess.run(["nsenter", "-t", str(network), "-n", "ip", *words], check=True)


def _children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def _kill_tree(pid: int) -> None:
    """The supervisor first, so that it starts nothing again, then systemd-nspawn and the device's systemd."""
    nspawn = _children(pid)
    leaders = [leader for one in nspawn for leader in _children(one)]
    for one in [pid, *leaders, *nspawn]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(one, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while any(_is_alive(one) for one in [*leaders, *nspawn]) and time.monotonic() < deadline:
        time.sleep(0.005)


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _remove_cgroup(folder: Path) -> None:
    for inner, _, _ in os.walk(folder, topdown=False):
        for _ in range(100):
            try:
                os.rmdir(inner)
                break
            except FileNotFoundError:
                break
            except OSError:  # a process is still dying in it
                time.sleep(0.01)
