"""libedgetpu, which every Edge TPU needs: there, and fit for the interpreter."""

from __future__ import annotations

import re
from collections.abc import Iterator

from edgekit.doctor.coral import IDS, coral_usb
from edgekit.doctor.finding import CannotTell, Evidence, Found, check
from edgekit.doctor.runtime import interpreter_of
from edgekit.doctor.snapshot import Snapshot
from edgekit.doctor.text import cited, version_of

PCI = ("0x1ac1", "0x089a")
BUILD = "16.0TF2.17.1-1"  # of feranick/libedgetpu, which Frigate ships
# the first TensorFlow whose TfLiteRegistration has the field that runtimes from this one on read
ABI_FIELD = (2, 10)


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
    reason="libedgetpu1-max lets a USB accelerator run at 500 MHz; Google allows that up to 25 °C around it (std: "
    "35 °C) and warns of burns. On PCIe both are the same.",
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


CHECKS = (edgetpu_library, edgetpu_abi, edgetpu_usb_max)
