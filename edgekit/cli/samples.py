"""`edgekit samples`, and how `convert` gets the inputs that a device recorded."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgekit.cli.device import DEVICE, DEVICE_HELP, STAGES, ask_beside, device_options
from edgekit.cli.show import ProgressLine, show_json, showing_progress, size_text

if TYPE_CHECKING:
    from edgekit.deploy.samples import Fetched


@click.command(
    "samples",
    epilog=DEVICE_HELP + "\n\b\nExamples:\n  edgekit samples pi@raspberrypi.local -o recorded\n"
    "  edgekit convert model.keras -o bundle --samples recorded\n"
    "The device records with: ROOT/current/run infer INPUT... --record",
)
@DEVICE
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="The folder to make of them.")
@device_options
def samples_command(device: str, output: Path, python: str, as_json: bool) -> None:
    """Fetch the raw inputs that DEVICE recorded, to convert with them."""
    with showing_progress(as_json) as progress:
        fetched = _fetch(device, output, python, progress)
    if as_json:
        show_json(fetched)
        return
    more = f"; {fetched.left_there} older ones stayed there" if fetched.left_there else ""
    click.echo(f"{fetched.folder}: {fetched.count} samples, {size_text(fetched.bytes)}, of {fetched.device}{more}")


@contextmanager
def samples_of(device: str | None, samples: Path | None, progress: ProgressLine) -> Iterator[Path]:
    """The samples that were given, or while this is open a folder of those that the device recorded."""
    if (device is None) == (samples is None):
        raise click.UsageError("give --samples or --from-device, one of them")
    if samples is not None:
        yield samples
        return
    assert device is not None
    with tempfile.TemporaryDirectory(prefix="edgekit-samples-") as scratch:
        folder = Path(scratch) / "recorded"
        _fetch(device, folder, "python3", progress)
        yield folder


def _fetch(device: str, folder: Path, python: str, progress: ProgressLine) -> Fetched:
    from edgekit.deploy.address import parse_address
    from edgekit.deploy.samples import fetch_samples

    return fetch_samples(
        parse_address(device),
        folder,
        python=python,
        ask=lambda *key: ask_beside(progress, *key),
        progress=lambda stage, done, total: progress(STAGES[stage], done, total),
    )
