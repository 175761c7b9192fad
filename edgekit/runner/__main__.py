"""`python3 -m edgekit.runner`: infer, check, bench and serve a release on the machine it is on, and read its power sensors.

Exit codes as in edgekit.errors.
"""

from __future__ import annotations

import argparse
import functools
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from edgekit import __version__
from edgekit.errors import DeviceFull, DeviceRefused, EdgekitError
from edgekit.runner import options as command_options

EXAMPLES = """examples:
  python3 -m edgekit.runner infer RELEASE digit.npy             one answer a line
  python3 -m edgekit.runner infer RELEASE *.npy --json          machine-readable
  python3 -m edgekit.runner infer RELEASE *.npy --record        also keep the inputs, to convert with
  python3 -m edgekit.runner check RELEASE                       golden vectors: exit 5 if they do not agree
  python3 -m edgekit.runner check RELEASE --require edgetpu     exit 4 if something else would serve
  python3 -m edgekit.runner bench RELEASE --runs 1000           latency and cold start, measured here
  python3 -m edgekit.runner rehearse RELEASE --goal GOAL --table T.json    keep a goal of power: docs/power.md
  python3 -m edgekit.runner serve RELEASE --socket r.sock       answer clients: Open Inference Protocol, JSON
  python3 -m edgekit.runner power --seconds 5                   power, heat and clocks of this machine
RELEASE is a release or bundle folder; infer also takes a bare .tflite."""


def main(argv: list[str] | None = None) -> int:
    """Runs one command and returns its exit code; errors go to stderr as one line what and one line what to do."""
    try:
        if hasattr(sys.stdout, "reconfigure"):
            sys.stdout.reconfigure(errors="backslashreplace")  # labels of any language on any terminal
        argv = sys.argv[1:] if argv is None else argv
        options = _parser(argv).parse_args(argv)
        with warnings.catch_warnings():
            warnings.showwarning = _plain_warning  # type: ignore[assignment]
            options.command(options)
        sys.stdout.flush()
    except EdgekitError as error:
        print(f"edgekit.runner: {error}", file=sys.stderr)
        if error.hint:
            print(f"  {error.hint}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:  # the reader of our output went away: `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or Python complains when it flushes at the end
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _parser(argv: Sequence[str]) -> argparse.ArgumentParser:
    prog = "python3 -m edgekit.runner"
    # a width and a prog of our own: argparse would import shutil and all its archive formats to find them out
    formatter = functools.partial(argparse.RawDescriptionHelpFormatter, width=100)
    parser = argparse.ArgumentParser(
        prog=prog, description="Runs a release on this machine.", epilog=EXAMPLES, formatter_class=formatter
    )
    parser.add_argument("--version", action="version", version=f"edgekit {__version__}")
    commands = parser.add_subparsers(prog=prog, required=True, metavar="COMMAND")
    for name, (about, add_options, run) in _COMMANDS.items():
        listed: dict[str, Any] = {"help": about} if about else {}
        command = commands.add_parser(name, **listed, formatter_class=formatter)
        if name in argv[:1]:  # the options of the others would take 2 ms
            add_options(command)
            command.set_defaults(command=run)
    return parser


def _plain_warning(message: Any, *where: Any) -> None:
    """A fallback to another unit, say: what a person has to know, without a line of source code."""
    print(f"edgekit.runner: {message}", file=sys.stderr)


def _infer(options: Any) -> None:
    from dataclasses import asdict

    from edgekit.runner.answers import answer_words, describe_answers
    from edgekit.runner.inputs import read_input
    from edgekit.runner.model import load

    model = load(options.release, **_chosen(options), threads=options.threads)
    records = options.record or options.record_every or options.record_most
    keep = _recorder(options, model) if records else None
    rows: list[dict[str, Any]] = []
    for path in options.inputs:
        given = read_input(path, model)
        answer = model(given)
        if keep is not None:
            keep(given)
        for index, found in enumerate(describe_answers(model, answer, top=options.top)):
            if options.json:
                rows.append({"input": path, "index": index, **found})
            else:
                print(f"{path}[{index}]  {answer_words(found)}")
    if options.json:
        _print_json({"variant": model.variant.name, "placement": asdict(model.placement), "answers": rows})


def _chosen(options: Any) -> dict[str, Any]:
    """What `load` and `check_release` take of the options."""
    return {"variant": options.variant, "delegates": options.delegate, "require": options.require}


def _recorder(options: Any, model: Any) -> Callable[[Any], None]:
    """A function that keeps what was given; where it cannot, it says so once and the answers go on."""
    from edgekit.runner.record import MOST, Recording, folder_of

    every, most = options.record_every or 1, options.record_most or MOST
    recording = Recording(folder_of(options.release), every=every, most=most)
    told: list[EdgekitError] = []

    def keep(given: Any) -> None:
        try:
            recording.keep(model.samples(given))
        except (DeviceFull, DeviceRefused) as error:
            if not told:
                print(f"edgekit.runner: {error}\n  {error.hint}", file=sys.stderr)
            told.append(error)

    return keep


def _check(options: Any) -> None:
    from dataclasses import asdict

    from edgekit.runner.check import check_release
    from edgekit.runner.interpreter import runtime_version
    from edgekit.runner.placement import words

    found = check_release(options.release, **_chosen(options), threads=options.threads)
    if options.json:
        rows = [{**asdict(agreement), "placement": asdict(placement)} for agreement, placement in found]
        _print_json({"runtime": runtime_version(), "variants": rows})
        return
    for agreement, placement in found:
        print(
            f"{agreement.variant}: {agreement.bit_equal} of {agreement.count} golden answers equal to the bit, "
            f"largest difference {agreement.largest_difference:g} (allowed {agreement.tolerance:g})"
        )
        print(f"{agreement.variant}: {words(placement)}")


def _try(options: Any) -> None:
    from edgekit.runner.trial import run_trial

    _print_json(run_trial(options.release, options.variant, options.config, options.threads))


def _bench(options: Any) -> None:
    from dataclasses import asdict

    from edgekit.runner.measure import latency_lines, measure_release

    found = measure_release(
        options.release,
        **_chosen(options),
        **{name: getattr(options, name) for name in ("runs", "seconds", "mlperf", "threads")},
        cold=not options.warm,
    )
    if options.json:
        _print_json({"variants": [asdict(latency) for latency in found]})
        return
    for latency in found:
        for line in latency_lines(latency, mlperf=options.mlperf):
            print(line)


def _serve(options: Any) -> None:
    from edgekit.runner.serve.process import Settings, serve

    serve(
        Settings(
            options.release,
            variant=options.variant,
            threads=options.threads,
            lanes=options.lanes,
            socket=options.socket,
            http=options.http,
            token_file=options.token_file,
            to_network=options.allow_network,
            max_body_mib=options.max_body,
            delegates=options.delegate,
            require=options.require,
            goal=options.goal,
            table=options.table,
            trace=options.trace,
            clocks=options.clocks,
        )
    )


def _power(options: Any) -> None:
    from edgekit.runner.power.board import Board
    from edgekit.runner.power.table import power_lines
    from edgekit.runner.power.watch import watch

    found = watch(Board(), options.seconds)
    if options.json:
        _print_json(found)
        return
    for line in power_lines(found):
        print(line)


def _first(options: Any) -> None:
    from edgekit.bundle import read_bundle
    from edgekit.runner.check import golden_inputs, read_golden
    from edgekit.runner.model import load

    model = load(options.release, **_chosen(options), threads=options.threads)
    model(golden_inputs(model, read_golden(read_bundle(options.release)))[0])
    print("answered", flush=True)
    from edgekit.runner.measure import peak_bytes  # after the answer: importing it takes time

    print(peak_bytes() or "")


def _print_json(fields: dict[str, Any]) -> None:
    import json

    print(json.dumps(fields, allow_nan=False))


def _later(name: str) -> Callable[[Any], None]:
    """A function of power_commands, imported when it is used."""

    def call(given: Any) -> None:
        from edgekit.runner import power_commands

        getattr(power_commands, name)(given)

    return call


_COMMANDS: dict[str, tuple[str, Callable[[argparse.ArgumentParser], None], Callable[[Any], None]]] = {
    "infer": ("answer to input files", command_options.infer_options, _infer),
    "check": ("compare with the golden vectors", command_options.check_options, _check),
    "bench": ("measure latency and cold start", command_options.bench_options, _bench),
    "serve": ("answer clients over a socket", command_options.serve_options, _serve),
    "power": ("show power, heat and clocks of this machine", command_options.power_options, _power),
    "rehearse": (
        "answer golden inputs at a rate, under a goal of power",
        _later("rehearse_options"),
        _later("rehearse"),
    ),
    "powerd": ("set clock caps for others (root)", _later("powerd_options"), _later("powerd")),
    "point": ("", _later("point_options"), _later("point")),  # what `edgekit power calibrate` asks for; not listed
    "try": ("", command_options.try_options, _try),  # what `choose` starts; not listed
    "first": ("", command_options.first_options, _first),  # what `bench` starts to time a cold start; not listed
}

if __name__ == "__main__":
    sys.exit(main())
