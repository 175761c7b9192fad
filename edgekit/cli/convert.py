"""`edgekit convert`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgekit.cli.compile_edgetpu import COMPILER, finish
from edgekit.cli.inspect import show_qualities
from edgekit.cli.lint import show_findings
from edgekit.cli.samples import samples_of
from edgekit.cli.show import json_option, show_facts, show_json, show_table, showing_progress, size_text
from edgekit.cli.targets import TARGET
from edgekit.convert.modes import AUTO, END_TYPES, LEVELS, METRICS, MIXED, MODES, POLICIES

if TYPE_CHECKING:
    from edgekit.convert import ConversionResult

EXAMPLES = """\b
Examples:
  edgekit convert model.keras -o bundle --samples samples.npz
  edgekit convert model.h5 -o bundle --samples samples.npz \\
      --evaluate labelled.npz --target rpi4 --labels labels.txt
  edgekit convert float.tflite -o bundle --samples samples.npz \\
      --mode int8 --mode float32
  edgekit convert saved_model/ -o bundle --samples photos/ \\
      --preprocess image.toml
  edgekit convert net.onnx -o bundle --samples samples.npz
  edgekit convert make.py:net -o bundle --samples samples.npz
  edgekit convert model.keras -o bundle --samples samples.npz \\
      --custom layers.py
"""
SOURCES = ".npz, .npy, a folder of images, WAV files or .npz, .csv, .tfrecord, or file.py:function, which is run"
METRIC = f"{', '.join(METRICS)}; NAME@OUTPUT of several outputs; or your own. Default: what fits y."
FILE = click.Path(path_type=Path)


def samples_used(text: str) -> int | None:
    """What --max-samples means; `auto` is None."""
    if text == "auto":
        return None
    if not text.isascii() or not text.isdigit() or int(text) < 2:
        raise click.BadParameter(f"{text!r} is neither auto nor a number of at least 2")
    return int(text)


@click.command("convert", epilog=EXAMPLES)
@click.argument("model", type=FILE)
@click.option(
    "-o", "--output", required=True, type=FILE, help="The bundle's folder; an older bundle there is replaced."
)
@click.option("--samples", type=FILE, help=f"Typical inputs, 100 or more: {SOURCES}.")
@click.option(
    "--from-device", metavar="DEVICE", help="Instead: what its runner recorded (run infer INPUT... --record)."
)
@click.option(
    "--evaluate", type=FILE, help="Held-out inputs with labels (npz, CSV: y; folders: classes): the task metric."
)
@click.option(
    "--max-samples",
    type=samples_used,
    default="auto",
    metavar="N|auto",
    help="Samples that make ranges, at most; default: auto, to 500: all for small networks, else until ranges stop growing.",
)
@click.option("--target", type=TARGET, help="The kind of board (see edgekit targets); default: any.")
@click.option("--preprocess", "spec", type=FILE, help="TOML: how a raw input becomes what the model sees.")
@click.option("--labels", type=FILE, help="Text file, one class name a line.")
@click.option(
    "--mode",
    "modes",
    type=click.Choice(MODES),
    metavar="MODE",
    multiple=True,
    default=("int8",),
    help=f"A variant: {', '.join(MODES)}. May be given several times; the first (int8 if none) is the default variant.",
)
@click.option(
    "--ranges",
    type=click.Choice((AUTO, *POLICIES)),
    metavar="POLICY",
    default=AUTO,
    help=f"How activations get their ranges: {', '.join(POLICIES)}, or (default) auto: the best on samples held out.",
)
@click.option(
    "--input-type",
    type=click.Choice(END_TYPES),
    default="int8",
    help="What goes into mode int8: int8 (default), or uint8: raw camera bytes, older Coral programs.",
)
@click.option("--output-type", type=click.Choice(END_TYPES), default="int8", help="What comes out of mode int8.")
@click.option("--recipe", type=FILE, help="TOML: which operators of --mode mixed stay float.")
@click.option(
    "--repair",
    type=click.Choice(LEVELS),
    metavar="LEVEL",
    default="mixed",
    help="If the gate refuses int8: none gives up, int8 repairs it, mixed (default) may leave operators in float.",
)
@click.option(
    "--delegate",
    "delegates",
    multiple=True,
    metavar="NAME[:KEY=VALUE,...]",
    help="What may run it, in order: cpu, gpu, edgetpu, external:path=LIBRARY; default: the target's (docs/delegates.md).",
)
@COMPILER
@click.option("--goal", help="Of power, for the bundle: 'min_energy(accuracy>=90, deadline=50ms)'; docs/power.md.")
@click.option(
    "--max-memory",
    type=click.FloatRange(min=0, min_open=True),
    metavar="MIB",
    help="What its server may take on a device, memory in MiB: beyond it a deployment goes back (docs/deploy.md).",
)
@click.option(
    "--max-p95",
    type=click.FloatRange(min=0, min_open=True),
    metavar="MS",
    help="The same of time: 95 of 100 answers of its server take no longer.",
)
@click.option("--name", help="The bundle's name; default: the model file's.")
@click.option("--metric", metavar="NAME|FILE.py:FUNCTION", help=METRIC)
@click.option(
    "--max-drop",
    type=click.FloatRange(0, 100),
    default=1.0,
    show_default=True,
    help="What int8 may lose: points of the metric (errors: % of float's). More: exit 6, no bundle.",
)
@click.option("--report", type=FILE, help="The HTML report; default: BUNDLE.report.html, also when int8 is refused.")
@click.option("--no-report", is_flag=True, help="Write no report.")
@click.option("--strict", is_flag=True, help="A warning of the lint is an error: exit 6, nothing is written.")
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=0, min_open=True),
    default=1800.0,
    show_default=True,
    help="Seconds a converter may take.",
)
@click.option(
    "--signature", metavar="NAME", help="Of a SavedModel with several; default: serving_default, or the only one."
)
@click.option(
    "--custom",
    metavar="FILE.py|MODULE",
    multiple=True,
    help="Defines the model's custom layers; it is run. May be given several times.",
)
@click.option(
    "--trust",
    is_flag=True,
    help="Run code that is inside the model's file (Lambda layers, pickles). Off: it is refused.",
)
@json_option
@click.pass_obj
def convert_command(
    typed: list[str],
    /,
    as_json: bool,
    report: Path | None,
    no_report: bool,
    samples: Path | None,
    from_device: str | None,
    compiler: str | None,
    **options: object,
) -> None:
    """Make a bundle of MODEL: full int8, checked, measured.

    MODEL is a .keras or .h5 file, a SavedModel, a .pt2 (torch.export.save), an .onnx, a float .tflite, or file.py:function,
    which is run and gives a torch.nn.Module. An image model that takes NCHW may have NHWC samples: its .tflite takes NHWC.

    Without labels (--evaluate) int8 has to give the float model's class for 95 % of the samples, or reach 10 dB SQNR.
    """
    from edgekit.convert import convert

    page = False if no_report else report or True
    with showing_progress(as_json) as progress, samples_of(from_device, samples, progress) as given:
        options |= {"samples": given, "report": page, "command": command_of(typed), "progress": progress}
        result = convert(**options)  # type: ignore[arg-type]
    bundle = finish(result.bundle, options["target"], options["delegates"], compiler, quiet=as_json)  # type: ignore[arg-type]
    result = dataclasses.replace(result, bundle=bundle, variants=bundle.manifest.variants)
    for warning in result.warnings:
        click.secho(f"warning: {warning}", err=True, fg="yellow")
    if as_json:
        show_json(
            {
                "bundle": str(result.bundle.path),
                "id": result.bundle.id,
                "float_bytes": result.float_bytes,
                "variant_bytes": result.variant_bytes,
                "float_difference": result.float_difference,
                "calibration_count": result.calibration_count,
                "sample_count": result.sample_count,
                "per_channel_weights": result.per_channel_weights,
                "tried": result.tried,
                "repairs": result.repairs,
                "variants": result.variants,
                "verdicts": result.verdicts,
                "layers": {name: comparison.layers for name, comparison in result.comparisons.items()},
                "report": result.report,
                "warnings": result.warnings,
                "findings": result.findings,
                "convergence": result.convergence,
            }
        )
        return
    sizes = [f"{size_text(size)} {name}" for name, size in result.variant_bytes.items() if name != "float32"]
    show_facts(
        [
            ("bundle", f"{result.bundle.path} ({result.bundle.id})"),
            ("size", ", ".join([f"{size_text(result.float_bytes)} float", *sizes])),
            ("float .tflite", f"within {result.float_difference:.1e} of the source model, relative"),
            ("calibrated on", f"{_used(result)}{_settled(result.convergence)}"),
            *((("ranges grow", _grown(result.convergence)),) if result.convergence else ()),
            *_variant_facts(result),
            *((f"gate {name}", f"passed: {verdict.sentence}") for name, verdict in result.verdicts.items()),
            *((("report", result.report),) if result.report else ()),
        ]
    )
    for variant in result.variants:
        if variant.qualities:
            click.echo()
            show_qualities(variant.qualities, variant.name)
    for name, repairs in result.repairs.items():
        click.echo()
        rows = [(r.step, r.what, f"{r.before_db:.1f}", _db(r.after_db), "yes" if r.kept else "no") for r in repairs]
        show_table((f"repair of {name}", "what", "dB before", "dB after", "kept"), rows)
    show_findings(result.findings)


def _db(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def _used(result: ConversionResult) -> str:
    """`128 of 500 samples`."""
    used, read = result.calibration_count, result.sample_count
    return f"{used} samples" if used == read else f"{used} of {read} samples"


def _grown(curve: Sequence[tuple[int, float]]) -> str:
    """`1: 34 %, ..., 64: 97 %, 128: 100 %`: how much of the ranges so many samples make."""
    return ", ".join(f"{count}: {share:.0%}" for count, share in curve) + " of their width, by samples"


def _settled(curve: Sequence[tuple[int, float]]) -> str:
    """`, ranges settle after 32`, where they do."""
    from edgekit.convert.selection import enough

    count = enough(curve)
    return f", ranges settle after {count}" if count is not None else ""


def _variant_facts(result: ConversionResult) -> list[tuple[str, str]]:
    """What is to be said of each quantized variant: its ranges, and how the default one was checked."""
    facts = []
    for variant in result.variants:
        if variant.ranges is not None:
            tried = result.tried[variant.name]
            how = f", the best of {len(tried)} on {tried[0].count} samples held out" if tried else ""
            facts.append((f"{variant.name} ranges", f"{variant.ranges}{how}"))
        if variant.name in result.repairs and variant.name == MIXED:
            facts.append((MIXED, "int8 alone loses too much: the operators in mixed.recipe.toml stay float"))
    if result.variants[0].name == "int8":
        per_channel = "every operator, weights per channel in {} of {} layers"
        facts.append(("int8", per_channel.format(*result.per_channel_weights)))
    return facts


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
