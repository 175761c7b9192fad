"""`edgekit inspect`."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekit.cli.edgetpu import show_compiled, show_prediction
from edgekit.cli.show import json_option, limits_text, show_facts, show_json, show_table, size_text

if TYPE_CHECKING:
    from edgekit.bundle import Bundle, Quality, Variant

EXAMPLES = """\b
Examples:
  edgekit inspect bundle
  edgekit inspect model.tflite --operators
  edgekit inspect bundle --json
  edgekit inspect model.tflite --edgetpu
  edgekit inspect bundle --fused
  edgekit inspect model_edgetpu.tflite
"""


@click.command("inspect", epilog=EXAMPLES)
@click.argument("path", type=click.Path(path_type=Path), metavar="BUNDLE|MODEL.tflite")
@click.option("--operators", is_flag=True, help="One row for each operator instead of one for each kind.")
@click.option("--edgetpu", is_flag=True, help="Predict what Coral's Edge TPU compiler would map, and why not the rest.")
@click.option(
    "--fused", is_flag=True, help="Which operators run as one part, on XNNPACK or plain kernels of this machine."
)
@json_option
def inspect_command(path: Path, operators: bool, edgetpu: bool, fused: bool, as_json: bool) -> None:
    """Show operators with versions, dtypes, scales, sizes, multiply-accumulates and an estimate of the arena.

    Of a model that was compiled for the Edge TPU also what its program says: runtime, weights on the chip, what is left.
    """
    from edgekit.convert.describe import model_summary, operator_table
    from edgekit.convert.flatbuffer import read_model
    from edgekit.edgetpu.compiled import read_compiled
    from edgekit.edgetpu.predict import predict_file

    bundle, files = _files(path)
    found = []
    for name, file in files.items():
        model = read_model(file)
        row = {"variant": name, **model_summary(model), "operator_table": operator_table(model)}
        row["edgetpu_compiled"] = read_compiled(file)
        row["edgetpu_predicted"] = predict_file(file) if edgetpu else None
        row["parts"] = _parts(file) if fused else None
        found.append(row)
    if as_json:
        about = None if bundle is None else {"id": bundle.id, "sha256": bundle.digest, "manifest": bundle.manifest}
        show_json({"path": str(path), "bundle": about, "models": found})
        return
    if bundle is not None:
        _show_bundle(bundle)
    for index, row in enumerate(found):
        if index or bundle is not None:
            click.echo()
        _show_model(row, bundle.manifest.variant(row["variant"]) if bundle is not None else None, operators)
        if row["edgetpu_compiled"] is not None:
            show_compiled(row["edgetpu_compiled"])
        elif row["variant"].endswith("_edgetpu.tflite"):
            show_facts([("edge tpu", "nothing in it is compiled for it, whatever its name says")])
        if row["edgetpu_predicted"] is not None:
            show_prediction(row["edgetpu_predicted"])
        if row["parts"] is not None:
            click.echo()
            rows = [
                (i, part["unit"], len(part["operators"]), _runs(part["operators"]))
                for i, part in enumerate(row["parts"])
            ]
            show_table(("part", "runs on", "operators", "which (measured here)"), rows)


def _parts(file: Path) -> list[dict[str, Any]]:
    """What this machine's interpreter runs as one."""
    from edgekit.runner.interpreter import open_interpreter
    from edgekit.runner.placement import parts_of

    found = parts_of(open_interpreter(file, 1))
    return [{"unit": unit, "operators": [{"index": i, "name": name} for i, name in each]} for unit, each in found]


def _runs(operators: Sequence[dict[str, Any]]) -> str:
    """`0-12 CONV_2D ... FULLY_CONNECTED`."""
    first, last = operators[0], operators[-1]
    if first is last:
        return f"{first['index']} {first['name']}"
    return f"{first['index']}-{last['index']} {first['name']} ... {last['name']}"


def show_qualities(qualities: Sequence[Quality], variant: str) -> None:
    """A table of what was measured of a variant beside the float model, and on what."""
    if not qualities:
        return
    rows = [(quality.metric, quality.value, quality.float_value, quality.count) for quality in qualities]
    show_table(("metric", variant, "float", "inputs"), rows)
    click.echo("; ".join(dict.fromkeys(quality.source for quality in qualities)))


def _files(path: Path) -> tuple[Bundle | None, dict[str, Path]]:
    """The bundle, if it is one, and its .tflite files by variant."""
    from edgekit.bundle import read_bundle, verify_bundle
    from edgekit.errors import InputError

    if not path.exists():
        raise InputError(f"{path} does not exist", hint="give a bundle's folder or a .tflite file")
    if not path.is_dir():
        return None, {path.name: path}
    bundle = read_bundle(path)
    verify_bundle(bundle)
    return bundle, {variant.name: bundle.file(variant.file) for variant in bundle.manifest.variants}


def _show_bundle(bundle: Bundle) -> None:
    manifest = bundle.manifest
    facts: list[tuple[str, object]] = [("bundle", f"{manifest.name} ({bundle.id})")]
    facts += [("target", f"{manifest.target} ({manifest.arch})" if manifest.target else "any")]
    facts += [(f"input {name}", _words(spec)) for name, spec in manifest.preprocess.items()]
    facts += [("its server", limits_text(manifest.limits))] if manifest.limits else []
    facts += [("made by", _words(manifest.made_by))]
    commits = {name: f" (git {_short(commit)})" for name, commit in manifest.commits.items()}
    facts += [("made from", ", ".join(name + commits.get(name, "") for name in manifest.made_from))]
    facts += [("command", shlex.join(manifest.command))] if manifest.command else []
    show_facts(facts)
    click.echo()
    show_table(
        ("file", "size", "sha256"),
        [(name, size_text(file.size), file.sha256[:16]) for name, file in sorted(manifest.files.items())],
        right=("size",),
    )


def _words(fields: Any) -> str:
    return ", ".join(f"{key} {value}" for key, value in fields.items() if value is not None)


def _show_model(row: dict[str, Any], variant: Variant | None, operators: bool) -> None:
    facts: list[tuple[str, object]] = [("variant" if variant else "model", row["variant"])]
    facts += [("size", f"{size_text(row['file_bytes'])}, of it weights {size_text(row['weight_bytes'])}")]
    facts += [("work", f"{row['macs'] / 1e6:.3f} million multiply-accumulates")]
    facts += [("arena", f"{size_text(row['arena_bytes'])} (estimated)")]
    for kind in ("inputs", "outputs"):
        facts += [(kind[:-1], _tensor(tensor)) for tensor in row[kind]]
    facts += _quantization(row)
    if variant is not None:
        facts += [("delegates", ", then ".join(_delegate(d.name, d.options) for d in variant.delegates))]
        unit = "steps" if variant.outputs[0].scale is not None else "absolute"
        facts += [("golden", f"an answer may differ by {variant.golden_tolerance:g} {unit}")]
    show_facts(facts)
    if variant is not None and variant.qualities:
        click.echo()
        show_qualities(variant.qualities, variant.name)
    click.echo()
    if operators:
        columns = ("#", "operator", "v", "output", "scale", "weights", "MACs")
        show_table(columns, [_operator(op) for op in row["operator_table"]], right=("weights",))
    else:
        show_table(("operator", "version", "count"), [(o["name"], o["version"], o["count"]) for o in row["operators"]])


def _quantization(row: dict[str, Any]) -> list[tuple[str, object]]:
    """How it is quantized, where it is: a float model has nothing to say."""
    per_channel, layers = row["per_channel_weights"]
    if row["quantization"] == "none":
        return []
    if row["quantization"] == "full int8":
        return [("full int8", f"yes, weights per channel in {per_channel} of {layers} layers")]
    more = f" (and {len(row['findings']) - 1} more)" if row["findings"][1:] else ""
    return [("full int8", f"no: {row['findings'][0]}{more}")]


def _short(commit: str) -> str:
    """`0123456789ab`, and what is said of it."""
    number, comma, more = commit.partition(",")
    return f"{number[:12]}{comma}{more}"


def _delegate(name: str, options: Any) -> str:
    return f"{name} ({_words(options)})" if options else name


def _tensor(tensor: dict[str, Any]) -> str:
    quantized = f", scale {tensor['scale'][0]:.6g}, zero point {tensor['zero_point'][0]}" if tensor["scale"] else ""
    return f"{tensor['name']}: {_shape(tensor['dtype'], tensor['shape'])}{quantized}"


def _shape(dtype: str, shape: Sequence[int]) -> str:
    """`int8[n,32,32,3]`: n is a size that is free."""
    return f"{dtype}[{','.join('n' if size < 0 else str(size) for size in shape)}]"


def _operator(op: dict[str, Any]) -> tuple[object, ...]:
    scales = " ".join(f"{scale[0]:.4g}" for scale in op["output_scales"] if scale)
    outputs = " ".join(map(_shape, op["output_dtypes"], op["output_shapes"]))
    return (op["index"], op["name"], op["version"], outputs, scales, size_text(op["weight_bytes"]), op["macs"])
