"""The FIDO token in software (fake/software_token.c), built with gcc once: OpenSSH loads it, and it really signs."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent / "fake" / "software_token.c"
LIBCRYPTO = "libcrypto.so.3"
_folder = tempfile.TemporaryDirectory(prefix="edgekit-token-")


@cache
def software_token() -> Path:
    """The library, for SSH_SK_PROVIDER, SecurityKeyProvider and `ssh-add -S`."""
    gcc = shutil.which("gcc")
    if gcc is None:
        pytest.skip("no gcc to build the token in software with")
    found = subprocess.run([gcc, f"-print-file-name={LIBCRYPTO}"], check=True, capture_output=True, text=True)
    if found.stdout.strip() == LIBCRYPTO:  # it says the name again where it finds none
        pytest.skip(f"no {LIBCRYPTO} for the token in software: apt install libssl3")
    said = subprocess.run(["ssh", "-V"], check=True, capture_output=True, text=True).stderr
    version = re.match(r"OpenSSH_(\d+)\.(\d+)", said)
    if version is None or (int(version[1]), int(version[2])) < (9, 1):
        pytest.skip(f"the token in software is for OpenSSH >= 9.1, this is {said.strip()}")
    library = Path(_folder.name).resolve() / "software_token.so"
    flags = ["-std=c11", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-O1"]
    subprocess.run([gcc, *flags, "-o", library, SOURCE, f"-l:{LIBCRYPTO}"], check=True)
    return library
