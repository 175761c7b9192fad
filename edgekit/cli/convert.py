"""`edgekit convert`."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from edgekit.cli.show import json_option, mebibytes, show_facts, show_json, show_table, showing_progress
from edgekit.cli.targets import TARGET

EXAMPLES = """\b
Examples:
  edgekit convert model.keras -o bundle --samples samples.npz
  edgekit convert model.h5 -o bundle --samples samples.npz \\
      --evaluate labelled.npz --target rpi4 --labels labels.txt
  edgekit convert saved_model/ -o bundle --samples raw.npz --preprocess image.toml
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
@click.option("--timeout", "timeout_s", default=1800.0, show_default=True, help="Seconds TensorFlow may take.")
@json_option
def convert_command(as_json: bool, **options: object) -> None:
    """Make a bundle of MODEL (.keras, .h5 or SavedModel): full int8, checked operator by operator, measured."""
    from edgekit.convert import convert

    with showing_progress(as_json) as progress:
        result = convert(**options, command=_command(options), progress=progress)  # type: ignore[arg-type]
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
                "variants": result.variants,
                "warnings": result.warnings,
            }
        )
        return
    show_facts(
        [
            ("bundle", f"{result.bundle.path} ({result.bundle.id})"),
            ("size", f"{mebibytes(result.float_bytes)} float, {mebibytes(result.int8_bytes)} int8"),
            ("float .tflite", f"within {result.float_difference:.1e} of the source model, relative"),
            ("calibrated on", f"{result.calibration_count} samples"),
        ]
    )
    rows = [(q.metric, q.value, q.float_value, q.count) for v in result.variants for q in v.qualities]
    show_table(("measured here", "int8", "float", "inputs"), rows)


def _command(options: dict[str, object]) -> list[str]:
    """The command for the manifest, without -o: where a bundle lies says nothing about what is in it."""
    words = ["edgekit", "convert", str(options["model"])]
    names = {"spec": "preprocess", "timeout_s": "timeout"}
    for name, value in sorted(options.items()):
        if name in ("model", "output", "timeout_s") or value in (None, False):
            continue
        flag = f"--{names.get(name, name).replace('_', '-')}"
        words += [flag] if value is True else [flag, str(value)]
    return shlex.split(shlex.join(words))
