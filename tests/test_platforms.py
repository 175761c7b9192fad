"""Which interpreter runs where: the table agrees with the wheels that exist, and every refusal says what to do."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

import pytest

from edgekit.errors import DeviceUnsupported
from edgekit.platforms import Platform, choose_runtime, describe_wheels, is_pruned, pip_tags, read_table

WHEELS = Path(__file__).resolve().parents[2] / "shared" / "data" / "wheels.tsv"

# the glibc of the systems in wheels.tsv, which does not say it
GLIBC = {
    "Debian 11": "2.31",
    "Debian 12": "2.36",
    "Debian 13": "2.41",
    "Ubuntu 20.04": "2.31",
    "Ubuntu 22.04": "2.35",
    "Ubuntu 24.04": "2.39",
    "next": "2.41",
}

SUPPORTED = [
    ((3, minor), arch, row.glibc) for row in read_table().runtimes for (_, minor) in row.python for arch in row.arch
]


def device(python: str, arch: str, libc: str, has_numpy: str | None = None) -> Platform:
    major, minor = python.split(".")
    return Platform((int(major), int(minor)), arch, libc, has_numpy)


def refusal(platform: Platform) -> DeviceUnsupported:
    with pytest.raises(DeviceUnsupported) as caught:
        choose_runtime(platform)
    assert "\n" not in str(caught.value) + caught.value.hint
    return caught.value


def known_wheels() -> dict[tuple[str, str, str], dict[str, str]]:
    """wheels.tsv as (system, python, arch) -> package -> file name, "-" when there is none."""
    if not WHEELS.is_file():
        pytest.skip("shared/data/wheels.tsv is not beside this checkout: nothing to compare with")
    found: dict[tuple[str, str, str], dict[str, str]] = defaultdict(dict)
    for line in WHEELS.read_text(encoding="utf-8").splitlines():
        system, python, arch, package, wheel, _size = line.split("\t")
        found[system, python, arch][package] = wheel
    return found


def test_what_is_chosen_for_each_known_system_is_a_wheel_that_exists_and_that_pip_accepts_there() -> None:
    for (system, python, arch), wheels in known_wheels().items():
        glibc = next(version for name, version in GLIBC.items() if name in system)
        has_numpy = "1.24.2" if arch == "armv7l" else None
        if python == "3.8" or (python, arch) == ("3.13", "armv7l"):
            assert wheels["ai-edge-litert"] == "-"
            refusal(device(python, arch, f"glibc {glibc}", has_numpy))
            continue
        runtime = choose_runtime(device(python, arch, f"glibc {glibc}", has_numpy))
        for requirement in runtime.requirements + runtime.images:
            name, version = requirement.split("==")
            wheel = wheels[name]

            assert wheel.startswith(f"{name.replace('-', '_')}-{version}-"), system
            assert set(runtime.pip_tags) & set(wheel.removesuffix(".whl").split("-")[-1].split(".")), system


def test_the_best_interpreter_is_the_one_the_registry_offers_newest() -> None:
    for (system, python, arch), wheels in known_wheels().items():
        if wheels["ai-edge-litert"] == "-":
            continue
        glibc = next(version for name, version in GLIBC.items() if name in system)
        runtime = choose_runtime(device(python, arch, f"glibc {glibc}"))

        assert runtime.interpreter == "ai-edge-litert", system


def test_a_raspberry_pi_with_debian_12_gets_two_packages_and_nothing_to_install_itself() -> None:
    runtime = choose_runtime(device("3.11", "aarch64", "glibc 2.36"))

    assert runtime.requirements == ("ai-edge-litert==2.3.0", "numpy==2.4.6")
    assert runtime.board_packages == ()


def test_the_numpy_of_the_device_does_not_change_the_choice_on_64_bit() -> None:
    without = choose_runtime(device("3.13", "aarch64", "glibc 2.41"))
    with_old = choose_runtime(device("3.13", "aarch64", "glibc 2.41", has_numpy="1.19.5"))

    assert with_old == without


@pytest.mark.parametrize(
    ("python", "glibc", "first"),
    [
        ("3.10", "2.35", "ai-edge-litert==2.3.0"),
        ("3.10", "2.34", "ai-edge-litert==2.1.0"),
        ("3.10", "2.30", "ai-edge-litert==2.1.0"),
        ("3.10", "2.29", "tflite-runtime==2.13.0"),
        ("3.9", "2.28", "tflite-runtime==2.13.0"),
        ("3.13", "2.31", "ai-edge-litert==2.1.0"),
    ],
)
def test_an_old_glibc_gets_the_newest_wheel_that_loads_there_whatever_the_wheel_calls_itself(
    python: str, glibc: str, first: str
) -> None:
    runtime = choose_runtime(device(python, "aarch64", f"glibc {glibc}"))

    assert runtime.requirements[0] == first


@pytest.mark.parametrize(("python", "arch", "glibc"), SUPPORTED)
def test_every_row_is_reached_at_its_own_glibc_and_pins_every_version(
    python: tuple[int, int], arch: str, glibc: tuple[int, ...]
) -> None:
    libc = "glibc " + ".".join(map(str, glibc))
    runtime = choose_runtime(Platform(python, arch, libc, has_numpy="1.24.2"))

    assert runtime.interpreter == runtime.requirements[0].split("==")[0]
    assert all(re.fullmatch(r"[a-z-]+==\d+(\.\d+)+", one) for one in runtime.requirements + runtime.images)
    assert runtime.board_packages or any(one.startswith("numpy==") for one in runtime.requirements)


def test_tflite_runtime_never_meets_numpy_2() -> None:
    rows = [row for row in read_table().runtimes if row.interpreter == "tflite-runtime"]

    assert rows
    for row in rows:
        numpy = [one for one in row.requirements if one.startswith("numpy==")]
        assert numpy == ["numpy==1.26.4"] or row.board_numpy_below == (2,)


def test_pip_is_told_every_tag_from_the_glibc_of_the_device_down() -> None:
    tags = pip_tags("armv7l", (2, 19))

    assert tags == ("manylinux_2_19_armv7l", "manylinux_2_18_armv7l", "manylinux_2_17_armv7l", "manylinux2014_armv7l")


def test_a_32_bit_system_brings_its_own_numpy() -> None:
    runtime = choose_runtime(device("3.11", "armv7l", "glibc 2.36", has_numpy="1.24.2"))

    assert runtime.requirements == ("tflite-runtime==2.14.0",)
    assert runtime.board_packages == ("python3-numpy",)
    assert "manylinux_2_34_armv7l" in runtime.pip_tags


@pytest.mark.parametrize(
    ("platform", "what", "hint"),
    [
        (device("3.8", "aarch64", "glibc 2.31"), "Python 3.8 on aarch64", "JetPack 5"),
        (device("3.6", "aarch64", "glibc 2.27"), "Python 3.6", "JetPack 4"),
        (device("3.7", "aarch64", "glibc 2.28"), "Python 3.7", "Coral"),
        (device("3.15", "aarch64", "glibc 2.41"), "Python 3.15", "ai-edge-litert has wheels for Python 3.9-3.13"),
        (device("3.8", "x86_64", "glibc 2.31"), "Python 3.8 on x86_64", "Python 3.9-3.14 on x86_64 with glibc >= 2.27"),
        (device("3.11", "aarch64", "musl 1.2"), "musl 1.2", "glibc"),
        (device("3.11", "aarch64", ""), "C library", "ldd --version"),
        (device("3.11", "aarch64", "glibc"), "C library", "ldd --version"),
        (device("3.14", "aarch64", "glibc 2.31"), "glibc 2.31 is too old", "Python 3.14 on aarch64 with glibc >= 2.35"),
        (device("3.11", "x86_64", "glibc 2.17"), "glibc 2.17 is too old", "glibc >= 2.27"),
        (device("3.11", "armv7l", "glibc 2.36"), "numpy is missing", "sudo apt install python3-numpy"),
        (device("3.11", "armv7l", "glibc 2.36", "2.2.4"), "numpy 2.2.4 does not fit", "python3-numpy"),
        (device("3.11", "armv7l", "glibc 2.36", "1.19.5"), "numpy 1.19.5 does not fit", "python3-numpy"),
        (device("3.13", "armv7l", "glibc 2.41", "2.2.4"), "Python 3.13 on armv7l", "64-bit OS"),
        (device("3.11", "armv6l", "glibc 2.36"), "armv6l", "aarch64, armv7l, x86_64"),
        (device("3.11", "", "glibc 2.36"), "an unknown processor", "aarch64, armv7l, x86_64"),
    ],
    ids=lambda value: f"{value.python}-{value.arch}-{value.libc}" if isinstance(value, Platform) else None,
)
def test_a_device_without_a_runtime_is_told_what_is_wrong_and_what_to_do(
    platform: Platform, what: str, hint: str
) -> None:
    error = refusal(platform)

    assert what in str(error)
    assert hint in error.hint


def test_the_wheels_of_a_processor_are_described_in_one_line() -> None:
    line = describe_wheels("x86_64")

    assert line == "ai-edge-litert has wheels for Python 3.9-3.14 on x86_64 with glibc >= 2.27"


@pytest.mark.parametrize(
    "path",
    [
        "numpy/_core/tests/test_multiarray.py",
        "numpy/__init__.pyi",
        "numpy/_core/include/numpy/arrayobject.h",
        "numpy/_core/_simd.cpython-311-aarch64-linux-gnu.so",
        "numpy/core/_simd.cpython-39-aarch64-linux-gnu.so",
        "ai_edge_litert/libLiteRtWebGpuAccelerator.so",
        "ai_edge_litert/vendors/qualcomm/compiler/libLiteRtCompilerPlugin_Qualcomm.so",
        "ai_edge_litert/aot/core/common.py",
        "ai_edge_litert/libLiteRt.so",
        "numpy/__pycache__/version.cpython-311.pyc",
    ],
)
def test_what_a_cpu_run_never_opens_stays_at_home(path: str) -> None:
    runtime = choose_runtime(device("3.11", "aarch64", "glibc 2.36"))

    assert is_pruned(path, runtime.prune)


@pytest.mark.parametrize(
    "path",
    [
        "ai_edge_litert/__init__.py",
        "ai_edge_litert/interpreter.py",
        "ai_edge_litert/metrics_interface.py",
        "ai_edge_litert/metrics_portable.py",
        "ai_edge_litert/_pywrap_litert_interpreter_wrapper.so",
        "ai_edge_litert/libpywrap_litert_common.so",
        "ai_edge_litert-2.3.0.dist-info/METADATA",
        "ai_edge_litert-2.3.0.dist-info/licenses/LICENSE",
        "numpy/_core/_multiarray_umath.cpython-311-aarch64-linux-gnu.so",
        "numpy/_core/_multiarray_tests.cpython-39-x86_64-linux-gnu.so",
        "numpy/_pytesttester.py",
        "numpy.libs/libscipy_openblas64_-32a4b2a6.so",
        "tflite_runtime/interpreter.py",
        "tflite_runtime/_pywrap_tensorflow_interpreter_wrapper.so",
    ],
)
def test_what_a_cpu_run_opens_goes_to_the_board(path: str) -> None:
    runtime = choose_runtime(device("3.11", "aarch64", "glibc 2.36"))

    assert not is_pruned(path, runtime.prune)


def test_the_older_interpreter_keeps_the_library_it_is_linked_to() -> None:
    runtime = choose_runtime(device("3.9", "aarch64", "glibc 2.31"))

    assert not is_pruned("ai_edge_litert/libLiteRt.so", runtime.prune)


@pytest.mark.parametrize("python", [(3, 10), (3, 11), (3, 12), (3, 13), (3, 14)])
def test_a_bundle_for_a_gpu_brings_compiled_model_and_what_it_imports(python: tuple[int, int]) -> None:
    plain = choose_runtime(Platform(python, "x86_64", "glibc 2.36", None))
    runtime = choose_runtime(Platform(python, "x86_64", "glibc 2.36", None), compiled=True)

    assert set(runtime.requirements) - set(plain.requirements) == {"ml-dtypes==0.6.0"}
    for name in ("libLiteRtWebGpuAccelerator.so", "compiled_model.py", "libLiteRt.so", "tensor_buffer.py"):
        assert is_pruned(f"ai_edge_litert/{name}", plain.prune)
        assert not is_pruned(f"ai_edge_litert/{name}", runtime.prune)
    assert is_pruned("ai_edge_litert/vendors/x.so", runtime.prune)


def test_an_interpreter_without_a_usable_compiled_model_is_taken_as_it_is() -> None:
    old = Platform((3, 9), "x86_64", "glibc 2.31", None)

    assert choose_runtime(old, compiled=True) == choose_runtime(old)
