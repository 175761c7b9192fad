"""`python3 -m edgekit.runner`: infer, check and bench a release on the machine it is on.

Exit codes as in edgekit.errors.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

from edgekit import __version__
from edgekit.errors import EdgekitError

EXAMPLES = """examples:
  python3 -m edgekit.runner infer RELEASE digit.npy             one answer a line
  python3 -m edgekit.runner infer RELEASE *.npy --json          machine-readable
  python3 -m edgekit.runner check RELEASE                       golden vectors: exit 5 if they do not agree
  python3 -m edgekit.runner bench RELEASE --runs 1000           latency and cold start, measured here
RELEASE is a release or bundle folder; infer also takes a bare .tflite."""


def main(argv: list[str] | None = None) -> int:
    """Runs one command and returns its exit code; errors go to stderr as one line what and one line what to do."""
    options = _parser().parse_args(argv)
    try:
        options.command(options)
    except EdgekitError as error:
        print(f"edgekit.runner: {error}", file=sys.stderr)
        if error.hint:
            print(f"  {error.hint}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:  # the reader of our output went away: `| head`
        sys.stderr.close()
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python3 -m edgekit.runner",
        description="Runs a release on this machine.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"edgekit {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    infer = commands.add_parser("infer", help="answer to input files")
    infer.add_argument("release", type=Path)
    infer.add_argument("inputs", type=Path, nargs="+", metavar="INPUT", help=".npy, .npz, .wav or a picture")
    infer.add_argument("--top", type=_positive, default=1, help="how many classes to name (default 1)")
    infer.add_argument("--threads", type=_positive, help="CPU threads (default: the bundle's)")
    infer.set_defaults(command=_infer)

    check = commands.add_parser("check", help="compare with the golden vectors")
    check.add_argument("release", type=Path)
    check.set_defaults(command=_check)

    bench = commands.add_parser("bench", help="measure latency and cold start")
    bench.add_argument("release", type=Path)
    bench.add_argument("--runs", type=_positive, default=200, help="timed inferences (default 200)")
    bench.add_argument("--threads", type=_positive, help="CPU threads (default: the bundle's)")
    bench.set_defaults(command=_bench)

    first = commands.add_parser("first")  # no help: what `bench` starts to time a cold start
    first.add_argument("release", type=Path)
    first.set_defaults(command=_first)
    for command in (infer, bench, first):
        command.add_argument("--variant", help="which variant (default: infer the first one, bench all)")
    for command in (infer, check, bench):
        command.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _infer(options: Any) -> None:
    from edgekit.runner.inputs import describe_answer, read_input
    from edgekit.runner.model import load

    model = load(options.release, variant=options.variant, threads=options.threads)
    rows = []
    for path in options.inputs:
        given = read_input(path, model)
        for index, answer in enumerate(_answers(model, given)):
            best = describe_answer(model, answer, top=options.top)
            rows.append({"input": str(path), "index": index, "top": best})
            if not options.json:
                print(f"{path}[{index}]  " + "  ".join(_words(item) for item in best))
    if options.json:
        print(json.dumps({"variant": model.variant.name, "answers": rows}))


def _answers(model: Any, given: Any) -> list[Any]:
    """A list of answers to the first output, whether a sample or a batch was given."""
    answer = model(given)
    first = model.outputs[0]
    values = answer[first.name] if isinstance(answer, dict) else answer
    has_batch = first.shape[:1] == (1,)
    return list(values) if values.ndim > len(first.shape) - has_batch else [values]


def _words(item: dict[str, Any]) -> str:
    return f"{item['label']} {item['score']:.3f}" if "label" in item else f"{item['value']:g}"


def _check(options: Any) -> None:
    from edgekit.runner.check import check_release
    from edgekit.runner.interpreter import runtime_version

    found = check_release(options.release)
    if options.json:
        rows = [dataclasses.asdict(agreement) for agreement in found]
        print(json.dumps({"runtime": runtime_version(), "variants": rows}))
        return
    for agreement in found:
        print(
            f"{agreement.variant}: {agreement.bit_equal} of {agreement.count} golden answers equal to the bit, "
            f"largest difference {agreement.largest_difference:g} (allowed {agreement.tolerance:g})"
        )


def _bench(options: Any) -> None:
    from edgekit.runner.measure import measure_release

    found = measure_release(options.release, runs=options.runs, threads=options.threads, variant=options.variant)
    if options.json:
        print(json.dumps({"variants": [dataclasses.asdict(latency) for latency in found]}))
        return
    for latency in found:
        print(
            f"{latency.variant}: median {latency.median_us:g} us, p99 {latency.p99_us:g} us over {latency.runs} runs, "
            f"new process to first answer {latency.cold_start_ms:g} ms (measured, {latency.runtime})"
        )


def _first(options: Any) -> None:
    from edgekit.bundle import read_bundle
    from edgekit.runner.check import golden_inputs, read_golden
    from edgekit.runner.model import load

    model = load(options.release, variant=options.variant)
    model(golden_inputs(model, read_golden(read_bundle(options.release)))[0])
    print("answered", flush=True)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


if __name__ == "__main__":
    sys.exit(main())
