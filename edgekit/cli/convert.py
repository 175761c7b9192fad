"""`edgekit convert`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from edgekit.cli.inspect import show_qualities
from edgekit.cli.show import json_option, show_facts, show_json, showing_progress, size_text
from edgekit.cli.targets import TARGET

EXAMPLES = """\b
Examples:
  edgekit convert model.keras -o bundle --samples samples.npz
  edgekit convert model.h5 -o bundle --samples samples.npz \\
      --evaluate labelled.npz --target rpi4 --labels labels.txt
  edgekit convert saved_model/ -o bundle --samples raw.npz \\
      --preprocess image.toml
"""
FILE = click.Path(path_type=Path)


@click.command("convert", epilog=EXAMPLES)
@click.argument("model", type=FILE)
@click.option(
    "-o", "--output", required=True, type=FILE, help="The bundle's folder; an older bundle there is replaced."
)
@click.option("--samples", required=True, type=FILE, help=".npz or .npy with about 100 typical inputs, (n, ...).")
@click.option(
    "--evaluate", type=FILE, help=".npz with held-out inputs and their labels as y: measures the task metric."
)
@click.option("--target", type=TARGET, help="The kind of board (see edgekit targets); default: any.")
@click.option("--preprocess", "spec", type=FILE, help="TOML: how a raw input becomes what the model sees.")
@click.option("--labels", type=FILE, help="Text file, one class name a line.")
@click.option("--keep-float", is_flag=True, help="Also put the float32 model into the bundle.")
@click.option("--name", help="The bundle's name; default: the model file's.")
@click.option(
    "--metric", metavar="NAME|FILE.py:FUNCTION", help="top-1, top-5, auc, f1, mae or your own; default: what fits y."
)
@click.option(
    "--max-drop",
    type=click.FloatRange(0, 100),
    default=1.0,
    show_default=True,
    help="What int8 may lose: points of the metric (errors: % of float's). More: exit 6, no bundle.",
)
@click.option("--report", type=FILE, help="The HTML report; default: BUNDLE.report.html, also when int8 is refused.")
@click.option("--no-report", is_flag=True, help="Write no report.")
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
def convert_command(
    typed: list[str], /, as_json: bool, report: Path | None, no_report: bool, **options: object
) -> None:
    """Make a bundle of MODEL (.keras, .h5 or SavedModel): full int8, checked operator by operator, measured.

    Without labels (--evaluate) int8 has to give the float model's class for 95 % of the samples, or reach 10 dB SQNR.
    """
    from edgekit.convert import convert

    page = False if no_report else report or True
    with showing_progress(as_json) as progress:
        result = convert(**options, report=page, command=command_of(typed), progress=progress)  # type: ignore[arg-type]
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
                "verdict": result.verdict,
                "layers": result.comparison.layers,
                "report": result.report,
                "warnings": result.warnings,
            }
        )
        return
    show_facts(
        [
            ("bundle", f"{result.bundle.path} ({result.bundle.id})"),
            ("size", f"{size_text(result.float_bytes)} float, {size_text(result.int8_bytes)} int8"),
            ("float .tflite", f"within {result.float_difference:.1e} of the source model, relative"),
            ("calibrated on", f"{result.calibration_count} samples"),
            ("int8", "every operator, weights per channel in {} of {} layers".format(*result.per_channel_weights)),
            ("gate", f"passed: {result.verdict.sentence}"),
            ("report", result.report),
        ]
    )
    click.echo()
    show_qualities(result.variants[0].qualities)


# what says nothing about the bundle's content: where it goes and what else is written or printed; True: a value follows
_ELSEWHERE = {"-o": True, "--output": True, "--report": True, "--no-report": False, "--json": False}


def command_of(typed: Sequence[str]) -> list[str]:
    """The command for the manifest, as typed, without the options that say nothing about what is in the bundle."""
    words = ["edgekit"]
    rest = iter(typed)
    for word in rest:
        if word in _ELSEWHERE:
            if _ELSEWHERE[word]:
                next(rest, None)
        elif not word.startswith(("--output=", "--report=")) and not (word.startswith("-o") and word != "-o"):
            words.append(word)
    return words
