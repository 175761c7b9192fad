"""Memory: enough of it, swap that does no harm, and limits that hold."""

from __future__ import annotations

import re
from collections.abc import Iterator

from edgekit.doctor.finding import NO_LOG, CannotTell, Evidence, Found, check, install, install_by_hand
from edgekit.doctor.snapshot import Snapshot
from edgekit.doctor.text import cited

LOW_KIB = 150 * 1024  # numpy and an interpreter with a small network take about 100 MB
SMALL_KIB = 1200 * 1024


def amount_kib(board: Snapshot, name: str) -> int | None:
    """A row of /proc/meminfo."""
    match = re.search(rf"^{name}:\s+(\d{{1,15}}) kB$", board.text("/proc/meminfo") or "", re.MULTILINE | re.ASCII)
    return int(match[1]) if match else None


@check(
    "memory-low",
    "warning",
    "There is memory left for a runner",
    reason="The kernel ends the largest process when memory runs out, which is the runner.",
    source="Documentation/filesystems/proc.rst (MemAvailable); measured: about 100 MB for numpy, LiteRT and a small network",
)
def memory_low(board: Snapshot) -> Iterator[Found | CannotTell]:
    available = amount_kib(board, "MemAvailable")
    if available is None:
        yield CannotTell("how much memory is available")
    elif available < LOW_KIB:
        yield Found(
            f"{available // 1024} MiB of memory are available",
            (Evidence("/proc/meminfo", f"MemAvailable {available} kB"),),
            by_hand="ps aux --sort=-rss | head shows who has it; a desktop takes 300 MB: sudo systemctl "
            "set-default multi-user.target",
        )


@check(
    "no-swap",
    "note",
    "A board with little memory has compressed swap",
    reason="With 1 GB or less a short peak (an upgrade, a second model) ends a process; zram gives room without wearing a card.",
    source="Documentation/admin-guide/blockdev/zram.rst; Debian package zram-tools",
)
def no_swap(board: Snapshot) -> Iterator[Found]:
    total = amount_kib(board, "MemTotal")
    swaps = (board.text("/proc/swaps") or "").splitlines()[1:]
    if (
        total is not None
        and total < SMALL_KIB
        and not swaps
        and board.text("/proc/swaps") is not None
        and not board.is_container
    ):
        yield Found(
            f"{total // 1024} MiB of memory and no swap",
            (Evidence("/proc/meminfo", f"MemTotal {total} kB"), Evidence("/proc/swaps", "none")),
            install(board, "zram-tools"),
            install_by_hand(board, "zram-tools"),
        )


@check(
    "memory-limit",
    "warning",
    "systemd can limit a service's memory",
    reason="Raspberry Pi's kernel starts with the memory controller off: MemoryMax= of the runner's unit is "
    "accepted and ignored, and a model that grows takes sshd with it.",
    source="raspberrypi/linux#1198, #6980, PR 6439; balena-raspberrypi#574",
)
def memory_limit(board: Snapshot) -> Iterator[Found]:
    rows = [line.split() for line in (board.text("/proc/cgroups") or "").splitlines()]
    memory = next((row for row in rows if row and row[0] == "memory"), None)
    controllers = board.text("/sys/fs/cgroup/cgroup.controllers")
    # newer kernels leave the controller out of /proc/cgroups also where it works, so the unified list decides
    is_off = "memory" not in controllers.split() if controllers is not None else bool(memory and memory[-1] == "0")
    if not is_off or board.is_container:
        return
    said = (
        Evidence("/sys/fs/cgroup/cgroup.controllers", cited(controllers))
        if controllers is not None
        else Evidence("/proc/cgroups", " ".join(memory or ()))
    )
    folder = "/boot/firmware" if board.named("/boot/firmware/cmdline.txt") else "/boot"
    yield Found(
        "the kernel's memory controller is off: MemoryMax= does nothing",
        (said,),
        by_hand=f"add cgroup_enable=memory to the one line of {folder}/cmdline.txt"
        if board.is_raspberry_pi
        else "boot with cgroup_enable=memory",
        after="reboot",
    )


@check(
    "out-of-memory",
    "warning",
    "The kernel has ended no process for lack of memory",
    reason="Who is ended is the largest process; a runner comes back without its state, or not at all.",
    source="Documentation/admin-guide/sysctl/vm.rst; kernel messages",
)
def out_of_memory(board: Snapshot) -> Iterator[Found | CannotTell]:
    lines = board.kernel_lines(r"Out of memory|oom-kill")
    if lines is None:
        yield NO_LOG
    elif lines:
        yield Found(
            "a process was ended for lack of memory since it booted",
            (Evidence("dmesg", cited(lines[-1])),),
            by_hand="a smaller variant, fewer threads, or zram (no-swap)",
        )


CHECKS = (memory_low, no_swap, memory_limit, out_of_memory)
