"""What the bundle is built of: values that are dataclasses in all but their start-up time, and hashes."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import pickle
import subprocess
import sys

import pytest

from edgekit.digest import sha256, sha256_file
from edgekit.manifest import File, Quality
from edgekit.values import dataclass


@dataclass(frozen=True)
class Ours:
    a: int
    b: str = "x"

    def __post_init__(self):
        if self.a < 0:
            raise ValueError("negative")


@dataclasses.dataclass(frozen=True)
class Standard:
    a: int
    b: str = "x"


def test_a_value_looks_and_compares_as_a_standard_dataclass_does():
    assert repr(Ours(1, b="y")) == repr(Standard(1, b="y")).replace("Standard", "Ours")
    assert Ours(1) == Ours(a=1, b="x") != Ours(2)
    assert Ours(1) != Standard(1)
    assert hash(Ours(1)) == hash(Ours(1))
    assert {Ours(1), Ours(1), Ours(2)} == {Ours(1), Ours(2)}


def test_the_functions_of_dataclasses_work_on_a_value():
    assert dataclasses.replace(Ours(1), b="z") == Ours(1, "z")
    assert dataclasses.asdict(Ours(1)) == {"a": 1, "b": "x"}
    assert [field.name for field in dataclasses.fields(Ours)] == ["a", "b"]
    assert copy.deepcopy(Ours(1)) == pickle.loads(pickle.dumps(Ours(1))) == Ours(1)


def test_a_value_cannot_be_changed():
    for change in (lambda v: setattr(v, "a", 2), lambda v: delattr(v, "a"), lambda v: setattr(v, "c", 2)):
        with pytest.raises(dataclasses.FrozenInstanceError):
            change(Ours(1))


@pytest.mark.parametrize(("args", "kwargs"), [((), {}), ((1, "x", 3), {}), ((1,), {"a": 1}), ((1,), {"c": 1})])
def test_wrong_arguments_are_refused_and_the_check_after_is_made(args, kwargs):
    with pytest.raises(TypeError):
        Ours(*args, **kwargs)
    with pytest.raises(TypeError):
        Standard(*args, **kwargs)
    with pytest.raises(ValueError, match="negative"):
        Ours(-1)


def test_values_are_frozen_only():
    with pytest.raises(TypeError):
        dataclass(frozen=False)


def test_the_manifests_values_are_of_this_kind():
    assert dataclasses.is_dataclass(File)
    assert Quality("m", 1.0, None, 2, "s") == Quality(metric="m", value=1.0, float_value=None, count=2, source="s")


@pytest.mark.parametrize("size", [0, 1, 1 << 12, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 3 << 20])
def test_a_hash_is_that_of_hashlib_whatever_computes_it(tmp_path, size):
    content = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    (tmp_path / "f").write_bytes(content)

    assert sha256(content) == sha256_file(tmp_path / "f") == hashlib.sha256(content).hexdigest()


def test_a_hash_without_openssl_is_the_same():
    code = "import sys; from edgekit.digest import sha256; print(sha256(b'edgekit'), 'hashlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.split()[0] == hashlib.sha256(b"edgekit").hexdigest()
