"""Every parser that reads what somebody else wrote, fed with bytes: it gives a value or the error that it promises.

With atheris (pip install atheris) the bytes are led by which branches they reach; without, seeds are changed at random.
`scripts/fuzz` runs all of them and prints a table; the default tests run a few hundred of each.
"""

from __future__ import annotations

import argparse
import atexit
import base64
import contextlib
import hashlib
import importlib.util
import io
import json
import os
import random
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAINbtGsFRWhP7aydK9ef2Zh3UN/X3mT5oOEPFEELGCaAj"
SHA256 = "0" * 64


@dataclass(frozen=True)
class Parser:
    """One that may be fed with any bytes. `feed` raises what it must not."""

    feed: Callable[[bytes], None]
    seeds: tuple[bytes, ...]


def parsers() -> dict[str, Parser]:
    """All of them, by name; imports what they need."""
    from test_hostile_device import HELLO, MAGIC, Says, frame

    from edgekit.deploy import bytecode, disk, signers, signing, sshsig
    from edgekit.deploy.address import Local
    from edgekit.deploy.disk import Refused
    from edgekit.deploy.known_hosts import parse_known_hosts
    from edgekit.deploy.session import Session
    from edgekit.errors import BundleError, EdgekitError, InputError
    from edgekit.manifest import is_safe_name, read_manifest, write_manifest
    from edgekit.runner.inputs import read_arrays

    def manifest(data: bytes) -> None:
        with contextlib.suppress(BundleError):
            found = read_manifest(data)
            assert all(is_safe_name(name) for name in found.files)
            assert read_manifest(write_manifest(found)) == found

    def listing(data: bytes) -> None:
        text = data.decode(errors="replace")
        name = hashlib.sha256(text.encode()).hexdigest()[:16]
        with contextlib.suppress(Refused):
            for path in disk.read_listing(name, text, "edgekit_release")["files"]:
                assert not path.startswith(("/", "-", ".")) and ".." not in path.split("/")
                assert path.isascii() and path.isprintable() and not set(path) & set(" ;$()'\"\\`|&<>*?")

    def statement(data: bytes) -> None:
        with contextlib.suppress(Refused):
            signing.read_statement(data)

    def change(data: bytes) -> None:
        with contextlib.suppress(Refused):
            add, revoke = signers.read_change(data.decode(errors="replace"))
            for line, _ in [*add.values(), *revoke]:
                assert re.fullmatch(r"[a-z0-9@.-]+ [A-Za-z0-9+/=]+", line)

    def signature(data: bytes) -> None:
        with contextlib.suppress(Refused):
            sshsig._parse_signature(data)

    def keys(data: bytes) -> None:
        list(sshsig.key_lines(data))

    def known_hosts(data: bytes) -> None:
        parse_known_hosts(data.decode(errors="replace").splitlines(), "[board]:2222")

    def answers(data: bytes) -> None:
        with contextlib.suppress(EdgekitError):
            session = Session(Says(data), Local(Path("/nowhere")), "python3")
            for _ in range(100):
                session.request("status")

    scratch = scratch_folder()

    def golden(data: bytes) -> None:
        (scratch / "golden.npz").write_bytes(data)
        with contextlib.suppress(InputError):
            read_arrays(scratch / "golden.npz")

    def compiled(data: bytes) -> None:
        (scratch / bytecode.LIST).write_bytes(data)
        with contextlib.suppress(Refused):
            for path in bytecode.read_list(str(scratch)):
                assert disk.COMPONENT.fullmatch(path.split("/")[0]) and ".." not in path.split("/")

    file = {"sha256": SHA256, "size": 3}
    pyc = {"runner/__pycache__/x.cpython-311.pyc": {**file, "source": SHA256}}
    release = {
        "edgekit_release": 1,
        "name": "digits",
        "runtime": "0" * 16,
        "files": {"edgekit/runner/x.py": file, "run": file},
    }
    signed = {
        "edgekit_signature": 1, "name": "digits", "edgekit": "1", "seq": 5, "downgrade_from": None, "run": "#!/bin/sh\n",
        "files": {"manifest.json": SHA256}, "runtimes": {SHA256: "numpy==1"},
    }  # fmt: skip
    said = {"missing": {SHA256: 0}, "warning": ""}
    return {
        "manifest.json": Parser(manifest, (_manifest_seed(),)),
        "release.json": Parser(listing, (json.dumps(release).encode(),)),
        "signed statement": Parser(statement, (json.dumps(signed).encode(),)),
        "change of signers": Parser(
            change, (json.dumps({"edgekit_signers": 1, "add": {"alice": KEY}, "revoke": [KEY]}).encode(),)
        ),
        "signature": Parser(
            signature, (_signature_seed(b"ssh-ed25519"), _signature_seed(b"sk-ssh-ed25519@openssh.com"))
        ),
        "list of bytecode": Parser(compiled, (json.dumps({"edgekit_bytecode": 1, "files": pyc}).encode(),)),
        "allowed_signers": Parser(keys, (f'alice,b namespaces="x,y" {KEY} a b\n# c\n"d e" {KEY}\n'.encode(),)),
        "known_hosts": Parser(known_hosts, (f"[board]:2222,|1|AAAA|BBBB,!x {KEY}\n@revoked * {KEY}\n".encode(),)),
        "frames of a device": Parser(
            answers,
            (
                b"hello\n"
                + MAGIC
                + frame(HELLO)
                + frame(said)
                + frame({"error": "DeviceFull", "message": "m", "hint": "h"}),
            ),
        ),
        "golden.npz": Parser(golden, (_npz_seed(),)),
    }


def scratch_folder() -> Path:
    """A folder that goes with this process."""
    folder = Path(tempfile.mkdtemp(prefix="edgekit-fuzz-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _manifest_seed() -> bytes:
    from test_bundle import MANIFEST

    from edgekit.manifest import write_manifest

    return write_manifest(MANIFEST)


def _signature_seed(kind: bytes) -> bytes:
    """An SSHSIG of that kind of key, with a token's flags and counter behind it."""

    def string(data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + data

    key, signed = string(kind) + string(bytes(32)), string(kind) + string(bytes(64)) + b"\1" + bytes(4)
    blob = b"SSHSIG\0\0\0\1" + b"".join(map(string, (key, b"edgekit-bundle", b"", b"sha512", signed)))
    return b"-----BEGIN SSH SIGNATURE-----\n" + base64.b64encode(blob) + b"\n-----END SSH SIGNATURE-----\n"


def _npz_seed() -> bytes:
    import numpy as np

    stream = io.BytesIO()
    np.savez(stream, **{"input/x": np.zeros((2, 4), np.float32), "output/int8/y": np.zeros((2, 3), np.int8)})
    return stream.getvalue()


def changed(seed: bytes, rng: random.Random) -> bytes:
    """The seed after a few changes."""
    data = bytearray(seed)
    for _ in range(rng.randrange(1, 6)):
        place = rng.randrange(len(data) + 1)
        what = rng.randrange(6)
        if what == 0 and place < len(data):
            data[place] = rng.randrange(256)
        elif what == 1:
            data[place:place] = rng.choice(TOKENS)
        elif what == 2:
            del data[place : place + rng.randrange(1, 30)]
        elif what == 3:
            data[place:place] = data[(there := rng.randrange(len(data) + 1)) : there + rng.randrange(40)]
        elif what == 4:
            del data[place:]
        else:
            data[place : place + 1] = rng.choice(TOKENS)
    return bytes(data)


TOKENS = [
    b"null", b"true", b"-1", b"1e999", b"NaN", b"{}", b"[]", b'""', b'"', b",", b":", b"9" * 400, b"[" * 3000, b'{"a":' * 3000,
    b"\\ud800", b"\\u0000", b"\0", b"\xff", b"../", b"/etc/passwd", b";$()`", b"\n", b"-rf", b"\x1b[2J", "é\u202e".encode(), b" ",
    b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"edgekit", b"1.0", b"True",
]  # fmt: skip


def run_random(parser: Parser, runs: int, seed: int = 0) -> str:
    """ "" if all went well, else what was fed and what it raised."""
    rng = random.Random(seed)
    corpus = list(parser.seeds)
    for number in range(runs):
        data = corpus[number] if number < len(corpus) else changed(rng.choice(corpus), rng)
        try:
            parser.feed(data)
        except BaseException:
            return f"{data[:300]!r}\n{traceback.format_exc()}"
        if len(corpus) < 50 and len(data) < 10_000:
            corpus.append(data)  # changes upon changes
    return ""


def run_atheris(name: str, runs: int) -> None:
    """Does not return: libFuzzer ends the process, with its own report."""
    import atheris

    with atheris.instrument_imports(include=["edgekit"]):
        parser = parsers()[name]
    folder = scratch_folder()
    words = ["".join(f"\\x{byte:02x}" for byte in word[:60]) for word in TOKENS]
    (folder / "words").write_text("".join(f'"{word}"\n' for word in words))
    corpus = folder / "corpus"
    corpus.mkdir()
    for number, seed in enumerate(parser.seeds):
        (corpus / str(number)).write_bytes(seed)
    options = [f"-runs={runs}", "-seed=1", "-max_len=65536", f"-dict={folder / 'words'}", f"-artifact_prefix={folder}/"]
    atheris.Setup([sys.argv[0], *options, str(corpus)], parser.feed)
    atheris.Fuzz()


def main() -> int:
    """The table; exit code 1 if a parser raised what it must not."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--runs", type=int, default=200_000, help="for each parser (default 200000)")
    arguments.add_argument("--only", help="one parser")
    arguments.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = arguments.parse_args()
    if options.child:
        run_atheris(options.only, options.runs)
    if options.only is not None and options.only not in (names := list(parsers())):
        arguments.error(f"no parser {options.only!r}; there are: {', '.join(names)}")
    led = importlib.util.find_spec("atheris") is not None
    print(
        f"{'parser':<20} {'runs':>9} {'seconds':>8} {'branches':>9}  ({'led by atheris' if led else 'at random'})",
        flush=True,
    )
    wrong = 0
    for name in [options.only] if options.only else parsers():
        start, edges = time.monotonic(), "-"
        if led:
            command = [sys.executable, __file__, "--child", "--only", name, "--runs", str(options.runs)]
            with tempfile.TemporaryDirectory() as scratch:  # libFuzzer ends its process without tidying up
                environment = {**os.environ, "TMPDIR": scratch}
                done = subprocess.run(command, capture_output=True, text=True, errors="replace", env=environment)
            said = "" if done.returncode == 0 else (done.stdout + done.stderr)[-3000:]
            edges = ([*re.findall(r"cov: (\d+)", done.stderr)] or ["-"])[-1]
        else:
            said = run_random(parsers()[name], options.runs)
        print(
            f"{name:<20} {options.runs:>9} {time.monotonic() - start:>8.1f} {edges:>9}  {'WRONG' if said else 'fine'}",
            flush=True,
        )
        if said:
            wrong += 1
            print(said, flush=True)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.path[:0] = [str(HERE), str(HERE.parent)]
    sys.exit(main())
