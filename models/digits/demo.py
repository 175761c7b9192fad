"""The whole way of the digits network: train, convert, deploy, infer on the device; prints each command before it runs it.

python models/digits/demo.py                    this machine is the device (local:build/demo/device)
python models/digits/demo.py --ssh pi@host      a real board
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.cli.show import show_table, size_text

HERE = Path(__file__).parent


def run(*words: str, quiet: bool = False, stdin: Path | None = None) -> str:
    """Prints a command, runs it, and returns what it printed; a failure ends the demo with the command's exit code."""
    print(f"\n$ {shlex.join(words)}" + (f" < {stdin}" if stdin else ""), flush=True)
    with Path(stdin or os.devnull).open("rb") as given:
        done = subprocess.run(words, stdin=given, stdout=subprocess.PIPE, text=True)
    if not quiet or done.returncode != 0:
        print(done.stdout, end="", flush=True)
    if done.returncode != 0:
        sys.exit(done.returncode)
    return done.stdout


def main() -> None:
    """Runs the demo and ends with the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ssh", metavar="user@host[:port]", help="a board; default: this machine")
    parser.add_argument("--out", type=Path, default=Path("build/demo"))
    options = parser.parse_args()
    started = time.monotonic()
    out = options.out
    data, bundle = out / "digits", out / "bundle"
    device = options.ssh or f"local:{out / 'device'}"

    run(sys.executable, str(HERE / "train.py"), "--out", str(data))
    convert = [
        "edgekit",
        "convert",
        str(data / "digits.keras"),
        "-o",
        str(bundle),
        "--samples",
        str(data / "samples.npz"),
    ]
    convert += ["--evaluate", str(data / "evaluate.npz"), "--preprocess", str(HERE / "preprocess.toml")]
    run(*convert, "--labels", str(HERE / "labels.txt"), "--mode", "int8", "--mode", "float32")
    run("edgekit", "inspect", str(bundle))
    run("edgekit", "deploy", str(bundle), device)
    status = json.loads(run("edgekit", "status", device, "--json", quiet=True))

    runner = f"{status['root']}/current/run"
    unseen = data / "unseen.npz"
    on_device, there, finish = _reach(options.ssh, unseen)
    check = json.loads(run(*on_device, runner, "check", "--json", quiet=True))
    bench = json.loads(run(*on_device, runner, "bench", "--runs", "2000", "--json", quiet=True))
    answers = {
        name: json.loads(run(*on_device, runner, "infer", there, "--variant", name, "--json", quiet=True))["answers"]
        for name in ("float32", "int8")
    }
    if finish:
        run(*finish)
    _show(json.loads((bundle / "manifest.json").read_text()), check, bench, answers, np.load(unseen)["y"])
    print(
        f"\nthe device is {device}: {status['board'] or status['system']}, Python {status['python']} on {status['arch']}"
    )
    print(f"finished in {time.monotonic() - started:.0f} s; try: {runner} infer {there} --top 3")


def _reach(ssh: str | None, unseen: Path) -> tuple[list[str], str, list[str]]:
    """The words that run a command on the device, where the unseen digits lie there, and how to clean up after."""
    if ssh is None:
        return [], str(unseen), []
    host, _, port = ssh.partition(":")
    on_device = ["ssh", *(["-p", port] if port else []), host]
    run(*on_device, "cat > edgekit-unseen.npz", stdin=unseen)
    return on_device, "edgekit-unseen.npz", [*on_device, "rm", "edgekit-unseen.npz"]


def _show(manifest: dict[str, Any], check: Any, bench: Any, answers: dict[str, Any], truth: np.ndarray) -> None:
    """The table at the end: float beside int8, every number measured in this run."""
    quality = next(q for q in manifest["variants"][0]["qualities"] if q["metric"] == "top-1 accuracy")
    found = {name: np.array([row["top"][0]["class"] for row in rows]) for name, rows in answers.items()}
    sizes = {name: manifest["files"][f"models/{name}.tflite"]["size"] for name in found}
    timed = {row["variant"]: row for row in bench["variants"]}
    golden = {row["variant"]: row for row in check["variants"]}
    columns = ("float32", "int8")

    def row(what: str, tell: Callable[[str], str]) -> tuple[str, ...]:
        return (what, *(tell(column) for column in columns))

    held_out = {"float32": quality["float_value"], "int8": quality["value"]}
    rows = [
        row(f"accuracy, {quality['count']} held-out digits, workstation", lambda c: f"{held_out[c]:.2%}"),
        row(f"accuracy, {len(truth)} unseen digits, device", lambda c: f"{np.mean(found[c] == truth):.2%}"),
        row("size of the model file", lambda c: size_text(sizes[c])),
        row("one answer on the device, median", lambda c: f"{timed[c]['median_us']:.1f} us"),
        row("one answer on the device, p99", lambda c: f"{timed[c]['p99_us']:.1f} us"),
        row("new process to first answer", lambda c: f"{timed[c]['cold_start_ms']:.0f} ms"),
        row("golden answers equal to the bit", lambda c: f"{golden[c]['bit_equal']} of {golden[c]['count']}"),
        row("largest difference to one", lambda c: f"{golden[c]['largest_difference']:g}"),
        row("allowed difference", lambda c: f"{golden[c]['tolerance']:g}"),
    ]
    print()
    show_table(("measured in this run", *columns), rows)


if __name__ == "__main__":
    main()
