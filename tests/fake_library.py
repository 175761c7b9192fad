"""The fake external delegate (fake/fake_delegate.c), built with gcc once for each set of flags."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent / "fake" / "fake_delegate.c"
_folder = tempfile.TemporaryDirectory(prefix="edgekit-fake-")


@cache
def fake_library(*flags: str) -> str:
    """The library's path. `-DPOISON`: it was built against old headers; `-DCRASH="create"`: it crashes there."""
    gcc = shutil.which("gcc")
    if gcc is None:
        pytest.skip("no gcc to build the fake delegate with")
    path = Path(_folder.name) / f"libfake{abs(hash(flags))}.so"
    command = [gcc, "-std=c11", "-Wall", "-Werror", "-shared", "-fPIC", "-O1", *flags, "-o", str(path), str(SOURCE)]
    subprocess.run(command, check=True)
    return str(path)


def crashing(place: str) -> str:
    """A library that is killed by SIGSEGV in `create`, `prepare` or `invoke`."""
    return fake_library(f'-DCRASH="{place}"')
