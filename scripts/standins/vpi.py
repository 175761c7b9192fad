"""A virtual Pi: aarch64 Debian under qemu-system-aarch64, with a kernel, a file system and a power switch of its own.

Real here and nowhere lighter: what a power cut leaves on the disk, limits on memory, arm64 code, reboots through a kernel.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

from . import tree
from .client import Client, Server
from .image import TOOLS, Image, image

NAME = "vpi"
MEMORY_MB, CORES = 512, 2  # a second core halves the boot; more make it slower on two
BOOT_S = 240.0  # an idle machine needs 9
# Linux keeps its pages out of user space's tables (KPTI) where its own place is random. Each system call then costs an emulator
# what it had translated of addresses: measured 18.6 s to boot instead of 12.5, and 25 s of processor instead of 17.
_KERNEL = "root=/dev/vda ro console=ttyAMA0 quiet nokaslr"
_QEMU = [
    *("-M", "virt", "-cpu", "cortex-a72", "-smp", str(CORES), "-m", str(MEMORY_MB)),
    *("-accel", "tcg,thread=multi,tb-size=256", "-display", "none", "-nodefaults", "-no-user-config"),
    *(
        "-device",
        "virtio-rng-pci",
        "-device",
        "virtio-net-pci,netdev=net,romfile=",
        "-device",
        "virtio-blk-pci,drive=disk",
    ),
]


def why_not() -> str:
    """Why it cannot be built and started here; "" if it can."""
    if packages := tree.missing_tools(TOOLS):
        return f"not installed: {' '.join(packages)} (scripts/vpi build installs them)"
    return "" if os.geteuid() == 0 else "building the virtual Pi needs root"


class VirtualPi:
    """One of them, in a folder that keeps its disk. Its user is pi, with sudo, known to `client` as `vpi`."""

    def __init__(self, folder: Path, parts: Image, *, outlives_us: bool = False) -> None:
        self.folder = folder.resolve()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.name = NAME
        self.image = parts
        self.client = Client(self.folder, tree.client_key())
        self._disk = self.folder / "disk.qcow2"
        self._port_file = self.folder / "port"
        self._leash = [] if outlives_us else ["setpriv", "--pdeathsig=KILL"]

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs so that it knows this device."""
        return self.client.environment

    # -- power

    def new_disk(self, frozen: Path | None = None) -> None:
        """A disk as it was built, or as it was in a device that was frozen."""
        base = self.image.disk if frozen is None else frozen / "disk.qcow2"
        self._disk.unlink(missing_ok=True)
        words = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", str(base), str(self._disk)]
        tree.run_quietly(words)

    def boot(self) -> None:
        """Power on: it boots from the disk that it has. Returns when a command ran there."""
        self._power_on([])
        self.wait_up()

    def thaw(self, frozen: Path | None = None) -> None:
        """A new device that goes on from where a frozen one stopped, the booted one if none is named: seconds, not a boot."""
        frozen = frozen or self.image.frozen
        self.new_disk(frozen)
        self._power_on(["-incoming", f"exec:zstd -q -d -c {frozen / 'memory.zst'}"])
        self._monitor_until("info status", lambda said: "inmigrate" not in said)
        self._monitor("cont")  # it was stopped before it was frozen
        self.wait_up()
        self.ssh(f"sudo date -s @{time.time():.0f}")

    def freeze(self, folder: Path) -> None:
        """Stops it, and keeps its disk and memory in `folder`."""
        folder.mkdir(parents=True)
        self.ssh("sync")
        self._monitor("stop")
        self._monitor(f'migrate "exec:zstd -q -1 -f -o {folder / "memory.zst"}"')
        said = self._monitor_until("info migrate", lambda said: "completed" in said or "failed" in said)
        assert "completed" in said, said
        self.power_off()
        self._disk.rename(folder / "disk.qcow2")

    def cut(self) -> None:
        """Power cut: what the guest had not written to its disk is lost."""
        self._end(lambda pid: os.kill(pid, signal.SIGKILL))

    def power_off(self) -> None:
        """Ends it without asking the guest; its disk image is closed properly."""
        self._end(lambda pid: self._monitor("quit"))

    def reboot(self) -> None:
        """An orderly reboot by the guest itself; returns when it answers again."""
        before = self.boot_id()
        self.ssh("sudo systemctl reboot", check=False)
        self.wait_up(not_boot=before)

    @property
    def pid(self) -> int | None:
        """qemu's; None if it is off."""
        with contextlib.suppress(OSError, ValueError):
            pid = int((self.folder / "pid").read_text())
            if _state(pid) not in ("", "Z") and b"qemu-system" in Path(f"/proc/{pid}/cmdline").read_bytes():
                return pid
        return None

    # -- the rest

    def ssh(
        self, *words: str, user: str = "pi", check: bool = True, timeout_s: float = 120
    ) -> subprocess.CompletedProcess[str]:
        """A command over ssh, as its login shell gets it; what it printed is text."""
        return self.client.run(self.name, *words, user=user, check=check, timeout_s=timeout_s)

    def boot_id(self) -> str:
        return self.ssh("cat /proc/sys/kernel/random/boot_id").stdout.strip()

    def link_down(self) -> None:
        """The cable is pulled."""
        self._monitor("set_link net off")

    def link_up(self) -> None:
        self._monitor("set_link net on")

    def wait_up(self, timeout_s: float = BOOT_S, *, not_boot: str = "") -> None:
        """Returns when a command runs there over ssh, in another boot than `not_boot`; seconds are the guest's (`clock`)."""
        began = self.clock()
        while (took := self.clock() - began) < timeout_s:
            if self.pid is None:
                raise RuntimeError(f"qemu has ended: {(self.folder / 'qemu.log').read_text()}{self.console()[-2000:]}")
            with contextlib.suppress(OSError, AssertionError, subprocess.TimeoutExpired):
                if self._answers(1 + took / 10) and self.boot_id() != not_boot:
                    return
            time.sleep(0.1)
        raise TimeoutError(f"not up after {took:.0f} s of its own\n{self.console()[-2000:]}")

    def clock(self) -> float:
        """Seconds that pass for the guest: not those in which its processors wait for one of this machine's.

        Beside a full machine that is most of them (measured: 150 of 205), and no fault of what runs in the guest.
        """
        return time.monotonic() - self.starved_s()

    def starved_s(self) -> float:
        """Seconds since power came on in which one of its processors waited for one of this machine's."""
        waited = 0
        for task in Path(f"/proc/{self.pid}/task").glob("*/schedstat"):
            with contextlib.suppress(OSError):  # a thread that has ended
                waited = max(waited, int(task.read_text().split()[1]))
        return waited / 1e9

    def console(self) -> str:
        """What it wrote to its serial port since power came on."""
        with contextlib.suppress(FileNotFoundError):
            return (self.folder / "serial").read_text(errors="replace")
        return ""

    def _answers(self, within_s: float) -> bool:
        """Whether sshd does. What came before the guest had a network is answered late (TCP tries again after 3, 6... s)."""
        with socket.create_connection(("127.0.0.1", int(self._port_file.read_text())), timeout=2) as connection:
            connection.settimeout(within_s)
            return connection.recv(4) == b"SSH-"

    def _power_on(self, more: list[str]) -> None:
        assert self.pid is None, "it is on"
        if not self._port_file.exists():
            with socket.create_server(("127.0.0.1", 0)) as free:
                self._port_file.write_text(str(free.getsockname()[1]))
        port = int(self._port_file.read_text())
        self.client.know({self.name: Server(port, self.image.host_key)})
        (self.folder / "monitor").unlink(missing_ok=True)
        command = [
            *("qemu-system-aarch64", *_QEMU, "-kernel", str(self.image.kernel), "-initrd", str(self.image.initrd)),
            *("-append", _KERNEL, "-serial", f"file:{self.folder / 'serial'}"),
            *("-drive", f"file={self._disk},if=none,id=disk,cache=writeback,discard=unmap"),
            *("-netdev", f"user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:{port}-:22"),
            *("-qmp", f"unix:{self.folder / 'monitor'},server=on,wait=off"),
        ]
        with (self.folder / "qemu.log").open("wb") as log:
            process = subprocess.Popen(
                [*self._leash, *command, *more],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        (self.folder / "pid").write_text(str(process.pid))
        while not self._listens():
            if process.poll() is not None:
                raise RuntimeError(f"qemu does not start: {(self.folder / 'qemu.log').read_text()}")
            time.sleep(0.01)

    def _listens(self) -> bool:
        """Whether qemu's monitor does: its socket has a name a moment before."""
        with socket.socket(socket.AF_UNIX) as connection, contextlib.suppress(OSError):
            connection.connect(str(self.folder / "monitor"))
            return True
        return False

    def _end(self, kill: object) -> None:
        pid = self.pid
        if pid is None:
            return
        kill(pid)  # type: ignore[operator]
        while _state(pid) not in ("", "Z"):
            time.sleep(0.01)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)

    def _monitor(self, line: str) -> str:
        """What qemu's monitor answers to a line; "" if it is gone by then."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(self.folder / "monitor"))
            stream = connection.makefile("rw")
            stream.readline()
            for request in (
                {"execute": "qmp_capabilities"},
                {"execute": "human-monitor-command", "arguments": {"command-line": line}},
            ):
                stream.write(json.dumps(request) + "\n")
                stream.flush()
                answer: dict[str, object] = {}
                while not answer.keys() & {"return", "error"}:
                    text = stream.readline()
                    if not text:
                        return ""
                    answer = json.loads(text)
            assert "return" in answer, answer
            return str(answer["return"])

    def _monitor_until(self, line: str, is_there: object) -> str:
        while not is_there(said := self._monitor(line)):  # type: ignore[operator]
            time.sleep(0.05)
        return said


def prepared() -> Image:
    """The image with a frozen device beside it, which is booted for that the first time."""
    parts = image()
    with tree.locked("frozen"):
        if not parts.frozen.exists():
            folder = parts.folder / "first"
            shutil.rmtree(folder, ignore_errors=True)
            first = VirtualPi(folder, parts)
            try:
                first.new_disk()
                first.boot()
                first.freeze(parts.folder / "freezing")
            finally:
                first.cut()
            (parts.folder / "freezing").rename(parts.frozen)
            shutil.rmtree(folder)
    return parts


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""
