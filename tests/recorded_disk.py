"""A disk whose every write is recorded, in order, under the kernel's own ext4; and what a power cut may leave of it.

qemu-storage-daemon shows an image as a file (FUSE) and writes down what comes, as dm-log-writes does: sectors, their content,
flushes. The kernel mounts that file by a loop device. A power cut at a write leaves all before it; a disk with a cache of its
own, all up to the last flush, and of what came then any part, block by block.

All of it happens in a mount and process namespace of its own (`apart`): whatever ends it, the kernel takes it down.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
import shutil
import struct
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

SECTOR = 512  # bytes
BLOCK = 4096  # bytes that a disk writes whole or not at all
MAGIC, FLUSH, DISCARD = 0x6A736677736872, 1, 4  # of dm-log-writes
SIZE = 64 << 20  # of a disk: the agent leaves 16 MiB free
START_S = 10.0
BUSY_S = 20.0  # for which an agent may still tidy up after its answer
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
INSIDE = "EDGEKIT_APART"
TOOLS = {
    "qemu-storage-daemon": "qemu-system-common",
    "mkfs.ext4": "e2fsprogs",
    "unshare": "util-linux",
    "mount": "mount",
}


def why_not() -> str:
    """What is missing to record a disk here; "" if nothing is."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "needs root on Linux: it mounts disks"
    missing = [package for tool, package in TOOLS.items() if shutil.which(tool) is None]
    if missing:
        return f"sudo apt install {' '.join(missing)}"
    for device in ("/dev/fuse", "/dev/loop-control"):
        if not os.access(device, os.R_OK | os.W_OK):
            return f"{device} is not there"
    program = (
        f"import sys; sys.path[:0] = {[str(Path(__file__).parent)]!r}; import recorded_disk; recorded_disk.try_all()"
    )
    done = subprocess.run(apart([sys.executable, "-c", program]), capture_output=True, text=True, check=False)
    said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
    return "" if done.returncode == 0 else f"a disk cannot be recorded here: {said[-1]}"


def try_all() -> None:
    """Writes a file on a recorded disk, and finds it in what a power cut leaves."""
    with workplace() as folder:
        image = new_disk(folder / "image")
        with Recording(folder, image) as recording:
            with (recording.place / "file").open("wb") as file:
                file.write(b"written")
                file.flush()
                os.fsync(file.fileno())
            entries = read_log(recording.log)
        with mounted(cut(image, entries, folder / "cut"), folder / "at") as place:
            assert (place / "file").read_bytes() == b"written", "what was synced was not recorded"


def apart(command: Sequence[str]) -> list[str]:
    """The same command with mounts, processes and a tmp of its own: nothing of that outlives it."""
    return [
        "unshare",
        "--mount",
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
        "--propagation",
        "private",
        *command,
    ]


@contextlib.contextmanager
def workplace() -> Iterator[Path]:
    """A folder in memory, and a start of the machine that we can end: `new_boot`. Only for who is `apart`."""
    with tempfile.TemporaryDirectory(prefix="edgekit-disks-") as name:
        run("mount", "-t", "tmpfs", "-o", "size=2g,mode=0700", "edgekit-disks", name)
        try:
            (Path(name) / "boot_id").touch()
            new_boot(Path(name))
            run("mount", "--bind", f"{name}/boot_id", str(BOOT_ID))
            yield Path(name)
        finally:
            run("umount", "--lazy", str(BOOT_ID))
            run("umount", "--lazy", name)


def new_boot(folder: Path) -> None:
    """From here on, programs see another start of the machine."""
    (folder / "boot_id").write_text(f"{uuid.uuid4()}\n")


def run(*command: str) -> None:
    """Raises OSError with what the command said."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip() or done.returncode}")


def new_disk(image: Path) -> Path:
    """An ext4 that does nothing later on that it could do now."""
    with image.open("wb") as file:
        file.truncate(SIZE)
    run("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", "-J", "size=4", str(image))
    return image


class NotMounted(OSError):
    """The kernel does not take the disk's ext4."""


@contextlib.contextmanager
def mounted(image: Path, place: Path, options: str = "") -> Iterator[Path]:
    """The image's ext4, after the kernel's own journal recovery. Raises NotMounted."""
    mount(image, place, options)
    try:
        yield place
    finally:
        unmount(place)


def mount(image: Path, place: Path, options: str = "") -> None:
    """Raises NotMounted."""
    place.mkdir(exist_ok=True)
    try:
        run("mount", "-t", "ext4", "-o", f"loop,{options}".rstrip(","), str(image), str(place))
    except OSError as error:
        reason = str(error).splitlines()[0].rpartition(": ")[2]
        raise NotMounted(f"the kernel does not mount it: {reason}") from error


def unmount(place: Path) -> None:
    """Waits for a process that still has something open there."""
    deadline = time.monotonic() + BUSY_S
    while True:
        try:
            return run("umount", str(place))
        except OSError as error:
            if "busy" not in str(error) or time.monotonic() > deadline:
                raise
        time.sleep(0.02)


class Recording:
    """A copy of an image, mounted at `place`: what is written there is in `log`."""

    def __init__(self, folder: Path, image: Path, options: str = "") -> None:
        self.folder = Path(tempfile.mkdtemp(dir=folder))
        self.place, self.log = self.folder / "place", self.folder / "log"
        self._image, self._options = image, options

    def __enter__(self) -> Recording:
        disk, shown = self.folder / "disk", self.folder / "shown"
        run("cp", "--sparse=always", str(self._image), str(disk))
        self.log.touch()
        shown.touch()
        self._daemon = subprocess.Popen(
            ["qemu-storage-daemon",
             "--blockdev", f"driver=file,node-name=disk,filename={disk}",
             "--blockdev", f"driver=file,node-name=log,filename={self.log}",
             "--blockdev", f"driver=blklogwrites,node-name=recorded,file=disk,log=log,log-sector-size={SECTOR}",
             "--export", f"type=fuse,id=shown,node-name=recorded,mountpoint={shown},writable=on"],
            preexec_fn=_with_parent,
        )  # fmt: skip
        try:
            deadline = time.monotonic() + START_S
            while shown.stat().st_size == 0:
                if self._daemon.poll() is not None or time.monotonic() > deadline:
                    raise OSError("qemu-storage-daemon shows no disk")
                time.sleep(0.01)
            mount(shown, self.place, self._options)
        except BaseException:
            self._end()
            raise
        return self

    def mark(self) -> int:
        """How long the log is now: entries that end later were written later."""
        return self.log.stat().st_size

    def __exit__(self, *_: object) -> None:
        try:
            unmount(self.place)
        finally:
            self._end()

    def _end(self) -> None:
        self._daemon.terminate()
        try:
            self._daemon.wait(START_S)
        except subprocess.TimeoutExpired:
            self._daemon.kill()
            self._daemon.wait()


def _with_parent() -> None:
    """Ends when its parent does (prctl PR_SET_PDEATHSIG)."""
    ctypes.CDLL(None).prctl(1, 9)


# -- what was written, and what is left of it


@dataclass(frozen=True)
class Entry:
    """A write, or a flush (without data)."""

    offset: int
    data: bytes
    is_flush: bool
    end: int  # bytes of the log up to and with it


def read_log(path: Path) -> list[Entry]:
    """All entries, in the order in which they came; also those after the last flush, which its head does not count."""
    log = path.read_bytes()
    magic, version, _, sector = struct.unpack_from("<QQQI", log)
    if (magic, version, sector) not in ((MAGIC, 1, SECTOR), (0, 0, 0)):  # zeros: nothing was flushed yet
        raise ValueError(f"{path} is no log of writes")
    found, position = [], SECTOR
    while position + SECTOR <= len(log):
        first, count, flags, _ = struct.unpack_from("<QQQQ", log, position)
        start = position + SECTOR
        position = start + (0 if flags & DISCARD else count * SECTOR)
        if position > len(log):
            break  # on its way
        if flags & DISCARD:
            continue  # what is there now may be anything: what was there is the hardest to tell apart
        data = log[start:position]
        if data:
            found.append(Entry(first * SECTOR, data, False, position))
        if flags & FLUSH:
            found.append(Entry(0, b"", True, position))
    return found


def write_to(image: Path, writes: Sequence[Entry]) -> None:
    """Those writes, in that order."""
    handle = os.open(image, os.O_WRONLY)
    try:
        for write in writes:
            os.pwrite(handle, write.data, write.offset)
    finally:
        os.close(handle)


def cut(image: Path, writes: Sequence[Entry], target: Path) -> Path:
    """A copy of the image with those writes."""
    run("cp", "--sparse=always", str(image), str(target))
    write_to(target, writes)
    return target


def unordered(pending: Sequence[Entry], chance: random.Random, block: int) -> list[Entry]:
    """What a disk may have kept of writes that no flush followed: some of them, some of those in part, by blocks."""
    share = chance.choice((0.1, 0.5, 0.9))
    kept = []
    for write in pending:
        if chance.random() >= share:
            continue
        if len(write.data) <= block or chance.random() < 0.5:
            kept.append(write)
            continue
        for start in range(0, len(write.data), block):
            if chance.random() < 0.5:
                kept.append(Entry(write.offset + start, write.data[start : start + block], False, write.end))
    return kept
