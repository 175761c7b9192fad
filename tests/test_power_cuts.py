"""The power goes at blocks that a real ext4 writes while the real agent works: tests/power_cuts.py says what must hold then."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from recorded_disk import BLOCK, Entry, read_log, unordered, why_not

TESTS = Path(__file__).parent
COMMAND = [sys.executable, str(TESTS / "power_cuts.py")]
LOOPS = Path("/sys/block")
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(TESTS.parent)}


@pytest.fixture(scope="module")
def can_record() -> None:
    if reason := why_not():
        pytest.skip(reason)


def cut(*words: str, code: int = 0) -> Sequence[dict[str, Any]]:
    """What the command says of each script."""
    done = subprocess.run([*COMMAND, *words], capture_output=True, text=True, env=ENVIRONMENT, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()][1:-1]


@pytest.mark.slow
@pytest.mark.usefixtures("can_record")
def test_whatever_block_was_the_last_that_ext4_wrote_a_whole_proven_release_comes_back() -> None:
    scripts = ("--script", "deployment that takes the oldest away", "--script", "edgekit deploy")
    found = cut(*scripts, "--every", "3", "-n", "1", "--nested", "0.03", "--seed", "1")

    assert [line["violations"] for line in found] == [{}, {}]
    assert sum(line["cuts"]["in order"] for line in found) > 25
    assert sum(line["cuts"]["unordered"] for line in found) > 5


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.usefixtures("can_record")
def test_all_of_it() -> None:
    found = cut()

    assert sum(sum(line["cuts"].values()) for line in found if "cuts" in line) > 1000


@pytest.mark.slow
@pytest.mark.usefixtures("can_record")
def test_an_agent_without_its_fsyncs_is_found_out() -> None:
    *_, found = cut("--without-fsync")

    assert found["found out"]
    assert any("0 bytes" in what for what in found["without fsync"]["violations"])


@pytest.mark.slow
@pytest.mark.usefixtures("can_record")
@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_nothing_stays_mounted_when_it_is_stopped(end: signal.Signals, tmp_path: Path) -> None:
    environment = {**ENVIRONMENT, "TMPDIR": str(tmp_path)}
    process = subprocess.Popen([*COMMAND, "--script", "rollback"], env=environment, start_new_session=True)
    deadline, devices = time.monotonic() + 30, dict[Path, str]()
    while not any(name.endswith("/shown") for name in devices.values()):  # what is being recorded
        devices = {
            path: name for path in LOOPS.glob("loop*/loop/backing_file") if str(tmp_path) in (name := read(path))
        }
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(process.pid, end)
    process.wait(30)

    while any(read(path).endswith("/shown") for path in devices):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    if end == signal.SIGINT:
        assert list(tmp_path.iterdir()) == []


def read(path: Path) -> str:
    """The file that a loop device shows; "" if it shows none any more."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""


# -- what a disk keeps


def test_a_log_is_read_to_its_last_whole_entry(tmp_path: Path) -> None:
    sector = 512
    head = (
        (0x6A736677736872).to_bytes(8, "little") + (1).to_bytes(8, "little") + bytes(8) + sector.to_bytes(4, "little")
    )

    def entry(first: int, count: int, flags: int) -> bytes:
        return b"".join(number.to_bytes(8, "little") for number in (first, count, flags, 0)).ljust(sector, b"\0")

    log = tmp_path / "log"
    whole = (
        head.ljust(sector, b"\0")
        + entry(3, 2, 0)
        + b"a" * 1024
        + entry(0, 0, 1)
        + entry(9, 4, 4)
        + entry(1, 1, 1)
        + b"b" * 512
    )
    log.write_bytes(whole + entry(7, 2, 0) + b"c" * 512)

    assert [(e.offset, e.data[:1], e.is_flush) for e in read_log(log)] == [
        (3 * 512, b"a", False),
        (0, b"", True),
        (512, b"b", False),
        (0, b"", True),
    ]
    assert read_log(log)[-1].end == len(whole)


def test_a_disk_keeps_what_it_likes_but_whole_blocks_and_in_their_place() -> None:
    pending = [Entry(0, bytes([1]) * 3 * BLOCK, False, 1), Entry(8 * BLOCK, bytes([2]) * BLOCK, False, 2)]
    chance, seen = random.Random(1), set()
    for _ in range(300):
        kept = unordered(pending, chance, BLOCK)
        seen.add(tuple((write.offset, len(write.data)) for write in kept))
        for write in kept:
            source = pending[write.data[0] - 1]
            assert write.data == source.data[write.offset - source.offset :][: len(write.data)]

    assert {(), ((0, 3 * BLOCK),), ((0, BLOCK),), ((8 * BLOCK, BLOCK),), ((0, BLOCK), (2 * BLOCK, BLOCK))} <= seen
