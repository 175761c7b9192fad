"""Boards as small true things: a /sys folder made of tests/boards/NAME.tree, and a firmware that answers from it.

A line `path = content` is a file, `path -> target` a link (to /proc/self/mem: reading gives EIO, to
/proc/sys/vm/compact_memory: EACCES, for root too), `$ command = answer` what the firmware says; `|` continues a value.
"""

from __future__ import annotations

from pathlib import Path

from edgekit.runner.power.board import Board

BOARDS = Path(__file__).parent / "boards"
NAMES = sorted(path.stem for path in BOARDS.glob("*.tree"))


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self, now_ms: int = 5000) -> None:
        self.now_ms = now_ms

    def __call__(self) -> int:
        return self.now_ms


def read_tree(name: str) -> tuple[dict[str, str], dict[str, str], dict[str, str]]:
    """Files, links and the firmware's answers of a board."""
    files: dict[str, str] = {}
    links: dict[str, str] = {}
    answers: dict[str, str] = {}
    last: tuple[dict[str, str], str] | None = None
    for line in (BOARDS / f"{name}.tree").read_text().splitlines():
        if line.startswith("|"):
            assert last is not None
            last[0][last[1]] += "\n" + line[2:]
        elif line and not line.startswith("#"):
            is_link = " -> " in line
            key, value = line.split(" -> " if is_link else " =", 1)
            kind = answers if key.startswith("$ ") else links if is_link else files
            key = key.removeprefix("$ ")
            kind[key] = value.removeprefix(" ").replace("\\0", "\0")
            last = kind, key
    return files, links, answers


class Firmware:
    """What vcgencmd would answer; keeps what it was asked."""

    def __init__(self, answers: dict[str, str]) -> None:
        self.answers = answers
        self.asked: list[str] = []

    def __call__(self, command: str) -> tuple[str | None, str]:
        self.asked.append(command)
        found = self.answers.get(command)
        return found, "" if found is not None else "the firmware does not know this command"


class BoardTree:
    """One board in a folder: `sys` is where its files lie."""

    def __init__(self, name: str, folder: Path) -> None:
        files, links, answers = read_tree(name)
        self.sys = folder / name
        self.firmware = Firmware(answers)
        self.clock = Clock()
        self.sys.mkdir()
        for path, content in files.items():
            self.write(path, content + "\n")
        for path, target in links.items():
            place = self.sys / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(target)

    def write(self, path: str, content: str | bytes) -> None:
        place = self.sys / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content if isinstance(content, bytes) else content.encode())

    def board(self, nvml=None) -> Board:
        return Board(str(self.sys), clock=self.clock, ask=self.firmware, nvml=lambda: nvml)

    def readings(self) -> dict[tuple[str, str], object]:
        """(name, quantity) -> reading, of one look."""
        return {(r.name, r.quantity): r for r in self.board().look()}
