"""The Coral USB accelerator: port, current, connection, access."""

from __future__ import annotations

import re
from collections.abc import Iterator

from edgekit.doctor.finding import (
    NO_LOG,
    CannotTell,
    Command,
    Evidence,
    Found,
    add_to_group,
    as_root,
    check,
    write_file,
)
from edgekit.doctor.parts import UsbDevice
from edgekit.doctor.snapshot import Snapshot
from edgekit.doctor.text import cited

IDS = {("1a6e", "089a"): "before its firmware is loaded", ("18d1", "9302"): "with its firmware loaded"}
RULES_FILE = "/etc/udev/rules.d/60-edgekit-coral-usb.rules"
RULES = "".join(
    f'SUBSYSTEM=="usb", ATTR{{idVendor}}=="{vendor}", ATTR{{idProduct}}=="{product}", MODE="0660", GROUP="plugdev"\n'
    for vendor, product in IDS
)
_POWER = "/proc/device-tree/chosen/power"
RESETS = 3  # of a port, in the kernel's log
SUPER_SPEED = 5000  # Mbit/s


def coral_usb(board: Snapshot) -> list[UsbDevice]:
    """The Coral USB accelerators that are plugged in."""
    return [device for device in board.usb() if (device.vendor, device.product) in IDS]


@check(
    "coral-usb2",
    "warning",
    "A Coral USB accelerator is on a USB 3 port",
    reason="Inputs and parameters that do not fit on the chip cross USB in every inference: about 40 MB/s on "
    "USB 2 against 300 on USB 3.",
    source="coral.ai/docs/accelerator/get-started; Documentation/ABI/testing/sysfs-bus-usb (speed)",
)
def coral_usb2(board: Snapshot) -> Iterator[Found | CannotTell]:
    for device in coral_usb(board):
        speed = board.number(f"{device.path}/speed")
        if speed is None:
            yield CannotTell(f"no speed in {device.path}")
        elif speed < SUPER_SPEED:
            ports = "a blue port, and a cable with all its wires" if board.is_raspberry_pi else "a USB 3 port and cable"
            if board.is_raspberry_pi and re.search(r"Pi (Zero|[1-3])", board.board):
                ports = "this board has no USB 3 port: a Raspberry Pi 4 or 5 has two"
            yield Found(
                f"the Coral USB accelerator runs at {speed} Mbit/s: USB 2",
                (Evidence(f"{device.path}/speed", str(speed)),),
                by_hand=ports if "no USB 3" in ports else f"plug it into {ports}; a hub in between counts too",
            )


@check(
    "coral-usb-power",
    ("error", "warning"),
    "The Coral USB accelerator gets its current",
    reason="It draws up to 900 mA in bursts. A Raspberry Pi 5 gives all USB ports together 600 mA unless its supply offers 5 A; "
    "too little shows as resets and lost devices in the middle of an inference.",
    source="raspberrypi/documentation (usb_max_current_enable); frigate#6445, #7034",
)
def coral_usb_power(board: Snapshot) -> Iterator[Found]:
    if not coral_usb(board):
        return
    lines = board.kernel_lines(r"usb.*over-?current")
    at_boot = board.binary(f"{_POWER}/usb_over_current_detected")
    if lines or at_boot:
        yield Found(
            "a USB port was switched off for drawing too much",
            (
                Evidence("dmesg", cited(lines[-1]))
                if lines
                else Evidence(f"{_POWER}/usb_over_current_detected", str(at_boot)),
            ),
            by_hand="a powered USB 3 hub, or a stronger supply",
        )
    # told by the firmware of Raspberry Pi 5 alone: the others have no such limiter
    is_high, supply = board.binary(f"{_POWER}/usb_max_current_enable"), board.binary(f"{_POWER}/max_current")
    if is_high == 0:
        said = () if supply is None else (Evidence(f"{_POWER}/max_current", f"{supply} mA"),)
        yield Found(
            "all USB ports together get 600 mA, the accelerator alone may take 900",
            (Evidence(f"{_POWER}/usb_max_current_enable", "0"), *said),
            by_hand="use a 5 V 5 A supply (27 W USB-PD); with one that does not say so over USB-PD: "
            "usb_max_current_enable=1 in /boot/firmware/config.txt and reboot",
            severity="warning",
        )


@check(
    "coral-usb-resets",
    "warning",
    "A Coral USB accelerator stays connected",
    reason="Cables, hubs and weak supplies are what fails most in the field: the device resets in the middle of an "
    "inference, which then hangs or fails. One disconnection is normal, when its firmware is loaded.",
    source="frigate#6445, #7034; google-coral/edgetpu#859",
)
def coral_usb_resets(board: Snapshot) -> Iterator[Found | CannotTell]:
    log = board.kernel_log()
    if log is None and coral_usb(board):
        yield NO_LOG
    for device in coral_usb(board):
        port = re.escape(device.path.rpartition("/")[2])
        wanted = re.compile(rf"usb {port}: (USB disconnect|reset (SuperSpeed|high-speed))")
        lines = [line for line in log or [] if wanted.search(line)]
        if len(lines) >= RESETS:
            yield Found(
                f"the Coral USB accelerator was lost or reset {len(lines)} times since it booted",
                (Evidence("dmesg", cited(lines[-1])),),
                by_hand="another cable and port, no hub without a supply of its own, a stronger supply for the board",
            )


def _usb_rules(board: Snapshot) -> list[tuple[str, str]]:
    rules = [(path, line) for path, line in board.lines("*.rules") if not line.lstrip().startswith("#")]
    return [(path, line) for path, line in rules if re.search(r"GROUP|MODE|uaccess", line)]


@check(
    "coral-udev",
    "error",
    "Somebody else than root may open a Coral USB accelerator",
    reason="It appears under two USB ids, before and after its firmware is loaded; each needs a rule, or libusb is refused and "
    "load_delegate fails with an empty message.",
    source="libedgetpu debian/libedgetpu1-std.udev; google-coral/edgetpu#536, pycoral#72",
)
def coral_udev(board: Snapshot) -> Iterator[Found | CannotTell]:
    devices = coral_usb(board)
    if not devices or board.is_container:
        return
    lines = _usb_rules(board)
    missing = [vendor for vendor, _ in IDS if not any(vendor in line for _, line in lines)]
    if not missing:
        return
    nodes = tuple(Evidence(d.node, str(board.node(d.node))) for d in devices if board.node(d.node) is not None)
    rules = Evidence("/etc/udev/rules.d, /usr/lib/udev/rules.d", f"no rule for vendor {' and '.join(missing)}")
    commands: tuple[Command, ...] = (
        as_root(board, "groupadd", "-f", "plugdev"),
        write_file(board, RULES_FILE, RULES),
        as_root(board, "udevadm", "control", "--reload-rules"),
        as_root(board, "udevadm", "trigger", "--subsystem-match=usb"),
        *(add_to_group(board, "plugdev") if board.uid != 0 and "plugdev" not in board.member_of else ()),
    )
    yield Found(
        "only root may open the Coral USB accelerator",
        (*nodes, rules),
        commands if board.program("udevadm") else (),
        by_hand="" if board.program("udevadm") else "install udev and a rule for 1a6e:089a and 18d1:9302",
    )


@check(
    "coral-group",
    "error",
    "The login user is in the group that may open the Coral USB accelerator",
    reason="The udev rule gives the device to a group; a service started by this user is refused without it.",
    source="libedgetpu debian/libedgetpu1-std.udev (GROUP=plugdev)",
)
def coral_group(board: Snapshot) -> Iterator[Found]:
    if board.uid == 0:
        return
    for device in coral_usb(board):
        node = board.node(device.node)
        if node is None or node.may_use or node.group == "root":
            continue  # root: coral-udev says so
        evidence = (
            Evidence(device.node, str(node)),
            Evidence(f"groups of {board.user}", " ".join(sorted(board.groups))),
        )
        message = f"{board.user} is not in {node.group}, which may open the Coral USB accelerator"
        if node.group in board.member_of:
            yield Found(f"{board.user} is in {node.group} from the next login on", evidence, after="log in again")
        elif re.fullmatch(r"[a-z_][a-z0-9_-]*", node.group):
            yield Found(message, evidence, add_to_group(board, node.group), after="log in again")


CHECKS = (coral_usb2, coral_usb_power, coral_usb_resets, coral_udev, coral_group)
