"""What the virtual Pi boots: Debian's own arm64 kernel, an initrd of a few modules, and a disk with the tree on it.

Only the tree's own installation runs under qemu-user; kernel, initrd and disk are put together natively, and nothing is mounted.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from . import tree

KERNEL = "linux-image-cloud-arm64"  # ext4 built in, virtio as modules: a third of the general one
DISK = "4G"
MASKED = (  # mounts and modules that nothing here uses: a process each, 3 s of a boot's 18 of the emulating processor
    *(f"modprobe@{name}.service" for name in ("configfs", "dm_mod", "drm", "efi_pstore", "fuse", "loop")),
    *("dev-hugepages.mount", "dev-mqueue.mount", "sys-fs-fuse-connections.mount"),
    *("sys-kernel-config.mount", "sys-kernel-debug.mount", "sys-kernel-tracing.mount"),
)
TOOLS = {
    **tree.TOOLS,
    "qemu-aarch64-static": "qemu-user-static",
    "qemu-system-aarch64": "qemu-system-arm",
    "qemu-img": "qemu-utils",
    "mkfs.ext4": "e2fsprogs",
    "depmod": "kmod",
    "cpio": "cpio",
    "zstd": "zstd",
    "ssh": "openssh-client",
    "dpkg-deb": "dpkg",
}
INIT = """\
#!/bin/busybox sh
b=/bin/busybox
$b mount -t proc proc /proc; $b mount -t sysfs sys /sys; $b mount -t devtmpfs dev /dev
for module in $($b cat /modules/order); do $b insmod /modules/$module; done
tries=0; while [ ! -b /dev/vda ] && [ $tries -lt 200 ]; do $b sleep 0.05; tries=$((tries+1)); done
$b mount -t ext4 -o ro /dev/vda /new || exec $b sh
$b mount --move /dev /new/dev
$b umount /sys; $b umount /proc
exec $b switch_root /new /sbin/init
"""
_BINFMT = Path("/proc/sys/fs/binfmt_misc")


@dataclass(frozen=True)
class Image:
    """The parts, in a folder that nobody writes to."""

    folder: Path

    @property
    def disk(self) -> Path:
        return self.folder / "base.qcow2"

    @property
    def kernel(self) -> Path:
        return self.folder / "vmlinuz"

    @property
    def initrd(self) -> Path:
        return self.folder / "initrd.gz"

    @property
    def host_key(self) -> str:
        """Its sshd's, type and base64."""
        return " ".join((self.folder / "host_key.pub").read_text().split()[:2])

    @property
    def frozen(self) -> Path:
        """A folder with a booted one, stopped: `disk.qcow2` and `memory.zst`."""
        return self.folder / "frozen"


def image() -> Image:
    """The image: built, in about three minutes, or as it was left."""
    register_arm64()
    root = tree.tree("arm64")
    mark = hashlib.sha256(root.name.encode() + Path(__file__).read_bytes()).hexdigest()[:12]
    folder = tree.BUILD / f"image-{mark}"
    with tree.locked("image"):
        if not folder.exists():
            for old in tree.BUILD.glob("image-*"):
                shutil.rmtree(old)
            with tempfile.TemporaryDirectory(dir=tree.BUILD, prefix=".building-") as beside:
                made = Path(beside) / "image"
                made.mkdir()
                _build(made, root, Path(beside))
                made.rename(folder)
    return Image(folder)


def register_arm64() -> None:
    """Lets this machine's kernel run arm64 programs through qemu-user, if it does not already."""
    if (_BINFMT / "qemu-aarch64").exists() or os.uname().machine == "aarch64":
        return
    if not (_BINFMT / "register").exists():
        subprocess.run(["mount", "-t", "binfmt_misc", "binfmt_misc", str(_BINFMT)], check=True)
    rows = Path("/usr/lib/binfmt.d/qemu-aarch64.conf").read_text().splitlines()
    row = next(row for row in rows if row.startswith(":qemu-aarch64:"))
    # F: the interpreter is opened now, so it works in every root; C: set-uid programs keep their rights, else sudo fails
    (_BINFMT / "register").write_text(row.rpartition(":")[0] + ":POCF")


def _build(made: Path, base: Path, scratch: Path) -> None:
    modules, busybox = _fetch_kernel(made, scratch)
    version = next((modules / "lib" / "modules").iterdir()).name
    _write_initrd(made / "initrd.gz", modules, version, busybox, scratch / "initrd")
    words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(made / "host_key")]
    subprocess.run(words, check=True)
    root = scratch / "root"
    subprocess.run(["cp", "-a", str(base), str(root)], check=True)
    shutil.copytree(modules / "lib" / "modules", root / "usr" / "lib" / "modules", dirs_exist_ok=True, symlinks=True)
    for end in ("", ".pub"):
        key = root / "etc" / "ssh" / f"ssh_host_ed25519_key{end}"
        shutil.copy(made / f"host_key{end}", key)
        key.chmod(0o600)
    (root / "etc" / "hostname").write_text("virtual-pi\n")
    tree.run_quietly(["systemctl", f"--root={root}", "-q", "mask", *MASKED])
    (root / "etc" / "systemd" / "system.conf.d").mkdir()
    # a device that is emulated beside ten other things is not missing after 90 s; the disk's would end the boot
    patient = "[Manager]\nDefaultDeviceTimeoutSec=900\nDefaultTimeoutStartSec=900\n"
    (root / "etc" / "systemd" / "system.conf.d" / "patient.conf").write_text(patient)
    raw = scratch / "disk.raw"
    with raw.open("wb") as stream:
        stream.truncate(int(DISK[:-1]) << 30)
    quick = "lazy_itable_init=1,lazy_journal_init=1"
    tree.run_quietly(["mkfs.ext4", "-q", "-F", "-d", str(root), "-L", "root", "-E", quick, str(raw)])
    tree.run_quietly(["qemu-img", "convert", "-O", "qcow2", str(raw), str(made / "base.qcow2")])


def _fetch_kernel(made: Path, scratch: Path) -> tuple[Path, Path]:
    """Debian's kernel in `made`; a folder with lib/modules, and a static busybox of its architecture."""
    apt = scratch / "apt"
    for name in ("lists/partial", "archives/partial"):
        (apt / name).mkdir(parents=True)
    (apt / "status").touch()
    (apt / "conf").write_text(
        f'APT::Architecture "arm64";\nAPT::Architectures {{ "arm64"; }};\nAPT::Sandbox::User "root";\n'
        f'Dir::State "{apt}";\nDir::State::status "{apt / "status"}";\nDir::Cache "{apt}";\n'
    )
    ours = {**os.environ, "APT_CONFIG": str(apt / "conf")}
    tree.run_quietly(["apt-get", "update", "-qq"], env=ours)
    found = subprocess.run(
        ["apt-cache", "depends", KERNEL], env=ours, capture_output=True, text=True, check=True
    ).stdout
    package = next(line.split()[1] for line in found.splitlines() if "Depends:" in line)
    tree.run_quietly(["apt-get", "download", "-qq", package, "busybox-static"], env=ours, cwd=scratch)
    unpacked = scratch / "kernel"
    for name in (package, "busybox-static"):
        [archive] = scratch.glob(f"{name}_*.deb")
        tree.run_quietly(["dpkg-deb", "-x", str(archive), str(unpacked)])
    if not (unpacked / "lib" / "modules").exists():  # newer packages have /usr/lib/modules
        (unpacked / "lib").mkdir(exist_ok=True)
        (unpacked / "usr" / "lib" / "modules").rename(unpacked / "lib" / "modules")
    [kernel] = (unpacked / "boot").glob("vmlinuz-*")
    shutil.copy(kernel, made / "vmlinuz")
    # without modules.dep udev loads no virtio_net: a guest without a network, and no word about it
    tree.run_quietly(["depmod", "-b", str(unpacked), kernel.name.removeprefix("vmlinuz-")])
    return unpacked, next(
        path for path in (unpacked / "bin" / "busybox", unpacked / "usr/bin/busybox") if path.exists()
    )


def _write_initrd(path: Path, modules: Path, version: str, busybox: Path, scratch: Path) -> None:
    """Busybox, and what it takes to mount /dev/vda."""
    for name in ("bin", "proc", "sys", "dev", "new", "modules"):
        (scratch / name).mkdir(parents=True)
    shutil.copy(busybox, scratch / "bin" / "busybox")
    (scratch / "bin" / "busybox").chmod(0o755)
    order: list[str] = []
    for wanted in ("virtio_pci", "virtio_blk", "ext4"):
        shown = subprocess.run(
            ["modprobe", "-d", str(modules), "-S", version, "--show-depends", wanted], capture_output=True, text=True
        ).stdout
        for line in shown.splitlines():
            kind, _, file = line.partition(" ")
            source = Path(file.strip())
            if kind != "insmod" or source.name.removesuffix(".xz") in order:
                continue
            shutil.copy(source, scratch / "modules" / source.name)
            if source.suffix == ".xz":
                tree.run_quietly(["xz", "-d", str(scratch / "modules" / source.name)])
            order.append(source.name.removesuffix(".xz"))
    (scratch / "modules" / "order").write_text("\n".join(order) + "\n")
    (scratch / "init").write_text(INIT)
    (scratch / "init").chmod(0o755)
    names = "\n".join(str(one.relative_to(scratch)) for one in sorted(scratch.rglob("*")))
    packed = subprocess.run(
        ["cpio", "-o", "-H", "newc", "--quiet", "--owner=0:0"],
        cwd=scratch, input=names.encode(), stdout=subprocess.PIPE, check=True,
    ).stdout  # fmt: skip
    path.write_bytes(gzip.compress(packed, 6))
