"""`edgekit convert`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from edgekit.cli.inspect import show_qualities
from edgekit.cli.lint import show_findings
from edgekit.cli.show import json_option, show_facts, show_json, showing_progress, size_text
from edgekit.cli.targets import TARGET

EXAMPLES = """\b
Examples:
  edgekit convert model.keras -o bundle --samples samples.npz
  edgekit convert model.h5 -o bundle --samples samples.npz \\
      --evaluate labelled.npz --target rpi4 --labels labels.txt
  edgekit convert saved_model/ -o bundle --samples photos/ \\
      --preprocess image.toml
"""
SOURCES = ".npz, .npy, a folder of images or WAV files, .csv, .tfrecord, or file.py:function, which is run"
FILE = click.Path(path_type=Path)


@click.command("convert", epilog=EXAMPLES)
@click.argument("model", type=FILE)
@click.option(
    "-o", "--output", required=True, type=FILE, help="The bundle's folder; an older bundle there is replaced."
)
@click.option("--samples", required=True, type=FILE, help=f"About 100 typical inputs: {SOURCES}.")
@click.option(
    "--evaluate", type=FILE, help="Held-out inputs with labels (npz, CSV: y; folders: classes): the task metric."
)
@click.option(
    "--max-samples", type=click.IntRange(min=2), default=500, show_default=True, help="Used for ranges at most."
)
@click.option("--target", type=TARGET, help="The kind of board (see edgekit targets); default: any.")
@click.option("--preprocess", "spec", type=FILE, help="TOML: how a raw input becomes what the model sees.")
@click.option("--labels", type=FILE, help="Text file, one class name a line.")
@click.option("--keep-float", is_flag=True, help="Also put the float32 model into the bundle.")
@click.option("--strict", is_flag=True, help="A warning of the lint is an error: exit 6, nothing is written.")
@click.option("--name", help="The bundle's name; default: the model file's.")
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=0, min_open=True),
    default=1800.0,
    show_default=True,
    help="Seconds TensorFlow may take.",
)
@json_option
@click.pass_obj
def convert_command(typed: list[str], /, as_json: bool, **options: object) -> None:
    """Make a bundle of MODEL (.keras, .h5 or SavedModel): full int8, checked operator by operator, measured."""
    from edgekit.convert import convert

    with showing_progress(as_json) as progress:
        result = convert(**options, command=command_of(typed), progress=progress)  # type: ignore[arg-type]
    for warning in result.warnings:
        click.secho(f"warning: {warning}", err=True, fg="yellow")
    if as_json:
        show_json(
            {
                "bundle": str(result.bundle.path),
                "id": result.bundle.id,
                "float_bytes": result.float_bytes,
                "int8_bytes": result.int8_bytes,
                "float_difference": result.float_difference,
                "calibration_count": result.calibration_count,
                "per_channel_weights": result.per_channel_weights,
                "variants": result.variants,
                "warnings": result.warnings,
                "findings": result.findings,
                "convergence": result.convergence,
            }
        )
        return
    show_facts(
        [
            ("bundle", f"{result.bundle.path} ({result.bundle.id})"),
            ("size", f"{size_text(result.float_bytes)} float, {size_text(result.int8_bytes)} int8"),
            ("float .tflite", f"within {result.float_difference:.1e} of the source model, relative"),
            ("calibrated on", f"{result.calibration_count} samples" + _settled(result.convergence)),
            ("int8", "every operator, weights per channel in {} of {} layers".format(*result.per_channel_weights)),
        ]
    )
    click.echo()
    show_qualities(result.variants[0].qualities)
    show_findings(result.findings)


def _settled(curve: Sequence[tuple[int, float]]) -> str:
    """`, ranges settle after 32`, where they do."""
    from edgekit.convert.selection import enough

    count = enough(curve)
    return f", ranges settle after {count}" if count is not None else ""


def command_of(typed: Sequence[str]) -> list[str]:
    """The command for the manifest, as typed, without -o and --json: they say nothing about what is in the bundle."""
    words = ["edgekit"]
    rest = iter(typed)
    for word in rest:
        if word in ("-o", "--output"):
            next(rest, None)
        elif word != "--json" and not word.startswith("--output=") and not (word.startswith("-o") and word != "-o"):
            words.append(word)
    return words
