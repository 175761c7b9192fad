"""The command line beside a Python that does nothing: `edgekit --help` and `--version`."""

import argparse
import subprocess
import sys
import time
from pathlib import Path

from benches import Row, child_environment, in_turns, limit_row, ratio_row


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=21, help="new processes of each kind (default 21)")


def measure(options: argparse.Namespace) -> list[Row]:
    command = Path(sys.executable).with_name("edgekit")
    nothing = _timed([sys.executable, "-c", "pass"])
    click = _timed([sys.executable, "-c", "import click"])
    bare, helped = in_turns(nothing, _timed([str(command), "--help"]), options.rounds)
    with_click, version = in_turns(click, _timed([str(command), "--version"]), options.rounds)
    return [
        limit_row("edgekit --help", helped, "ms", at_most=150),
        ratio_row("edgekit --help beside an empty python", bare, helped, "ms", at_most=8),
        ratio_row("edgekit --version beside `import click`", with_click, version, "ms", at_most=1.5),
    ]


def _timed(command: list[str]):
    def run() -> float:
        started = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=child_environment())
        return (time.perf_counter() - started) * 1000

    return run
