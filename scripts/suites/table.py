"""The suite's results as tables: for a terminal of 80 columns, for README.md and for docs/suite.md."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from suites import ROOT
from suites.measure import MODES, STOCK

TOOLS = ("edgekit", *STOCK)
METRICS = {"top1": "top-1", "iou": "IoU", "ap50": "AP50", "mae": "MAE, less is better"}
SAME_DB = 0.3  # less is no difference
SUITE, FRONT_ENDS = "suite", "front ends"  # between <!-- suite --> and <!-- /suite --> --readme writes
FILES = {"keras": ".keras", "h5": ".h5", "SavedModel": "SavedModel", "pt2": ".pt2", "onnx": ".onnx"}

Row = Sequence[str]


def printed(results: Sequence[Mapping[str, Any]]) -> str:
    """For a terminal: each tool's metric and SQNR, and how edgekit stands beside the better of the two stock converters."""
    shown = [tool for tool in TOOLS if any(tool in one["results"] for one in results)]
    head = ("network", "metric", "float", *(_short(tool) for tool in shown), "")
    rows = [head]
    for one in results:
        cells = [_cell(one["results"].get(tool)) for tool in shown]
        rows.append((one["network"], one["metric"], f"{one['results']['float']['metric']:.3g}", *cells, standing(one)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    note = "int8: metric on held-out samples / SQNR to float in dB, before the last softmax; f: float operators left"
    return "\n".join([*lines, "", note])


def standing(one: Mapping[str, Any]) -> str:
    """`ok`, or in what edgekit is worse than the better of TFLiteConverter and litert-quantizer.

    A metric is worse if it is by more than one held-out sample in two hundred: less is which way single samples fell.
    """
    ours = one["results"]["edgekit"]
    others = [one["results"][tool] for tool in STOCK[:2] if "error" not in one["results"].get(tool, {"error": ""})]
    if "error" in ours:
        return "FAILED"
    if not others:
        return "ok"
    worse = []
    if ours["sqnr_db"] < max(other["sqnr_db"] for other in others) - SAME_DB:
        worse.append("dB")
    sign = -1 if one["metric"] == "mae" else 1
    best = max(sign * other["metric"] for other in others)
    if sign * ours["metric"] < best - 0.005 * abs(best):
        worse.append("metric")
    return "less " + ", ".join(worse) if worse else "ok"


def write_documents(results: Sequence[Mapping[str, Any]]) -> None:
    """What is between the markers of README.md (a sentence) and docs/suite.md (the tables), made anew."""
    whole = f"\n{_short_table(results)}\n\n{_modes(results)}\n"
    for path, text in ((ROOT / "README.md", summary(results)), (ROOT / "docs" / "suite.md", whole)):
        path.write_text(between_markers(path.read_text("utf-8"), SUITE, text), "utf-8")


def write_front_ends(results: Sequence[Mapping[str, Any]]) -> None:
    """The table of docs/suite.md about the kinds of files, made anew."""
    path = ROOT / "docs" / "suite.md"
    path.write_text(between_markers(path.read_text("utf-8"), FRONT_ENDS, f"\n{_front_ends(results)}\n"), "utf-8")


def between_markers(document: str, marker: str, text: str) -> str:
    """The document with `text` between <!-- marker --> and <!-- /marker -->. ValueError if it has none."""
    start, end = f"<!-- {marker} -->", f"<!-- /{marker} -->"
    pattern = re.compile(f"{re.escape(start)}.*?{re.escape(end)}", re.S)
    if not pattern.search(document):
        raise ValueError(f"no {start} in it")
    return pattern.sub(lambda _: f"{start}{text}{end}", document)


def printed_front_ends(results: Sequence[Mapping[str, Any]]) -> str:
    """For a terminal: the table, and why a file could not be converted."""
    failed = [
        f"{one['network']}, {FILES[kind]}: {_plain(found['error'])}"
        for one in results
        for kind, found in one["front_ends"].items()
        if "error" in found
    ]
    return "\n".join([_front_ends(results), *failed])


def _front_ends(results: Sequence[Mapping[str, Any]]) -> str:
    rows: list[Row] = [("network: int8's metric / SQNR of the output in dB, from", *FILES.values())]
    for one in results:
        cells = [_from(one["front_ends"][kind]) for kind in FILES]
        rows.append((f"{one['network']}, {METRICS[one['metric']]}", *cells))
    return _markdown(rows)


def _from(found: Mapping[str, Any]) -> str:
    return "fails" if "error" in found else f"{found['metric']:.3g} / {found['output_sqnr_db']:.1f}"


def summary(results: Sequence[Mapping[str, Any]]) -> str:
    """In one line, how edgekit's int8 stands beside the stock converters."""
    good = sum(standing(one) == "ok" for one in results)
    return (
        f"On {good} of {len(results)} networks int8 is as good as the better of TFLiteConverter and litert-quantizer, "
        "or better: `docs/suite.md`."
    )


def _short_table(results: Sequence[Mapping[str, Any]]) -> str:
    rows: list[Row] = [
        ("network: metric / SQNR in dB, int8", "float", *TOOLS, "edgekit beside the better of the first two")
    ]
    for one in results:
        cells = [_cell(one["results"].get(tool)) for tool in TOOLS]
        name, value = f"{one['network']}, {METRICS[one['metric']]}", f"{one['results']['float']['metric']:.3g}"
        rows.append((name, value, *cells, standing(one)))
    return _markdown(rows)


def _modes(results: Sequence[Mapping[str, Any]]) -> str:
    int8: list[Row] = [
        ("network", "held out", "tool", "metric", "SQNR, dB", "of the output, dB", "float operators", "KiB")
    ]
    for one in results:
        for tool in ("float", *TOOLS, *(f"edgekit {mode}" for mode in MODES[1:])):
            found = one["results"].get(tool)
            if found is None:
                continue
            name = f"{one['network']}, {METRICS[one['metric']]}" if tool == "float" else ""
            count = str(one["held_out"]) if tool == "float" else ""
            if "error" in found:
                int8.append((name, count, tool, "-", f"fails: {_plain(found['error'])}", "", "", ""))
                continue
            figures = ("", "") if tool == "float" else (f"{found['sqnr_db']:.1f}", f"{found['output_sqnr_db']:.1f}")
            left = "" if found["float_operators"] is None else str(found["float_operators"])
            size = f"{found['bytes'] / 1024:.1f}"
            int8.append((name, count, tool, f"{found['metric']:.4g}", *figures, left, size))
    return _markdown(int8)


def _markdown(rows: Sequence[Row]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def _cell(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return ""
    if "error" in found:
        return "fails"
    left = f" {found['float_operators']}f" if found["float_operators"] else ""
    return f"{found['metric']:.3g} / {found['sqnr_db']:.1f}{left}"


def _short(tool: str) -> str:
    return {"TFLiteConverter": "TFLite", "litert-quantizer": "litert-q"}.get(tool, tool)


def _plain(error: str) -> str:
    """On one line, without the folders of the machine that it was seen on."""
    return re.sub(r"(/[^/\s:]+)+/", "", " ".join(error.replace("|", " ").split()))[:120]
