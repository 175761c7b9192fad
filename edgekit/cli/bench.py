"""`edgekit bench` and `edgekit tune`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekit.cli.device import DEVICE_HELP, ask_beside, device_options
from edgekit.cli.show import ProgressLine, show_facts, show_json, show_table, showing_progress

if TYPE_CHECKING:
    from edgekit.bench.grid import Result
    from edgekit.bundle import Bundle
    from edgekit.deploy.address import Address

BUNDLE = click.argument("bundle", type=click.Path(path_type=Path), metavar="BUNDLE")
DEVICE = click.argument("device", required=False, metavar="[DEVICE]")


def candidate_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """What both take to say what there is to choose from."""
    options = (
        click.option("--variant", "variants", multiple=True, help="Only this one; several. Default: all."),
        click.option(
            "--delegate",
            "delegates",
            multiple=True,
            metavar="NAME[:KEY=VALUE,...]",
            help="Instead of the bundle's: cpu, gpu:precision=f32, edgetpu, external:path=LIBRARY; several.",
        ),
        click.option(
            "--threads", multiple=True, type=click.IntRange(1, 1024), help="Of the cpu; several. Default: 1, 2, 4 ..."
        ),
    )
    for option in reversed(options):
        function = option(function)
    return function


@click.command(
    "bench",
    epilog=DEVICE_HELP
    + "\n\b\nExamples:\n  edgekit bench bundle\n  edgekit bench bundle pi@raspberrypi.local --html bench.html\n"
    "  edgekit bench bundle --delegate gpu --delegate cpu --threads 4 --mlperf",
)
@BUNDLE
@DEVICE
@candidate_options
@click.option("--runs", type=click.IntRange(1), default=200, show_default=True, help="Inferences of each, at least.")
@click.option("--seconds", type=click.FloatRange(0, 200), default=1.0, show_default=True, help="And at least so long.")
@click.option("--mlperf", is_flag=True, help="MLPerf's single stream: 1,024 queries and 60 s, 90th percentile.")
@click.option("--svg", type=click.Path(path_type=Path), help="Also draw it into this file.")
@click.option("--html", type=click.Path(path_type=Path), help="Also write a page with drawing and table.")
@device_options
def bench_command(
    bundle: Path,
    device: Address | None,
    variants: tuple[str, ...],
    delegates: tuple[str, ...],
    threads: tuple[int, ...],
    runs: int,
    seconds: float,
    mlperf: bool,
    svg: Path | None,
    html: Path | None,
    python: str,
    as_json: bool,
) -> None:
    """Measure BUNDLE's variants on each delegate and thread count, here or on DEVICE (where it is deployed).

    Each in a process of its own: warm-up, steady state, percentiles, new process to first answer, memory, energy where there is a
    meter. A run that was throttled or noisy is made again, three times at most, and stays marked. FAKE and software units have no
    times. The Python interpreters tell no time of single operators, so there is no such table.
    """
    from edgekit.bench.candidate import candidates
    from edgekit.bench.grid import measure_all
    from edgekit.bench.picture import page, write_text
    from edgekit.bench.picture import svg as drawing
    from edgekit.bundle import read_bundle

    read = read_bundle(bundle)
    with showing_progress(as_json) as progress, _open(read, device, python, progress) as place:
        chosen = candidates(read, variants=variants, delegates=delegates, threads=threads, cores=place.cores)
        how: Mapping[str, Any] = {"runs": runs, "seconds": seconds, "mlperf": mlperf}
        found = measure_all(place, chosen, progress=_counted(progress), **how)
        name = place.name
    title = f"{read.manifest.name} on {name}"
    runtime = next((result.figures["runtime"] for result in found if result.figures), "none")
    about = [("bundle", f"{read.manifest.name} ({read.id})"), ("machine", name), ("runtime", runtime)]
    if svg is not None:
        write_text(svg, drawing(found, title))
    if html is not None:
        write_text(html, page(found, title, about))
    if as_json:
        show_json({"bundle": read.id, "machine": name, **how, "results": [_plain(result) for result in found]})
        return
    show_facts(about)
    _show(found)


@click.command(
    "tune",
    epilog=DEVICE_HELP + "\n\b\nExamples:\n  edgekit tune bundle pi@raspberrypi.local --objective latency\n"
    "  edgekit tune bundle --objective throughput --max-ms 20 -o tuned",
)
@BUNDLE
@DEVICE
@candidate_options
@click.option(
    "--objective",
    type=click.Choice(["latency", "throughput", "energy"]),
    default="latency",
    show_default=True,
    help="What is to be little: 90th percentile, median, or microjoules of an inference.",
)
@click.option("--max-ms", type=click.FloatRange(0, min_open=True), help="The 99th percentile may not be above it.")
@click.option("--min-accuracy", type=float, help="The variant's first metric in the bundle may not be below it.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write the bundle here. Default: BUNDLE itself.")
@click.option("--dry-run", is_flag=True, help="Say what wins; write nothing.")
@device_options
def tune_command(
    bundle: Path,
    device: Address | None,
    variants: tuple[str, ...],
    delegates: tuple[str, ...],
    threads: tuple[int, ...],
    objective: str,
    max_ms: float | None,
    min_accuracy: float | None,
    output: Path | None,
    dry_run: bool,
    python: str,
    as_json: bool,
) -> None:
    """Find the fastest or most frugal way to run BUNDLE, here or on DEVICE, and write it into the bundle.

    Successive halving: every candidate gets a short run, the better half a longer one, and so on. What wins is proved by the
    golden vectors there, becomes the first delegate of the default variant, and reaches a device with the next edgekit deploy.
    """
    from edgekit.bench.candidate import candidates
    from edgekit.bench.tune import configured, tune
    from edgekit.bundle import check_replaceable, read_bundle, verify_bundle, write_bundle

    read = read_bundle(bundle)
    verify_bundle(read)
    place_of = output or bundle
    if not dry_run:
        check_replaceable(place_of)
    with showing_progress(as_json) as progress, _open(read, device, python, progress) as place:
        chosen = candidates(read, variants=variants, delegates=delegates, threads=threads, cores=place.cores)
        tuned = tune(
            *(place, read, chosen, objective),
            max_ms=max_ms,
            min_accuracy=min_accuracy,
            progress=_counted(progress),
        )
        name = place.name
    written = None
    if not dry_run:
        contents = {file: read.file(file).read_bytes() for file in read.manifest.files}
        manifest = dataclasses.replace(read.manifest, **configured(read, tuned.winner.candidate))  # type: ignore[arg-type]
        written = write_bundle(place_of, manifest, contents)
    if as_json:
        fields = {"machine": name, "objective": objective, "winner": _plain(tuned.winner), "trials": tuned.trials}
        show_json({**fields, "bundle": None if written is None else {"path": written.folder, "id": written.id}})
        return
    show_facts([("machine", name), ("objective", objective), ("winner", tuned.winner.candidate.text)])
    show_table(
        ("candidate", "rounds", "score", "unit", "outcome"),
        [(t.candidate, t.rounds, t.score, t.unit if t.score is not None else "", t.why) for t in tuned.trials],
    )
    for why in tuned.winner.invalid:
        click.echo(f"the winner's last run is not a good measurement: {why}", err=True)
    if written is not None:
        click.echo(f"{written.folder} is bundle {written.id} now; edgekit deploy puts it on a device")


def _open(bundle: Bundle, device: Address | None, python: str, progress: ProgressLine) -> Any:
    from edgekit.bench.place import open_place

    return open_place(bundle, device, python=python, ask=lambda *key: ask_beside(progress, *key))


def _counted(progress: ProgressLine) -> Callable[[str, int, int], None]:
    return lambda what, done, total: progress(f"{what} ({min(done + 1, total)} of {total})")


def _show(found: list[Result]) -> None:
    from edgekit.bench.picture import COLUMNS, figures

    rows = [figures(result) for result in found]
    used = [index for index, name in enumerate(COLUMNS) if index < 7 or any(row[index] for row in rows)]
    names = tuple(COLUMNS[index] for index in used)
    show_table(
        names, [[row[index] for index in used] for row in rows], right=("p50", "p90", "p99", "first answer", "memory")
    )


def _plain(result: Result) -> dict[str, Any]:
    from edgekit.delegates import delegate_text

    delegate = delegate_text(result.candidate.delegate)
    fields = {
        "variant": result.candidate.variant,
        "delegate": delegate,
        "served_by": result.served_by,
        "tries": result.tries,
    }
    return {**fields, "failed": result.failed, "invalid": result.invalid, "figures": result.figures}
