"""The Coral Edge TPU on USB, and the library that every Edge TPU needs."""

from __future__ import annotations

import re
from collections.abc import Iterator

from edgekit.doctor.finding import CannotTell, Command, Evidence, Found, add_to_group, as_root, check, write_file
from edgekit.doctor.runtime import interpreter_of
from edgekit.doctor.snapshot import Snapshot, UsbDevice, cited, version_of

IDS = {("1a6e", "089a"): "before its firmware is loaded", ("18d1", "9302"): "with its firmware loaded"}
PCI = ("0x1ac1", "0x089a")
RULES_FILE = "/etc/udev/rules.d/60-edgekit-coral-usb.rules"
RULES = "".join(
    f'SUBSYSTEM=="usb", ATTR{{idVendor}}=="{vendor}", ATTR{{idProduct}}=="{product}", MODE="0660", GROUP="plugdev"\n'
    for vendor, product in IDS
)
_POWER = "/proc/device-tree/chosen/power"
SUPER_SPEED = 5000  # Mbit/s
BUILD = "16.0TF2.17.1-1"  # of feranick/libedgetpu, which Frigate ships
# the first TensorFlow whose TfLiteRegistration has the field that runtimes from this one on read
ABI_FIELD = (2, 10)


def coral_usb(board: Snapshot) -> list[UsbDevice]:
    """The Coral USB accelerators that are plugged in."""
    return [device for device in board.usb() if (device.vendor, device.product) in IDS]


def has_edgetpu(board: Snapshot) -> bool:
    return bool(coral_usb(board) or board.pci(*PCI) or board.named("/dev/apex_*"))


def _seen(board: Snapshot) -> tuple[Evidence, ...]:
    usb = tuple(Evidence(d.path, f"{d.vendor}:{d.product}, {IDS[d.vendor, d.product]}") for d in coral_usb(board))
    return usb + tuple(Evidence(folder, "1ac1:089a, Edge TPU on PCIe") for folder in board.pci(*PCI))


def library(board: Snapshot) -> tuple[str, str]:
    """The package and version of libedgetpu that is installed; ("", "") for none that dpkg knows."""
    for name in ("libedgetpu1-std", "libedgetpu1-max"):
        version = board.package(name)
        if version:
            return name, version
    return "", ""


def built_for(version: str) -> tuple[int, ...] | None:
    """The TensorFlow that a libedgetpu package was built against: Google's 16.0 and older say none, which means 2.5."""
    match = re.search(r"tf(\d+(\.\d+)+)", version, re.IGNORECASE)
    if match:
        return version_of(match[1])
    return (2, 5) if re.fullmatch(r"1[0-6]\.\d+([-~].*)?", version) else None


def _get_library(board: Snapshot, flavour: str) -> str:
    arch = {"aarch64": "arm64", "x86_64": "amd64", "armv7l": "armhf"}.get(board.arch, board.arch)
    return (
        f"from github.com/feranick/libedgetpu/releases, {BUILD}: {flavour}_{BUILD.lower()}.bookworm_{arch}.deb, then "
        f"sudo apt-get install ./{flavour}_*.deb. Debian and Ubuntu have no such package, and Google's repository only an old "
        "one; whose binary runs as your user is for you to decide, so edgekit does not fetch it"
    )


@check(
    "edgetpu-library",
    "error",
    "An Edge TPU has its library, libedgetpu.so.1",
    reason="The delegate that runs a compiled model is in this library; without it load_delegate fails and "
    "models stay on the CPU.",
    source="coral.ai/docs/accelerator/get-started; feranick/libedgetpu",
)
def edgetpu_library(board: Snapshot) -> Iterator[Found]:
    if has_edgetpu(board) and not board.named("*/libedgetpu.so.1*"):
        yield Found(
            "there is an Edge TPU but no libedgetpu.so.1",
            (*_seen(board), Evidence("/usr/lib/*/libedgetpu.so*", "not there")),
            by_hand=_get_library(board, "libedgetpu1-std"),
        )


@check(
    "edgetpu-abi",
    "error",
    "libedgetpu was built for the interpreter that edgekit puts there",
    reason="TfLiteRegistration grew from 64 to 88 bytes and is passed by value: a libedgetpu built for TensorFlow before 2.10 "
    "leaves garbage where newer interpreters read a pointer, and the process dies with SIGSEGV or an empty error.",
    source="google-coral/edgetpu#812, libedgetpu#53, tensorflow#62371; reproduced with 17 interpreter builds",
)
def edgetpu_abi(board: Snapshot) -> Iterator[Found | CannotTell]:
    if not board.named("*/libedgetpu.so.1*"):
        return
    name, version = library(board)
    interpreter = interpreter_of(board)
    ran = board.ran("edgetpu_version")
    evidence = [Evidence(board.named("*/libedgetpu.so.1*")[0], cited(ran.out) if ran and ran.code == 0 else "there")]
    if ran is not None and ran.code not in (0, None):
        last = cited(ran.err.strip().splitlines()[-1]) if ran.err.strip() else f"exit code {ran.code}"
        yield Found(
            "libedgetpu cannot be loaded",
            (Evidence("ctypes.CDLL(libedgetpu.so.1)", last),),
            by_hand=_get_library(board, name or "libedgetpu1-std"),
        )
        return
    if interpreter is None:
        return  # python-wheel says so
    tensorflow = built_for(version) if version else None
    if tensorflow is None:
        yield CannotTell(f"which TensorFlow libedgetpu was built for: {version or 'dpkg does not know the library'}")
        return
    kind, number = interpreter
    reads_field = kind == "ai-edge-litert" or number >= ABI_FIELD
    if reads_field and tensorflow < ABI_FIELD:
        evidence.append(Evidence(f"dpkg-query -W {name}", version))
        yield Found(
            f"{name} {version} (TensorFlow {'.'.join(map(str, tensorflow))}) crashes "
            f"{kind} {'.'.join(map(str, number))}",
            tuple(evidence),
            by_hand=_get_library(board, name),
        )


@check(
    "edgetpu-usb-max",
    "note",
    "The full-speed library is meant to be there on USB",
    reason="libedgetpu1-max lets a USB accelerator run at 500 MHz; Google allows that up to 25 °C around it "
    "(std: 35 °C) and warns of "
    "burns. On PCIe both are the same.",
    source="libedgetpu README and beagle_top_level_handler.cc",
)
def edgetpu_usb_max(board: Snapshot) -> Iterator[Found]:
    version = board.package("libedgetpu1-max")
    if coral_usb(board) and version:
        yield Found(
            "the Coral USB accelerator runs at its highest clock",
            (Evidence("dpkg-query -W libedgetpu1-max", version),),
            by_hand="keep it cool, or install libedgetpu1-std in its place (half the clock)",
        )


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
    log = board.ran("kernel_log")
    lines = [
        line for line in (log.out if log else "").splitlines() if re.search(r"over-?current", line) and "usb" in line
    ]
    if lines:
        yield Found(
            "a USB port was switched off for drawing too much",
            (Evidence("dmesg", cited(lines[-1])),),
            by_hand="a powered USB 3 hub, or a stronger supply",
        )
    # told by the firmware of Raspberry Pi 5 alone: the others have no such limiter
    is_high, supply = board.binary(f"{_POWER}/usb_max_current_enable"), board.binary(f"{_POWER}/max_current")
    if is_high == 0:
        said = () if supply is None else (Evidence(f"{_POWER}/max_current", f"{supply} mA"),)
        yield Found(
            "all USB ports together get 600 mA, the accelerator alone may take 900",
            (Evidence(f"{_POWER}/usb_max_current_enable", "0"), *said),
            by_hand="use a 5 V 5 A supply (27 W USB-PD); with one that does not say so over USB-PD: usb_max_current_enable=1 in "
            "/boot/firmware/config.txt and reboot",
            severity="warning",
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


CHECKS = (edgetpu_library, edgetpu_abi, edgetpu_usb_max, coral_usb2, coral_usb_power, coral_udev, coral_group)
