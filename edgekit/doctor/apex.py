"""The Edge TPU on PCIe or M.2: its kernel driver, gasket and apex."""

from __future__ import annotations

import re
from collections.abc import Iterator

from edgekit.doctor.edgetpu import PCI
from edgekit.doctor.finding import CannotTell, Evidence, Found, add_to_group, as_root, check, install, write_file
from edgekit.doctor.snapshot import Snapshot
from edgekit.doctor.text import cited, version_of

RULES_FILE = "/etc/udev/rules.d/65-edgekit-apex.rules"
RULES = 'SUBSYSTEM=="apex", MODE="0660", GROUP="apex"\n'
OLD_DRIVER_FAILS = (6, 8)  # Google's gasket-dkms 1.0-18 does not compile from this kernel on (eventfd_signal)
_KERNEL = re.compile(r"[0-9][A-Za-z0-9.+_-]*")


def _seen(board: Snapshot) -> tuple[Evidence, ...]:
    return tuple(Evidence(folder, "1ac1:089a, Edge TPU on PCIe") for folder in board.pci(*PCI))


def _has_module(board: Snapshot) -> list[str]:
    """Built drivers for the kernel that runs."""
    return [path for path in board.named("/lib/modules/*/apex.ko*") if path.startswith(f"/lib/modules/{board.kernel}/")]


def _is_old(version: str) -> bool:
    """Whether a gasket-dkms package is Google's last one or older: 1.0-18, against 1.0-18.4 of feranick's."""
    match = re.fullmatch(r"1\.0-(\d+)(\.\d+)?.*", version)
    return match is not None and (int(match[1]), bool(match[2])) <= (18, False)


_BUILD = (
    "install feranick's driver, 1.0-18.4 or newer: github.com/feranick/gasket-driver/releases has gasket-dkms_1.0-18.4_all.deb, "
    "then sudo apt-get install ./gasket-dkms_1.0-18.4_all.deb; it is compiled again for every new kernel"
)


@check(
    "apex-driver",
    "error",
    "An Edge TPU on PCIe has its driver for the kernel that runs",
    reason="The gasket and apex drivers left the kernel in 5.13 and come through DKMS, which compiles them for every "
    "kernel: it needs the headers, and Google's last package (1.0-18) does not compile from 6.8 on, its source not from "
    "6.12 on.",
    source="google-coral/edgetpu#695, KyleGospo/gasket-dkms#9 (6.8); google/gasket-driver#43, #50, #56, "
    "google-coral/edgetpu#785, raspberrypi/linux#6799 (6.12); NixOS/nixpkgs#197610 (5.13)",
)
def apex_driver(board: Snapshot) -> Iterator[Found]:
    if not board.pci(*PCI) or board.named("/dev/apex_*"):
        return
    package, kernel = board.package("gasket-dkms"), board.kernel
    modules, headers = _has_module(board), board.named(f"/lib/modules/{kernel}/build")
    evidence = (*_seen(board), Evidence("/dev/apex_*", "not there"), Evidence("uname -r", kernel))
    if modules:
        lines = board.kernel_lines("apex|gasket") or []
        said = tuple(Evidence("dmesg", cited(line)) for line in lines[-1:])
        yield Found(
            "the driver of the Edge TPU is there but not loaded",
            (*evidence, Evidence(modules[0], "there"), *said),
            (as_root(board, "modprobe", "apex"),),
        )
        return
    if package and _is_old(package) and version_of(kernel) >= OLD_DRIVER_FAILS:
        yield Found(
            f"gasket-dkms {package} does not compile for kernel {kernel}",
            (*evidence, Evidence("dpkg-query -W gasket-dkms", package)),
            by_hand=_BUILD,
        )
        return
    if not headers and _KERNEL.fullmatch(kernel):
        name = {"rpi-2712": "linux-headers-rpi-2712", "rpi-v8": "linux-headers-rpi-v8"}.get(
            "-".join(kernel.rsplit("-", 2)[-2:]), f"linux-headers-{kernel}"
        )
        yield Found(
            "the kernel's headers are missing, so that the Edge TPU's driver cannot be compiled",
            (*evidence, Evidence(f"/lib/modules/{kernel}/build", "not there")),
            install(board, name, "dkms"),
            by_hand=("" if package else f"then {_BUILD}"),
        )
        return
    if package:
        yield Found(
            f"gasket-dkms {package} is installed, but built no driver for kernel {kernel}",
            (*evidence, Evidence("dpkg-query -W gasket-dkms", package)),
            (as_root(board, "dkms", "autoinstall", "-k", kernel),)
            if board.program("dkms") and _KERNEL.fullmatch(kernel)
            else (),
            by_hand="what stops it is in /var/lib/dkms/gasket/*/build/make.log",
        )
        return
    yield Found(
        "the Edge TPU on PCIe has no driver", (*evidence, Evidence("dpkg-query -W gasket-dkms", "none")), by_hand=_BUILD
    )


@check(
    "apex-pages",
    "error",
    "An Edge TPU on PCIe has a kernel with pages of 4 KiB",
    reason="The gasket driver maps pages of 4 KiB; with the 16 KiB of Raspberry Pi 5's own kernel it fails with "
    '"Could not partition '
    'page table".',
    source="geerlingguy/raspberry-pi-pcie-devices#44; google-coral/edgetpu#817",
)
def apex_pages(board: Snapshot) -> Iterator[Found | CannotTell]:
    if not (board.pci(*PCI) or board.named("/dev/apex_*")):
        return
    if board.page_bytes is None:
        yield CannotTell("it did not say how large its pages are")
    elif board.page_bytes != 4096:
        yield Found(
            f"the kernel's pages are {board.page_bytes // 1024} KiB, the Edge TPU's driver needs 4 KiB",
            (*_seen(board), Evidence("getconf PAGESIZE", str(board.page_bytes)), Evidence("uname -r", board.kernel)),
            by_hand="kernel=kernel8.img at the end of /boot/firmware/config.txt, reboot, then install the driver for that kernel",
            after="reboot",
        )


@check(
    "apex-access",
    "error",
    "The login user may open the Edge TPU on PCIe",
    reason="Without a udev rule /dev/apex_0 belongs to root alone, and load_delegate fails with an empty message.",
    source="gasket-driver debian/gasket-dkms.udev; coral.ai/docs/m2/get-started",
)
def apex_access(board: Snapshot) -> Iterator[Found]:
    for path, node in board.nodes("/dev/apex_*"):
        if node.may_use and board.uid != 0:
            continue
        evidence = (Evidence(path, str(node)), Evidence(f"groups of {board.user}", " ".join(sorted(board.groups))))
        if node.group == "root" and not node.mode & 0o006:
            yield Found(
                f"only root may open {path}",
                evidence,
                (
                    as_root(board, "groupadd", "-f", "apex"),
                    write_file(board, RULES_FILE, RULES),
                    as_root(board, "udevadm", "control", "--reload-rules"),
                    as_root(board, "udevadm", "trigger", "--subsystem-match=apex"),
                    *(() if board.uid == 0 else add_to_group(board, "apex")),
                ),
                after="" if board.uid == 0 else "log in again",
            )
        elif board.uid != 0 and node.group in board.member_of:
            yield Found(f"{board.user} is in {node.group} from the next login on", evidence, after="log in again")
        elif board.uid != 0 and re.fullmatch(r"[a-z_][a-z0-9_-]*", node.group):
            yield Found(
                f"{board.user} is not in {node.group}, which may open {path}",
                evidence,
                add_to_group(board, node.group),
                after="log in again",
            )


@check(
    "apex-hot",
    "warning",
    "An Edge TPU on PCIe is below the temperature at which its clock is cut",
    reason="From its first trip point on the driver halves the clock, at the next ones again: inferences take twice as long.",
    source="coral.ai/docs/m2-dual-edgetpu/datasheet; gasket-driver apex_driver.c (trip_point0_temp)",
)
def apex_hot(board: Snapshot) -> Iterator[Found]:
    for path in board.paths("/sys/class/apex/apex_*/temp"):
        temperature = board.number(path)
        trip = board.number(path.replace("/temp", "/trip_point0_temp"))
        if temperature is not None and trip and temperature >= trip:
            yield Found(
                f"the Edge TPU is at {temperature / 1000:.0f} °C, its clock is cut from {trip / 1000:.0f} °C on",
                (Evidence(path, str(temperature)), Evidence(path.replace("/temp", "/trip_point0_temp"), str(trip))),
                by_hand="a heat sink and moving air; fewer inferences a second",
            )


CHECKS = (apex_driver, apex_pages, apex_access, apex_hot)
