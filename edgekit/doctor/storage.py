"""Disks: space, whether writes last, and flash that is wearing out."""

from __future__ import annotations

import re
from collections.abc import Iterator

from edgekit.doctor.finding import NO_LOG, CannotTell, Command, Evidence, Found, as_root, check
from edgekit.doctor.parts import Mount
from edgekit.doctor.snapshot import Snapshot
from edgekit.doctor.text import cited

MIB = 1 << 20
NEEDED_BYTES = 200 * MIB  # a runtime (64 MB unpacked) and two releases, with a reserve
COMFORTABLE_BYTES = 500 * MIB
NEEDED_INODES = 2000  # a runtime is 190 files, a release a dozen
IN_MEMORY = ("tmpfs", "ramfs")
_CARD_ERROR = (  # not "mmc1: error -110 whilst initialising SDIO card", which an empty slot says
    r"I/O error.*mmcblk|mmcblk\d+: (error|recovery failed)|mmc\d+: (Card stuck|Timeout waiting)|EXT4-fs error|"
    r"Remounting filesystem read-only"
)
LIFE = {0x0B: "beyond its estimated life"}  # 0x01 to 0x0A: up to 10, 20 ... 100 %
WORN = 0x09  # 80 to 90 % used


def _under_root(board: Snapshot) -> tuple[str, Mount] | None:
    """Where ROOT would be written, and the mount that it is on."""
    disk = board.disk(board.root)
    place = disk.place if disk and disk.place else board.root
    mount = board.mount_of(place)
    return (place, mount) if mount is not None else None


@check(
    "root-unsafe",
    "error",
    "Nobody else can write where releases go",
    reason="Who can write there decides what runs; edgekit refuses to deploy into such a folder.",
    source="edgekit/deploy/probe.py",
)
def root_unsafe(board: Snapshot) -> Iterator[Found]:
    if board.unsafe:
        may_chmod = "can be written by other users" in board.unsafe and re.fullmatch(r"/[\w./-]*", board.root)
        yield Found(
            f"{board.root} {board.unsafe}",
            (Evidence(f"lstat {board.root}", board.unsafe),),
            (Command(("chmod", "go-w", board.root)),) if may_chmod else (),
            by_hand="" if may_chmod else "make it a folder of the login user that nobody else can write",
        )


@check(
    "disk-space",
    ("error", "warning"),
    "There is room for a runtime and two releases",
    reason="A deployment is complete beside the old one before it is switched to: about 64 MB for numpy and the "
    "interpreter, once, and every model twice.",
    source="measured: 187 files, 64 MB for Python 3.11 on x86-64",
)
def disk_space(board: Snapshot) -> Iterator[Found | CannotTell]:
    disk = board.disk(board.root)
    if disk is None:
        yield CannotTell(f"how much room there is under {board.root or 'its root'}")
        return
    if disk.free_bytes >= COMFORTABLE_BYTES:
        return
    commands: tuple[Command, ...] = ()
    if board.program("apt-get"):
        commands = (as_root(board, "apt-get", "clean"),)
    if board.text("/proc/1/comm") == "systemd":
        commands = (*commands, as_root(board, "journalctl", "--vacuum-size=50M"))
    free = disk.free_bytes // MIB
    yield Found(
        f"{free} MiB are free where releases go; {NEEDED_BYTES // MIB} are needed",
        (Evidence(f"statvfs {disk.place}", f"{free} MiB free of {disk.bytes // MIB}"),),
        commands,
        by_hand="sudo du -xh / --max-depth=2 | sort -h | tail shows what takes the room",
        severity="error" if disk.free_bytes < NEEDED_BYTES else "warning",
    )


@check(
    "inodes",
    "error",
    "There are inodes for a runtime's files",
    reason='A filesystem without inodes says "No space left on device" however many bytes are free.',
    source="statvfs(3)",
)
def inodes(board: Snapshot) -> Iterator[Found]:
    disk = board.disk(board.root)
    if disk is not None and disk.inodes and disk.free_inodes < NEEDED_INODES:
        yield Found(
            f"{disk.free_inodes} inodes are free where releases go",
            (Evidence(f"statvfs {disk.place}", f"{disk.free_inodes} free of {disk.inodes}"),),
            by_hand="sudo du --inodes -x / --max-depth=2 | sort -n | tail shows where the many small files are",
        )


@check(
    "read-only",
    "error",
    "Releases can be written",
    reason="The filesystem is mounted read-only: on purpose, or because the kernel found it damaged.",
    source="proc(5), /proc/mounts",
)
def read_only(board: Snapshot) -> Iterator[Found | CannotTell]:
    found = _under_root(board)
    if found is None:
        yield CannotTell("what is mounted")
        return
    place, mount = found
    if "ro" in mount.options:
        yield Found(
            f"{place} is on a filesystem that is mounted read-only",
            (Evidence("/proc/mounts", f"{mount.device} {mount.place} {mount.kind} {','.join(mount.options)}"),),
            by_hand=f"if it is meant to be writable: sudo mount -o remount,rw {mount.place}; if dmesg tells of "
            f"errors, sudo fsck first",
        )


@check(
    "volatile-root",
    ("error", "note"),
    "What is installed is there after a reboot",
    reason="On an overlay or a RAM disk every write is gone at the next boot: a release would vanish without a word.",
    source="raspi-config (Overlay File System); overlayroot(8); Documentation/filesystems/overlayfs.rst",
)
def volatile_root(board: Snapshot) -> Iterator[Found]:
    found = _under_root(board)
    if found is None:
        return
    place, mount = found
    upper = next((option[9:] for option in mount.options if option.startswith("upperdir=")), "")
    if mount.kind not in (*IN_MEMORY, "overlay"):
        return
    evidence = (Evidence("/proc/mounts", f"{mount.device} {mount.place} {mount.kind}"),)
    if mount.kind == "overlay" and board.is_container:
        yield Found(
            "this is a container: what is installed goes with it",
            evidence,
            by_hand=f"mount a volume at {board.root}",
            severity="note",
        )
        return
    below = board.mount_of(upper) if upper else None
    if (
        mount.kind == "overlay"
        and below is not None
        and below.kind not in (*IN_MEMORY, "overlay")
        and below.place != "/"
    ):
        return  # an overlay with its upper half on a disk of its own keeps what is written
    overlay_switch = board.is_raspberry_pi and board.program("raspi-config") is not None and mount.place == "/"
    yield Found(
        f"{place} is on {'an overlay over memory' if mount.kind == 'overlay' else 'a RAM disk'}: gone at the next boot",
        evidence,
        (as_root(board, "raspi-config", "nonint", "do_overlayfs", "1"),) if overlay_switch else (),
        by_hand=""
        if overlay_switch
        else f"put a writable partition at {board.root}, or switch the overlay off (overlayroot: disabled)",
        after="reboot" if overlay_switch else "",
    )


@check(
    "filesystem-errors",
    "error",
    "ext4 has recorded no errors",
    reason="The superblock counts errors until fsck clears them: a card or a supply that fails loses releases next.",
    source="Documentation/ABI/testing/sysfs-fs-ext4 (errors_count)",
)
def filesystem_errors(board: Snapshot) -> Iterator[Found]:
    for path in board.paths("/sys/fs/ext4/*/errors_count"):
        count = board.number(path)
        if count:
            yield Found(
                f"ext4 found {count} errors on {path.split('/')[4]}",
                (Evidence(path, str(count)),),
                by_hand="make a copy of what matters, then boot once with fsck.mode=force in the kernel's "
                "command line; if it comes back, replace the card",
                after="reboot",
            )


@check(
    "card-errors",
    "error",
    "The card answers without errors",
    reason="I/O errors of a memory card come before its end: it turns read-only or loses blocks.",
    source="kernel messages of the mmc and block layers",
)
def card_errors(board: Snapshot) -> Iterator[Found | CannotTell]:
    lines = board.kernel_lines(_CARD_ERROR)
    if lines is None:
        yield NO_LOG
    elif lines:
        yield Found(
            f"the kernel tells of {len(lines)} errors of its storage",
            (Evidence("dmesg", cited(lines[-1])),),
            by_hand="make a copy of what matters and replace the card; a weak supply (under-voltage) looks the same",
        )


@check(
    "flash-worn",
    ("error", "warning"),
    "Soldered flash (eMMC) is far from the end of its life",
    reason="eMMC counts its erase cycles and reports what share of its life is used; SD cards report nothing.",
    source="JEDEC eMMC 5.0, EXT_CSD 267 to 269; linux commit 46bc5c408e4e (life_time, pre_eol_info)",
)
def flash_worn(board: Snapshot) -> Iterator[Found]:
    for path in board.paths("/sys/block/*/device/life_time"):
        digits = re.findall(r"0x[0-9a-fA-F]{1,2}\b", board.text(path) or "")
        used = max((int(part, 16) for part in digits), default=0)
        end = board.number(path.replace("life_time", "pre_eol_info")) or 0
        if used < WORN and end < 2:
            continue
        text = LIFE.get(used, f"{min(used, 10) * 10 - 10} to {min(used, 10) * 10} % of its life used")
        yield Found(
            f"{path.split('/')[3]}: {text}",
            (
                Evidence(path, cited(board.text(path) or "")),
                Evidence(path.replace("life_time", "pre_eol_info"), f"{end:#04x}"),
            ),
            by_hand="plan to replace the module; write less: log to memory, no swap file",
            severity="error" if used >= 0x0B or end == 3 else "warning",
        )


def _is_card(board: Snapshot, device: str) -> bool:
    """Whether a block device is (on) an SD card."""
    match = re.match(r"(?:/dev/)?(mmcblk\d+)", device)
    return match is not None and board.text(f"/sys/block/{match[1]}/device/type") == "SD"


@check(
    "swap-on-card",
    "note",
    "Swap is in compressed memory, not on an SD card",
    reason="A board that swaps writes the same cells of its card all day; cards do not say how worn they are.",
    source="Documentation/admin-guide/blockdev/zram.rst; rpi-swap of Raspberry Pi OS 13",
)
def swap_on_card(board: Snapshot) -> Iterator[Found]:
    for line in (board.text("/proc/swaps") or "").splitlines()[1:]:
        fields = line.split()
        if len(fields) < 4 or fields[0].startswith(("/dev/zram", "zram")):
            continue
        place = fields[0]
        mount = board.mount_of(place) if fields[1] == "file" else None
        if not _is_card(board, mount.device if mount else place):
            continue
        is_dphys = place == "/var/swap" and board.text("/etc/dphys-swapfile") is not None
        yield Found(
            f"it swaps to {cited(place)} on an SD card",
            (Evidence("/proc/swaps", cited(line)),),
            (as_root(board, "systemctl", "disable", "--now", "dphys-swapfile.service"),) if is_dphys else (),
            by_hand="then sudo apt-get install zram-tools for swap in memory"
            if is_dphys
            else "use zram-tools, and take the swap out of /etc/fstab",
        )


@check(
    "card-atime",
    "note",
    "Reading a file on an SD card does not write to it",
    reason="Without noatime or relatime every read writes a time stamp to the card.",
    source="mount(8); Raspberry Pi OS mounts with noatime",
)
def card_atime(board: Snapshot) -> Iterator[Found]:
    for mount in board.mounts():
        writes = "strictatime" in mount.options or not {"noatime", "relatime", "ro"} & set(mount.options)
        if writes and mount.kind in ("ext4", "f2fs", "btrfs") and _is_card(board, mount.device):
            yield Found(
                f"{mount.place} writes a time stamp for every read",
                (Evidence("/proc/mounts", f"{mount.device} {mount.place} {','.join(mount.options)}"),),
                (as_root(board, "mount", "-o", "remount,noatime", mount.place),),
                by_hand="and noatime in /etc/fstab, for the next boot",
            )


CHECKS = (
    root_unsafe,
    disk_space,
    inodes,
    read_only,
    volatile_root,
    filesystem_errors,
    card_errors,
    flash_worn,
    swap_on_card,
    card_atime,
)
