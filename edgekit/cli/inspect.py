"""`edgekit inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgekit.cli.show import json_option, mebibytes, show_facts, show_json, show_table

EXAMPLES = """\b
Examples:
  edgekit inspect bundle
  edgekit inspect model.tflite --operators
  edgekit inspect bundle --json
"""


@click.command("inspect", epilog=EXAMPLES)
@click.argument("path", type=click.Path(path_type=Path), metavar="BUNDLE|MODEL.tflite")
@click.option("--operators", is_flag=True, help="One row for each operator instead of one for each kind.")
@json_option
def inspect_command(path: Path, operators: bool, as_json: bool) -> None:
    """Show operators with versions, dtypes, scales, sizes, multiply-accumulates and an estimate of the arena."""
    from edgekit.convert.describe import model_summary, operator_table
    from edgekit.convert.flatbuffer import read_model

    bundle, files = _files(path)
    found = []
    for name, file in files.items():
        model = read_model(file)
        found.append({"variant": name, **model_summary(model), "operator_table": operator_table(model)})
    if as_json:
        show_json({"path": str(path), "bundle": bundle, "models": found})
        return
    if bundle is not None:
        show_facts(_bundle_facts(bundle))
    for row in found:
        _show_model(row, operators)


def _files(path: Path) -> tuple[Any, dict[str, Path]]:
    """The bundle, if it is one, and its .tflite files by variant."""
    from edgekit.bundle import read_bundle, verify_bundle

    if not path.is_dir():
        return None, {path.name: path}
    bundle = read_bundle(path)
    verify_bundle(bundle)
    return bundle, {variant.name: bundle.file(variant.file) for variant in bundle.manifest.variants}


def _bundle_facts(bundle: Any) -> list[tuple[str, object]]:
    manifest = bundle.manifest
    facts = [("bundle", f"{manifest.name} {bundle.id}"), ("target", manifest.target or "any")]
    facts += [(f"input {name}", _words(spec)) for name, spec in manifest.preprocess.items()]
    for variant in manifest.variants:
        for quality in variant.qualities:
            beside = "" if quality.float_value is None else f" (float {quality.float_value:g})"
            facts.append((variant.name, f"{quality.metric} {quality.value:g}{beside}, {quality.count} inputs"))
    return [*facts, ("made by", _words(manifest.made_by))]


def _words(fields: Any) -> str:
    return ", ".join(f"{key} {value}" for key, value in fields.items() if value is not None)


def _show_model(row: dict[str, Any], operators: bool) -> None:
    click.echo()
    facts: list[tuple[str, object]] = [("model", row["variant"])]
    facts += [("size", f"{mebibytes(row['file_bytes'])}, weights {mebibytes(row['weight_bytes'])}")]
    facts += [("work", f"{row['macs'] / 1e6:.3f} million multiply-accumulates")]
    facts += [("arena", f"{mebibytes(row['arena_bytes'])} (estimated)")]
    for kind in ("inputs", "outputs"):
        facts += [(kind[:-1], _tensor(tensor)) for tensor in row[kind]]
    facts.append(("full int8", "yes" if not row["findings"] else row["findings"][0]))
    show_facts(facts)
    if operators:
        columns = ("#", "operator", "v", "inputs", "outputs", "scale", "weights, B", "MACs")
        show_table(columns, [_operator(op) for op in row["operator_table"]])
    else:
        show_table(("operator", "version", "count"), [(o["name"], o["version"], o["count"]) for o in row["operators"]])


def _tensor(tensor: dict[str, Any]) -> str:
    shape = "x".join(str(size) for size in tensor["shape"])
    quantized = f", scale {tensor['scale'][0]:.6g}, zero point {tensor['zero_point'][0]}" if tensor["scale"] else ""
    return f"{tensor['name']}: {tensor['dtype']} {shape}{quantized}"


def _operator(op: dict[str, Any]) -> tuple[object, ...]:
    scales = " ".join(f"{scale[0]:.4g}" for scale in op["output_scales"] if scale)
    ends = [_shapes(op[f"{end}_dtypes"], op[f"{end}_shapes"]) for end in ("input", "output")]
    return (op["index"], op["name"], op["version"], *ends, scales, op["weight_bytes"], op["macs"])


def _shapes(dtypes: list[str], shapes: list[list[int]]) -> str:
    return " ".join(f"{t}[{','.join(str(n) for n in shape)}]" for t, shape in zip(dtypes, shapes, strict=True))
