"""`edgekit compare` and `edgekit diff`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgekit.cli.convert import FILE, METRIC
from edgekit.cli.inspect import show_qualities
from edgekit.cli.show import json_option, show_facts, show_json, show_table, showing_progress, size_text

if TYPE_CHECKING:
    from edgekit.convert.compare import Comparison, Side
    from edgekit.convert.difference import Change, Difference, ModelDifference

COMPARE_EXAMPLES = """\b
Examples:
  edgekit compare float.tflite int8.tflite --samples samples.npz
  edgekit compare float.tflite bundle --samples labelled.npz --html out.html
  edgekit compare bundle:float32 bundle:int8 --samples x.npz --max-drop 0.5
"""
DIFF_EXAMPLES = """\b
Examples:
  edgekit diff bundle older-bundle
  edgekit diff a.tflite b.tflite --json

\b
Exit codes: 0 the same, 1 different, others as everywhere (edgekit --help).
"""
ROWS = 20  # of a table for people; --json has all


@click.command("compare", epilog=COMPARE_EXAMPLES)
@click.argument("float_model", metavar="FLOAT")
@click.argument("int8_model", metavar="INT8")
@click.option("--samples", required=True, type=FILE, help=".npz or .npy of raw inputs; labels as y are used.")
@click.option("--preprocess", "spec", type=FILE, help="TOML: how a raw input becomes what a bare .tflite sees.")
@click.option("--labels", type=FILE, help="Text file, one class name a line; default: the bundle's.")
@click.option("--metric", metavar="NAME|FILE.py:FUNCTION", help=METRIC)
@click.option("--max-drop", type=click.FloatRange(0, 100), help="Exit 6 if int8 loses more (as of edgekit convert).")
@click.option("--html", type=FILE, help="Also write the report to this file.")
@json_option
def compare_command(as_json: bool, html: Path | None, max_drop: float | None, **options: object) -> None:
    """Compare two forms of one model on the same samples: quality, size, time here, and every layer.

    FLOAT and INT8 are .tflite files, bundles, or BUNDLE:VARIANT; any two models with the same inputs and outputs do.
    """
    from edgekit.convert.apart import run_apart

    with showing_progress(as_json) as progress:
        comparison: Comparison = run_apart(
            *("edgekit.convert.compared", "compare"),
            doing="comparing them",
            **options,  # type: ignore[arg-type]
            html=html,
            max_drop=max_drop,
            progress=progress,
        )
    if as_json:
        from edgekit.convert.compare import as_json as plain

        show_json(plain(comparison))
    else:
        _show_comparison(comparison)
    if max_drop is not None and not comparison.verdict.passed:
        from edgekit.convert.report import refused

        raise refused(comparison, html)


def _show_comparison(comparison: Comparison) -> None:
    said = "passed" if comparison.verdict.passed else "failed"
    facts: list[tuple[str, object]] = [("verdict", f"{said}: {comparison.verdict.sentence}")]
    facts += [("", comparison.verdict.doubt)] if comparison.verdict.doubt else []
    facts += [("float", _side(comparison.float_side)), ("int8", _side(comparison.int8_side))]
    show_facts(facts)
    click.echo()
    show_qualities(comparison.qualities, "int8")
    click.echo()
    from edgekit.convert.layers import short_name

    found = comparison.layers
    rows = [
        (i.index if i.index >= 0 else "in", i.operator, short_name(i.name), i.sqnr_db, i.lost_db, f"{i.clipped:.2%}")
        for i in found.layers
    ]
    show_table(("#", "operator", "tensor", "SQNR dB", "lost dB", "clipped"), rows, right=("#", "clipped"))
    for name in found.unmatched:
        click.echo(f"not compared: {name}")


def _side(side: Side) -> str:
    time = "" if side.median_us is None else f", {side.median_us:g} us (median, one thread, measured here)"
    return f"{side.file}, {size_text(side.bytes)}{time}"


@click.command("diff", epilog=DIFF_EXAMPLES)
@click.argument("a")
@click.argument("b")
@json_option
def diff_command(a: str, b: str, as_json: bool) -> int:
    """Say what differs between two bundles or .tflite files: weights, ranges, operators, figures, preprocessing."""
    from edgekit.convert.difference import diff_named
    from edgekit.convert.opened import find_model

    found = diff_named(find_model(a), find_model(b))
    if as_json:
        show_json({"same": found.is_empty, **vars(found)})
    else:
        _show_difference(found)
    return 0 if found.is_empty else 1


def _show_difference(found: Difference) -> None:
    if found.is_empty:
        click.echo("no difference")
    for model in found.models:
        if not model.same_bytes:
            _show_model(model)
    for title, changes in (
        ("variant", found.variants), ("metric", found.metrics), ("preprocessing", found.preprocess), ("other", found.others)
    ):  # fmt: skip
        _show_changes(title, changes)


def _show_model(model: ModelDifference) -> None:
    from edgekit.convert.layers import short_name

    changed = sum(w.changed_bytes for w in model.weights)
    counts = (len(model.weights), len(model.ranges), len(model.operators))
    told = "{} constants ({}), {} ranges, {} kinds of operators differ".format(
        counts[0], size_text(changed), *counts[1:]
    )
    lists = (model.weights, model.ranges, model.operators, model.shapes, model.order, model.tensors_only)
    if not any(lists):
        told = (
            "the same weights, ranges and operators; what differs is their options, names in the file, or its metadata"
        )
    show_facts([(model.name, f"{told}; {model.tensors} constants are in both")])
    weights = [
        (
            short_name(w.tensor),
            w.bytes_a,
            w.bytes_b,
            w.changed_bytes,
            None if w.difference is None else f"{w.difference:.2%}",
        )
        for w in model.weights
    ]
    _show_rows(("constant", "bytes a", "bytes b", "changed", "values"), weights)
    ranges = [
        (short_name(r.tensor), _type(r.dtype_a, r.scale_a, r.zero_point_a), _type(r.dtype_b, r.scale_b, r.zero_point_b))
        for r in model.ranges
    ]
    _show_rows(("tensor", "range a", "range b"), ranges)
    _show_changes("shape", model.shapes)
    _show_changes("operator", model.operators)
    _show_changes("order", model.order)
    _show_changes("only in one", model.tensors_only)


def _type(dtype: str, scale: float | None, zero_point: int | None) -> str:
    return dtype if scale is None else f"{dtype}, scale {scale:.6g}, zero point {zero_point}"


def _show_changes(title: str, changes: tuple[Change, ...]) -> None:
    _show_rows((title, "a", "b"), [(c.what, c.a, c.b) for c in changes])


def _show_rows(columns: tuple[str, ...], rows: Sequence[tuple[object, ...]]) -> None:
    if not rows:
        return
    show_table(columns, rows[:ROWS])
    if rows[ROWS:]:
        click.echo(f"and {len(rows) - ROWS} more; --json has all")
    click.echo()
