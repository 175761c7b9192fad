"""Python, libc, numpy: whether an interpreter runs there at all."""

from __future__ import annotations

import re
from collections.abc import Iterator

from edgekit.doctor.finding import CannotTell, Command, Evidence, Found, as_root, check, install
from edgekit.doctor.snapshot import Snapshot
from edgekit.doctor.text import cited, version_of
from edgekit.errors import DeviceUnsupported
from edgekit.platforms import Platform, choose_runtime

OLDEST_PYTHON = (3, 9)


def platform_of(board: Snapshot) -> Platform | None:
    """What decides which wheels run there; None if it said no Python version."""
    if len(board.python) < 2:
        return None
    # where there is no wheel numpy is the board's own, and has to be importable; elsewhere it does not matter
    has_numpy = imported_numpy(board) if board.arch == "armv7l" else None
    return Platform((board.python[0], board.python[1]), board.arch, board.libc, has_numpy)


def imported_numpy(board: Snapshot) -> str | None:
    """The version of numpy that the device's own Python imports; None if it has none, or a broken one."""
    ran = board.ran("numpy")
    return cited(ran.out) if ran is not None and ran.code == 0 and version_of(ran.out) else None


def interpreter_of(board: Snapshot) -> tuple[str, tuple[int, ...]] | None:
    """The interpreter that edgekit puts there, and its version; None if there is none for this board."""
    platform = platform_of(board)
    if platform is None:
        return None
    try:
        runtime = choose_runtime(platform)
    except DeviceUnsupported:
        return None
    pinned = next(r for r in runtime.requirements if r.startswith(runtime.interpreter + "=="))
    return runtime.interpreter, version_of(pinned.partition("==")[2])


def _told(board: Snapshot) -> tuple[Evidence, ...]:
    python = ".".join(str(part) for part in board.python)
    bits = f"{board.arch} ({board.kernel_arch} kernel)" if board.kernel_arch != board.arch else board.arch
    return (
        Evidence(board.python_path or "python3", f"Python {python} on {bits}, {board.libc or 'unknown C library'}"),
        Evidence("/etc/os-release", board.system),
    )


@check(
    "python-wheel",
    "error",
    "An interpreter wheel exists for its Python, C library and processor",
    reason="edgekit sends numpy and an interpreter built for exactly this Python and C library; without one no model runs.",
    source="edgekit/platforms.toml, read off the wheels of ai-edge-litert and tflite-runtime; LiteRT #6043, #4667",
)
def python_wheel(board: Snapshot) -> Iterator[Found | CannotTell]:
    platform = platform_of(board)
    if platform is None:
        yield CannotTell("it did not say which Python it has")
        return
    try:
        choose_runtime(platform)
    except DeviceUnsupported as error:
        if "numpy" in str(error):
            return  # numpy-missing says it better
        others = _other_pythons(board, platform)
        commands: tuple[Command, ...] = ()
        by_hand = error.hint
        if others:
            by_hand = f"{others[0]} is there already: add --python {others[0]} to every edgekit command"
        elif board.os_release("VERSION_CODENAME") == "focal" and platform.python < OLDEST_PYTHON:
            commands = install(board, "python3.9")  # universe of Ubuntu 20.04
            by_hand = "then add --python python3.9 to every edgekit command"
        yield Found(str(error), _told(board), commands, by_hand)


def _other_pythons(board: Snapshot, platform: Platform) -> list[str]:
    """Other Pythons on the device that an interpreter has wheels for, newest first."""
    found = []
    for path in (*board.named("/usr/local/bin/python3.*"), *board.named("/usr/bin/python3.*")):
        version = version_of(path.rpartition("/python")[2])
        if len(version) == 2 and path.endswith(f"/python{version[0]}.{version[1]}"):
            try:
                choose_runtime(Platform((version[0], version[1]), platform.arch, platform.libc, platform.has_numpy))
            except DeviceUnsupported:
                continue
            found.append((version, path))
    return [path for _, path in sorted(found, reverse=True)]


@check(
    "release-python",
    "error",
    "The installed release's Python is the one that it was built for",
    reason="numpy and the interpreter are compiled for one minor version: after an upgrade of the system python3 is another one, "
    "and the release no longer starts.",
    source="PEP 3149 (ABI tags of extension modules)",
)
def release_python(board: Snapshot) -> Iterator[Found]:
    python, ran, modules = board.release()
    tag = next((found for name in modules if (found := re.search(r"\.cpython-3(\d{1,2})-", name))), None)
    if not python or tag is None:
        return
    built_for = f"3.{int(tag[1])}"
    has = ran.out.strip() if ran is not None and ran.code == 0 else ""
    if has != built_for:
        yield Found(
            f"the installed release needs Python {built_for}, "
            + (f"{cited(python)} is {cited(has)}" if has else f"{cited(python)} does not start"),
            (
                Evidence(f"{board.root}/current/site", cited(tag.string)),
                Evidence(f"{cited(python)} --version", cited(has or (ran.err if ran else "")) or "no answer"),
            ),
            by_hand="deploy again from the workstation: edgekit deploy BUNDLE DEVICE builds it for the Python that is there now",
        )


@check(
    "numpy-missing",
    "error",
    "Where numpy has no wheel (32-bit Arm), the board's own is there and fits the interpreter",
    reason="tflite-runtime is built against numpy 1.x and answers numpy 2.x with a SystemError; a numpy from "
    "pip shadows Debian's.",
    source="edgekit/platforms.toml; measured with tflite-runtime 2.14.0",
)
def numpy_missing(board: Snapshot) -> Iterator[Found | CannotTell]:
    platform = platform_of(board)
    if platform is None:
        return
    try:
        choose_runtime(platform)
    except DeviceUnsupported as error:
        if "numpy" not in str(error):
            return
        ran = board.ran("numpy")
        said = "none" if ran is None else cited(ran.out or ran.err or "no answer")
        evidence = (*_told(board), Evidence("import numpy", said))
        if platform.has_numpy is None and board.distribution("numpy") is None:
            yield Found(str(error), evidence, install(board, "python3-numpy"), error.hint)
        else:
            yield Found(str(error), evidence, by_hand=error.hint)


@check(
    "numpy-abi",
    "warning",
    "The device's own tflite-runtime and numpy fit one another",
    reason='tflite-runtime 2.14 and older fail with numpy 2 ("_ARRAY_API not found", SystemError): programs of your own on the '
    "board break. Releases of edgekit's bring their own numpy and are not touched by this.",
    source="measured: tflite-runtime 2.14.0 with numpy 1.26.4 and 2.x",
)
def numpy_abi(board: Snapshot) -> Iterator[Found]:
    numpy, tflite = board.distribution("numpy"), board.distribution("tflite_runtime")
    if numpy and tflite and version_of(numpy) >= (2,) and version_of(tflite) < (2, 15):
        yield Found(
            f"tflite-runtime {tflite} cannot use numpy {numpy}",
            (Evidence("site-packages", f"tflite_runtime {tflite}, numpy {numpy}"),),
            by_hand="in that Python's environment: pip install 'numpy<2'",
        )


@check(
    "userland-32bit",
    "warning",
    "A 64-bit processor runs a 64-bit system",
    reason="32-bit Arm has no numpy or ai-edge-litert wheels, and int8 kernels that use dot products are 64-bit only.",
    source="edgekit/platforms.toml; LiteRT #6043 (armv7l wheels)",
)
def userland_32bit(board: Snapshot) -> Iterator[Found]:
    if board.arch == "armv7l" and board.kernel_arch == "aarch64":
        yield Found(
            "its kernel is 64-bit, its programs are 32-bit",
            _told(board)[:1],
            by_hand="flash the 64-bit system (Raspberry Pi Imager: Raspberry Pi OS (64-bit)); there is no way "
            "to upgrade in place",
        )


@check(
    "broken-packages",
    "warning",
    "The package manager has no half-installed packages",
    reason="apt refuses further work until they are configured, also the commands that doctor names.",
    source="dpkg-query(1), db:Status-Abbrev",
)
def broken_packages(board: Snapshot) -> Iterator[Found]:
    ran = board.ran("broken_packages")
    if ran is not None and ran.out.strip():
        yield Found(
            "packages are only half installed",
            (Evidence("dpkg-query -W", cited(ran.out)),),
            (as_root(board, "dpkg", "--configure", "-a"),),
        )


CHECKS = (python_wheel, release_python, numpy_missing, numpy_abi, userland_32bit, broken_packages)
