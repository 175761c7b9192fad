"""The GPU through Vulkan, as LiteRT's WebGPU accelerator uses it: loader, driver, access."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from edgekit.doctor.finding import Evidence, Found, add_to_group, check, install, install_by_hand
from edgekit.doctor.snapshot import Snapshot
from edgekit.doctor.text import cited

# kernel driver -> words in the file name of Mesa's or the vendor's Vulkan driver
VULKAN = {
    "v3d": ("broadcom",),
    "vc4": ("broadcom",),
    "i915": ("intel",),
    "xe": ("intel",),
    "amdgpu": ("radeon", "amd"),
    "nouveau": ("nouveau",),
    "nvidia": ("nvidia",),
    "panfrost": ("panfrost",),
    "panthor": ("panfrost",),
    "msm": ("freedreno", "turnip"),
}
SOFTWARE = ("lvp", "swrast")


def _drivers(board: Snapshot) -> dict[str, str]:
    """Kernel drivers of GPUs -> where that is said. NVIDIA's own announces itself elsewhere."""
    found: dict[str, str] = {}
    for path in board.paths("/sys/class/drm/renderD*/device/uevent"):
        match = re.search(r"^DRIVER=([\w-]+)$", board.text(path) or "", re.MULTILINE)
        if match:
            found.setdefault(match[1], path)
    if board.text("/proc/driver/nvidia/version") is not None or (board.is_jetson and board.named("/dev/nvidia*")):
        found["nvidia"] = "/proc/driver/nvidia/version"
    if board.is_jetson and board.named("/dev/nvhost*"):
        found["nvidia"] = "/dev/nvhost*"
    return found


def _known_gpus(board: Snapshot) -> dict[str, str]:
    return {driver: path for driver, path in _drivers(board).items() if driver in VULKAN}


def _manifests(board: Snapshot) -> list[str]:
    """Vulkan drivers for hardware, as the loader finds them."""
    paths = (*board.paths("/usr/share/vulkan/icd.d/*.json"), *board.paths("/etc/vulkan/icd.d/*.json"))
    return [path for path in paths if not any(word in path.rpartition("/")[2] for word in SOFTWARE)]


def _seen(board: Snapshot) -> tuple[Evidence, ...]:
    return tuple(Evidence(path, f"DRIVER={driver}") for driver, path in _known_gpus(board).items())


@check(
    "vulkan-loader",
    "note",
    "A board with a GPU has the Vulkan loader, libvulkan.so.1",
    reason="LiteRT's GPU accelerator speaks Vulkan (WebGPU) and loads libvulkan.so.1; without it models run on the CPU, which is "
    "fine unless you want the GPU.",
    source="LiteRT CompiledModel on Linux; Debian package libvulkan1",
)
def vulkan_loader(board: Snapshot) -> Iterator[Found]:
    if _known_gpus(board) and not board.named("*/libvulkan.so.1*"):
        yield Found(
            "there is a GPU but no Vulkan loader",
            (*_seen(board), Evidence("/usr/lib/*/libvulkan.so.1", "not there")),
            install(board, "libvulkan1"),
            install_by_hand(board, "libvulkan1"),
        )


@check(
    "vulkan-driver",
    "note",
    "The Vulkan loader finds a driver for the GPU",
    reason="The loader looks for a manifest in icd.d that names the GPU's driver; with none, or only a software "
    "one, the GPU is not used.",
    source="Vulkan-Loader docs/LoaderDriverInterface.md; Debian package mesa-vulkan-drivers",
)
def vulkan_driver(board: Snapshot) -> Iterator[Found]:
    manifests = _manifests(board)
    for driver, path in _known_gpus(board).items():
        if not any(word in manifest.rpartition("/")[2] for word in VULKAN[driver] for manifest in manifests):
            names = " ".join(manifest.rpartition("/")[2] for manifest in manifests) or "none"
            said = (Evidence(path, f"DRIVER={driver}"), Evidence("/usr/share/vulkan/icd.d, /etc/vulkan/icd.d", names))
            if driver == "nvidia":
                yield Found(
                    "there is an NVIDIA GPU but no Vulkan driver for it",
                    said,
                    by_hand="on a Jetson: sudo apt-get install --reinstall nvidia-l4t-3d-core, which has nvidia_icd.json"
                    if board.is_jetson
                    else "install the driver's Vulkan part: libnvidia-gl of the same version (Debian: nvidia-vulkan-icd)",
                )
            else:
                yield Found(
                    f"there is no Vulkan driver for the GPU ({driver})",
                    said,
                    install(board, "mesa-vulkan-drivers"),
                    install_by_hand(board, "mesa-vulkan-drivers"),
                )


@check(
    "vulkan-manifest",
    "warning",
    "Vulkan's manifests are whole",
    reason="The loader skips a manifest that it cannot read, without a word: the GPU disappears.",
    source="Vulkan-Loader docs/LoaderDriverInterface.md",
)
def vulkan_manifest(board: Snapshot) -> Iterator[Found]:
    for path in _manifests(board):
        try:
            library = json.loads(board.text(path) or "")["ICD"]["library_path"]
            whole = isinstance(library, str) and bool(library)
        except (ValueError, KeyError, TypeError, RecursionError):
            whole = False
        if not whole:
            yield Found(
                f"{cited(path)} names no driver",
                (Evidence(path, cited(board.text(path) or "empty")),),
                by_hand="install the package again that it belongs to: dpkg -S on the file names it",
            )


@check(
    "gpu-access",
    "note",
    "The login user may open the GPU",
    reason="Vulkan opens /dev/dri/renderD*, which belongs to the group render (video on older systems).",
    source="systemd's 50-udev-default.rules (GROUP=render)",
)
def gpu_access(board: Snapshot) -> Iterator[Found]:
    if board.uid == 0 or not _known_gpus(board):
        return
    for path, node in board.nodes("/dev/dri/renderD*"):
        if node.may_use:
            continue
        evidence = (Evidence(path, str(node)), Evidence(f"groups of {board.user}", " ".join(sorted(board.groups))))
        if node.group in board.member_of:
            yield Found(f"{board.user} is in {node.group} from the next login on", evidence, after="log in again")
        elif node.group in ("render", "video"):
            yield Found(
                f"{board.user} may not open the GPU", evidence, add_to_group(board, node.group), after="log in again"
            )


CHECKS = (vulkan_loader, vulkan_driver, vulkan_manifest, gpu_access)
