"""The options of the runner's commands: `add_parser` gets one function's when its command was asked for."""

from __future__ import annotations

import argparse


def _delegate_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--delegate",
        action="append",
        default=[],
        metavar="NAME[:KEY=VALUE,...]",
        help="try this instead of the bundle's list: cpu, gpu, edgetpu, external:path=LIBRARY; several are tried in order",
    )
    parser.add_argument(
        "--require", choices=("cpu", "gpu", "edgetpu", "external"), help="exit 4 if another unit would serve"
    )


def infer_options(parser: argparse.ArgumentParser) -> None:
    """Of `infer`."""
    parser.add_argument("release")
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help=".npy, .npz, .wav or a picture")
    parser.add_argument("--top", type=_positive, default=1, help="how many classes to name (default 1)")
    parser.add_argument("--threads", type=_positive, help="CPU threads (default: the bundle's)")
    parser.add_argument("--variant", help="which variant (default: the first one)")
    _delegate_options(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--record", action="store_true", help="keep the raw inputs, for convert --from-device")
    parser.add_argument("--record-every", type=_positive, metavar="N", help="only each Nth of them; records")
    parser.add_argument("--record-most", type=_positive, metavar="N", help="the last N (default 500); records")


def check_options(parser: argparse.ArgumentParser) -> None:
    """Of `check`."""
    parser.add_argument("release")
    parser.add_argument("--threads", type=_positive, help="CPU threads (default: the bundle's)")
    parser.add_argument("--variant", help="which variant (default: all of them)")
    _delegate_options(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")


def bench_options(parser: argparse.ArgumentParser) -> None:
    """Of `bench`."""
    parser.add_argument("release")
    parser.add_argument("--runs", type=_positive, default=200, help="timed inferences (default 200)")
    parser.add_argument("--seconds", type=_seconds, default=0.0, help="and at least that long (default 0)")
    parser.add_argument("--mlperf", action="store_true", help="single stream: at least 1024 queries and 60 s")
    parser.add_argument("--warm", action="store_true", help="leave out the new processes: no cold start, no memory")
    parser.add_argument("--threads", type=_positive, help="CPU threads (default: the bundle's)")
    parser.add_argument("--variant", help="which variant (default: all of them)")
    _delegate_options(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")


def serve_options(parser: argparse.ArgumentParser) -> None:
    """Of `serve`."""
    parser.add_argument("release")
    parser.add_argument("--socket", metavar="PATH", help="a Unix socket, mode 0660 (default: ROOT/run/edgekit.sock)")
    parser.add_argument("--http", metavar="ADDRESS:PORT", help="TCP, with a token; 127.0.0.1:8080, say")
    parser.add_argument(
        "--token-file", metavar="PATH", help="what TCP clients send as bearer token (or LoadCredential)"
    )
    parser.add_argument("--allow-network", action="store_true", help="--http may be reached by other machines")
    parser.add_argument("--threads", type=_positive, help="CPU threads of one inference (default: the bundle's)")
    parser.add_argument("--lanes", type=_positive, default=1, help="inferences at the same time (default 1)")
    parser.add_argument("--variant", help="which variant (default: the first one)")
    _delegate_options(parser)
    parser.add_argument(
        "--max-body", type=_positive, default=16, metavar="MIB", help="of a request (default 16); JSON in memory is 10x"
    )
    parser.add_argument("--goal", metavar="GOAL", help="of power (docs/power.md), with --table; default: the bundle's")
    parser.add_argument("--table", metavar="FILE", help="what edgekit power calibrate wrote for this board")
    parser.add_argument("--trace", metavar="FILE", help="keep what happened, for edgekit power audit")
    parser.add_argument("--clocks", action="store_true", help="also set clocks, through edgekit-powerd")


def first_options(parser: argparse.ArgumentParser) -> None:
    """Of `first`."""
    parser.add_argument("release")
    parser.add_argument("--variant")
    parser.add_argument("--threads", type=_positive)
    _delegate_options(parser)


def try_options(parser: argparse.ArgumentParser) -> None:
    """Of `try`."""
    parser.add_argument("release")
    parser.add_argument("--variant")
    parser.add_argument("--threads", type=_positive, default=1)
    parser.add_argument("--config", required=True)


def power_options(parser: argparse.ArgumentParser) -> None:
    """Of `power`."""
    parser.add_argument("release", nargs="?", help="not needed; what `run power` gives")
    parser.add_argument("--seconds", type=_seconds, default=1.0, help="how long to watch (default 1; 0 is one look)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _positive(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return value


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 86400:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from 0 to 86400")
    return value
