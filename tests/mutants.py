"""Damaged models in bundles that are otherwise in order, each through the golden check in a process of its own.

The manifest has the mutant's own hash: what is tested is not that damage is noticed, but what happens when it is not.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from handmade_model import T, build, make_bundle

from edgekit.bundle import Bundle, write_bundle

SECONDS = 20.0  # for one golden check
LIMIT = 2 << 30  # bytes of memory for one
EXTREMES = [0, 1, 0x7F, 0x80, 0xFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFFFFF0, 0x00010000]


@dataclass(frozen=True)
class Ending:
    """How a golden check ended."""

    mutant: str
    how: str  # "passed", "refused ...", "killed by ...", "stopped ...", or "bug ..."
    seconds: float


def mutants(model: bytes, count: int, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """(what was done, the model after it): bits, bytes and words changed, the end cut off, parts moved, doubled, blanked."""
    rng = random.Random(seed)
    for number in range(count):
        data = bytearray(model)
        kind = ("bit", "word", "cut", "bits", "move", "word", "blank", "grow")[number % 8]
        place = rng.randrange(len(data))
        if kind == "bit":
            data[place] ^= 1 << rng.randrange(8)
        elif kind == "bits":
            for _ in range(rng.randrange(2, 64)):
                data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        elif kind == "word":
            place &= ~3
            data[place : place + 4] = rng.choice(EXTREMES).to_bytes(4, "little")
        elif kind == "cut":
            del data[place:]
        elif kind == "move":
            length = rng.randrange(1, 64)
            data[place : place + length] = data[(there := rng.randrange(len(data))) : there + length]
        elif kind == "blank":
            length = rng.randrange(1, 256)
            data[place : place + length] = bytes(len(data[place : place + length]))
        else:
            data[place:place] = rng.randbytes(rng.randrange(1, 64))
        yield f"{kind}@{place}#{number}", bytes(data)


def mutant_bundle(original: Bundle, model: bytes, path: Path) -> Bundle:
    """The bundle with another first model, and hashes that fit."""
    contents = {name: original.file(name).read_bytes() for name in original.manifest.files}
    contents[original.manifest.variants[0].file] = model
    return write_bundle(path, original.manifest, contents)


def check_mutants(original: Bundle, count: int, folder: Path, seed: int = 0) -> list[Ending]:
    """The golden check of each mutant in a fork of this process, which has the interpreter loaded already."""
    from edgekit.runner import check

    model = original.file(original.manifest.variants[0].file).read_bytes()
    endings = []
    for name, mutant in mutants(model, count, seed):
        bundle = mutant_bundle(original, mutant, folder / "mutant")
        said = folder / "said"
        start = time.monotonic()
        pid = os.fork()
        if pid == 0:
            _in_fork(bundle, said, check.check_release)
        endings.append(Ending(name, _ending(pid, said), time.monotonic() - start))
    return endings


def _ending(pid: int, said: Path) -> str:
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
            return said.read_text("utf-8", "replace") if code >= 0 else f"killed by {signal.Signals(-code).name}"
        time.sleep(0.002)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return f"stopped after {SECONDS:.0f} s"  # as the agent does, later: a changed size can be a lot of work


def _in_fork(bundle: Bundle, said: Path, check_release) -> None:
    import resource

    from edgekit.errors import EdgekitError

    text = ""
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_DATA, (LIMIT, LIMIT))
        try:
            check_release(bundle.folder)
            text = "passed"
        except EdgekitError as error:
            text = f"refused: {type(error).__name__}"
        except MemoryError:
            text = "refused: MemoryError"
    except BaseException:
        text = f"bug: {traceback.format_exc()}"
    said.write_text(text, "utf-8")
    os._exit(0)


def main() -> int:
    """1,000 mutants of two models through the golden check, as a table; exit code 1 if one met a bug."""
    import tempfile
    from collections import Counter

    from tiny_model import tiny_bundle

    count = int(sys.argv[1]) if len(sys.argv) > 1 else 500
    wrong = 0
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for bundle in (tiny_bundle(folder / "tiny"), several_bundle(folder / "several")):
            start = time.monotonic()
            endings = check_mutants(bundle, count, folder)
            print(f"{count} mutants of {bundle.manifest.name}, {time.monotonic() - start:.0f} s:")
            for how, number in Counter(ending.how.splitlines()[0] for ending in endings).most_common():
                print(f"  {number:>5}  {how}")
            bad = [ending for ending in endings if ending.how.startswith("bug")]
            wrong += len(bad)
            for ending in bad[:3]:
                print(ending.mutant, ending.how)
    return int(bool(wrong))


def several_operators() -> bytes:
    """A network of the operators whose kernels read indices, shapes and strides out of the file."""
    rng = np.random.default_rng(0)

    def weights(name: str, *shape: int) -> T:
        return T(name, shape, "int8", 1 / 127, 0, rng.integers(-127, 128, shape).astype(np.int8))

    def numbers(name: str, *values: int) -> T:
        return T(name, (len(values),), "int32", data=np.array(values, np.int32))

    def between(name: str, *shape: int) -> T:
        return T(name, shape, "int8", 0.05, 0)

    def bias(name: str, size: int) -> T:
        return T(name, (size,), "int32", 0.05 / 127, 0, rng.integers(-200, 200, size).astype(np.int32))

    into, out = between("in", 1, 8, 8, 3), between("out", 1, 5)
    a, b, c, d, e, f, g = (
        between("a", 1, 8, 8, 4), between("b", 1, 8, 8, 4), between("c", 1, 4, 4, 4), between("d", 1, 4, 4, 4),
        between("e", 1, 2, 4, 4), between("f", 1, 32), between("g", 1, 4, 4, 4),
    )  # fmt: skip
    one = {"strideW": 1, "strideH": 1}
    steps = [
        ("CONV_2D", [into, weights("w1", 4, 3, 3, 3), bias("b1", 4)], [a], one),
        ("DEPTHWISE_CONV_2D", [a, weights("w2", 1, 3, 3, 4), bias("b2", 4)], [b], {**one, "depthMultiplier": 1}),
        ("MAX_POOL_2D", [b], [c], {"strideW": 2, "strideH": 2, "filterWidth": 2, "filterHeight": 2}),
        ("TRANSPOSE", [c, numbers("order", 0, 2, 1, 3)], [d]),
        ("ADD", [c, d], [g]),
        ("STRIDED_SLICE", [g, numbers("from", 0, 0, 0, 0), numbers("to", 1, 4, 4, 4), numbers("by", 1, 2, 1, 1)], [e]),
        ("RESHAPE", [e], [f]),
        ("FULLY_CONNECTED", [f, weights("w3", 5, 32), bias("b3", 5)], [out]),
    ]
    return build(steps, inputs=[into], outputs=[out], names={"image": "in", "kind": "out"})


def several_bundle(path: Path) -> Bundle:
    """A bundle of that network."""
    raw = np.random.default_rng(1).uniform(-4, 4, (4, 8, 8, 3)).astype(np.float32)
    return make_bundle(path, several_operators(), raw=raw)


if __name__ == "__main__":
    sys.exit(main())
