"""targets/*.toml: every file loads, and a wrong file is refused with its name and its key."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgekit.errors import DeviceUnsupported, InputError, UnknownTarget
from edgekit.platforms import Platform, choose_runtime
from edgekit.target import Delegate, System, Target, load_target, read_target, target_names, targets_folder

GOOD = """
description = "A board"
arch = "aarch64"
cpu = "A chip"
cores = 4
features = ["asimd"]
threads = 3
throttle_at_mc = 80000
source = ["a data sheet"]

[[systems]]
os = "Debian 12"
python = "3.11"
glibc = "2.36"

[[delegate]]
name = "cpu"
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "board.toml"
    path.write_text(text, encoding="utf-8")
    return path


def platform_of(target: Target, system: System) -> Platform:
    major, minor = system.python.split(".")
    return Platform((int(major), int(minor)), target.arch, f"glibc {system.glibc}", has_numpy=None)


@pytest.mark.parametrize("name", target_names())
def test_every_target_loads_under_its_own_name_and_runs_on_the_cpu(name: str) -> None:
    target = load_target(name)

    assert target.name == name
    assert target.delegates[-1] == Delegate("cpu")
    assert [d.name for d in target.delegates[:-1]] == ["edgetpu"] * name.startswith("coral-")


@pytest.mark.parametrize("name", target_names())
def test_every_system_of_a_target_either_has_a_runtime_or_says_what_to_do(name: str) -> None:
    target = load_target(name)
    silent = [system for system in target.systems if "beside it" not in system.note]

    for system in silent:
        assert choose_runtime(platform_of(target, system)).requirements
    for system in set(target.systems) - set(silent):
        with pytest.raises(DeviceUnsupported):
            choose_runtime(platform_of(target, system))


@pytest.mark.parametrize("path", sorted(targets_folder().glob("*.toml")), ids=lambda path: path.stem)
def test_no_target_names_a_package_registry(path: Path) -> None:
    text = path.read_text(encoding="utf-8").lower()

    assert "pypi" not in text
    assert "python" + "hosted" not in text


def test_the_boards_of_the_first_release_are_there() -> None:
    names = target_names()

    assert names == [
        "coral-dev-board",
        "coral-usb-rpi4",
        "coral-usb-rpi5",
        "coral-x86-64",
        "generic-aarch64",
        "jetson-nano",
        "jetson-orin-nano",
        "rpi-zero2w",
        "rpi3",
        "rpi4",
        "rpi5",
        "x86-64",
    ]


def test_an_unknown_target_names_the_closest_one_and_lists_all() -> None:
    with pytest.raises(UnknownTarget) as caught:
        load_target("RPi-4")

    assert "did you mean rpi4?" in caught.value.hint
    assert all(name in caught.value.hint for name in target_names())


@pytest.mark.parametrize("name", ["../targets/rpi4", "/etc/passwd", "rpi4.toml", "", ".", "rpi4/"])
def test_a_name_is_a_plain_stem_and_never_a_path(name: str) -> None:
    with pytest.raises(UnknownTarget) as caught:
        load_target(name)

    assert repr(name) in str(caught.value)


def test_what_is_not_known_is_none(tmp_path: Path) -> None:
    target = read_target(write(tmp_path, GOOD.replace("cores = 4\n", "").replace("throttle_at_mc = 80000\n", "")))

    assert isinstance(target, Target)
    assert (target.cores, target.throttle_at_mc, target.memory_mb) == (None, None, None)
    assert target.systems[0].note == ""


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ('cpu = "A chip"\n', "", "cpu"),
        ("threads = 3", "treads = 3", "threads"),
        ("threads = 3", "threads = 3\ncores_mhz = 7", "cores_mhz"),
        ("threads = 3", 'threads = "3"', "threads"),
        ("threads = 3", "threads = true", "threads"),
        ("threads = 3", "threads = 0", "threads"),
        ("threads = 3", "threads = 5", "threads"),
        ("cores = 4", "cores = 4.0", "cores"),
        ("80000", "80", "throttle_at_mc"),
        ('"aarch64"', '"arm64"', "arch"),
        ('"A chip"', '" "', "cpu"),
        ('["asimd"]', '"asimd"', "features"),
        ('["asimd"]', "[1]", "features"),
        ('"3.11"', "3.11", "systems[0].python"),
        ('"3.11"', '"3.11.2"', "systems[0].python"),
        ('os = "Debian 12"\n', "", "systems[0].os"),
        ('glibc = "2.36"', 'glibc = "2.36"\nlibc = "x"', "systems[0].libc"),
        ('name = "cpu"', 'name = "tpu"', "delegate[0].name"),
        ('name = "cpu"', 'name = "gpu"\noptions = { precision = "f64" }', "delegate[0]: precision cannot be"),
        ('name = "cpu"', 'name = "cpu"\nthreads = 4', "delegate[0].threads"),
        ('[[delegate]]\nname = "cpu"', "", "delegate"),
        ('[[delegate]]\nname = "cpu"', "[delegate]", "delegate"),
        ("threads = 3", "threads = ", "TOML"),
    ],
)
def test_a_wrong_file_is_refused_with_its_name_and_its_key(tmp_path: Path, old: str, new: str, named: str) -> None:
    assert old in GOOD
    path = write(tmp_path, GOOD.replace(old, new))

    with pytest.raises(InputError) as caught:
        read_target(path)

    assert str(path) in str(caught.value)
    assert named in str(caught.value)


def test_a_file_that_is_not_there_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.toml"):
        read_target(tmp_path / "nowhere.toml")
