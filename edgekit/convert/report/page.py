"""The page: verdict on top, then the three figures, then everything that explains them."""

from __future__ import annotations

import base64
import hashlib
import shlex
from importlib.resources import files

from edgekit.convert.compare import Comparison, Side
from edgekit.convert.layers import Layer, short_name
from edgekit.convert.report.about import About
from edgekit.convert.report.charts import grade, layer_chart, sqnr_text
from edgekit.convert.report.html import Html, join, tag
from edgekit.convert.report.samples import confusion_section, samples_section
from edgekit.convert.report.tables import Cell, facts, mappings, sortable
from edgekit.convert.report.tried import growth_section, policies_section, repairs_section


def render(comparison: Comparison, about: About) -> str:
    """The whole file."""
    style, script = (files(__package__).joinpath(name).read_text("utf-8") for name in ("style.css", "script.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    # nothing is ever loaded, and no script runs but ours: whatever a label or a tensor is called
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", f"{about.title}: {comparison.variant} beside float"),
        tag("style", Html(style)),
    )
    main = tag(
        "main",
        _verdict(comparison),
        _cards(comparison),
        _list("Warnings", about.warnings),
        _quality(comparison),
        _layers(comparison),
        repairs_section(about),
        policies_section(about),
        growth_section(about),
        samples_section(comparison, about),
        confusion_section(comparison, about),
        _operators(comparison, about),
        _rows("Variants", about.variants, "Everything in the bundle, beside the float model."),
        _rows("Lint", about.findings, "What in the model makes trouble for int8 or for the target."),
        _preprocess(about),
        _origin(comparison, about),
        id="main",
    )
    body = tag(
        "body",
        tag("a", "Skip to the verdict", href="#main", class_="skip"),
        tag(
            "header",
            tag("p", "edgekit report", class_="kicker"),
            tag("h1", f"{about.title}: {comparison.variant} beside float"),
        ),
        main,
        tag("footer", "One file, nothing is loaded from anywhere. Times are of this workstation, not of a board."),
        tag("script", Html(script)),
    )
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"


def _verdict(comparison: Comparison) -> Html:
    verdict = comparison.verdict
    if verdict.passed:
        kind, sign, said = ("passed", "✓", "Passed") if verdict.certain else ("unsure", "≈", "Passed, but not for sure")
    else:
        kind, sign, said = "failed", "✕", "Failed"
    losers = comparison.layers.losers()
    where = None
    if not verdict.passed and losers:
        names = join(*(_loser(layer, i, len(losers)) for i, layer in enumerate(losers)))
        where = tag("p", "It loses most in ", names, ".")
    text = verdict.sentence.replace(" %", "\u00a0%")
    return tag(
        "section",
        tag("div", sign, class_="sign", aria_hidden="true"),
        tag(
            "div",
            tag("h2", said),
            tag("p", text[0].upper() + text[1:], "."),
            tag("p", verdict.doubt.capitalize(), ".") if verdict.doubt else None,
            where,
        ),
        class_=f"verdict {kind}",
    )


def _loser(layer: Layer, place: int, count: int) -> Html:
    sqnr, lost = layer.sqnr_db or 0.0, layer.lost_db or 0.0
    link = tag("a", f"{layer.operator} {short_name(layer.name)}", href=f"#layer-{layer.index}")
    before = "" if place == 0 else " and " if place == count - 1 else ", "
    return join(before, link, f" ({sqnr + lost:.0f} → {sqnr:.0f} dB)")


def _cards(comparison: Comparison) -> Html:
    real, int8 = comparison.float_side, comparison.int8_side
    cards = [_quality_card(comparison)]
    pair = _pair((real.bytes, int8.bytes), (_size(real.bytes), _size(int8.bytes)), comparison.variant)
    cards.append(_card("Size", _ratio(real.bytes, int8.bytes, "smaller", "larger"), pair))
    if real.median_us and int8.median_us:
        times = [f"{_time(side.median_us)}" for side in (real, int8)]
        note = tag(
            "p", f"Median of one answer, one thread, measured here; 9 of 10 within {_time(int8.p90_us)}.", class_="note"
        )
        big = _ratio(real.median_us, int8.median_us, "faster", "slower")
        cards.append(_card("Time", big, join(_pair((real.median_us, int8.median_us), times, comparison.variant), note)))
    return tag("div", *cards, class_="cards")


def _ratio(before: float, after: float, less: str, more: str) -> Html:
    """`3.2× smaller`; `1.1× larger`."""
    ratio = before / max(after, 1e-9)
    if 1 / 1.05 < ratio < 1.05:
        return join("1× ", tag("small", "about the same"))
    return join(f"{max(ratio, 1 / max(ratio, 1e-9)):.1f}× ", tag("small", less if ratio >= 1 else more))


def _quality_card(comparison: Comparison) -> Html:
    verdict = comparison.verdict
    if verdict.float_value is None:
        if verdict.unit == "dB":
            return _card("Quality", join(f"{verdict.measured:.1f} ", tag("small", "dB SQNR to float")), None)
        return _card("Quality", join(f"{100 * verdict.int8_value:.1f} % ", tag("small", "same class as float")), None)
    shown = [
        f"{100 * v:.2f} %" if verdict.unit == "points" else f"{v:.5g}"
        for v in (verdict.float_value, verdict.int8_value)
    ]
    note = tag("p", f"{verdict.count} samples of {comparison.samples}.", class_="note")
    big = join(shown[1], " ", tag("small", verdict.metric))
    return _card(
        "Quality", big, join(_pair((verdict.float_value, verdict.int8_value), shown, comparison.variant), note)
    )


def _card(title: str, big: Html, rest: Html | None) -> Html:
    return tag("section", tag("h2", title), tag("p", big, class_="big"), rest)


def _pair(values: tuple[float, float], shown: tuple[str, str] | list[str], variant: str) -> Html:
    """Float and the variant as two bars from zero."""
    most = max(*map(abs, values), 1e-30)
    lines = []
    for kind, name, value, text in zip(("float", "int8"), ("float", variant), values, shown, strict=True):
        bar = tag(
            "svg",
            tag("rect", width=100, height=8, class_="track"),
            tag("rect", width=round(100 * abs(value) / most, 1), height=8, class_=kind),
            viewBox="0 0 100 8", preserveAspectRatio="none", aria_hidden="true",
        )  # fmt: skip
        lines.append(join(tag("dt", name), tag("dd", bar), tag("dd", text, class_="num")))
    return tag("dl", *lines, class_="pair")


def _quality(comparison: Comparison) -> Html:
    rows = [
        (None, [quality.metric, quality.float_value, quality.value, quality.count]) for quality in comparison.qualities
    ]
    sides: list[tuple[str, object]] = [(f"{n} model", _about_side(s)) for n, s in _sides(comparison)]
    table = sortable(("metric", "float", comparison.variant, "samples"), rows, "Quality")
    return tag("section", tag("h2", "Everything measured"), table, tag("p", ""), facts(sides))


def _about_side(side: Side) -> str:
    return (
        f"{side.file}, {_size(side.bytes)} (weights {_size(side.weight_bytes)}), quantization: {side.quantization}, "
        f"{side.macs / 1e6:.3g} million multiply-accumulates, working memory about {_size(side.arena_bytes)}"
    )


def _sides(comparison: Comparison) -> tuple[tuple[str, Side], tuple[str, Side]]:
    return ("float", comparison.float_side), (comparison.variant, comparison.int8_side)


def _layers(comparison: Comparison) -> Html:
    found = comparison.layers
    rows = []
    for layer in found.layers:
        name = join(
            short_name(layer.name),
            tag("span", " by position", class_="badge") if layer.matched_by == "position" else None,
        )
        sqnr = Cell(tag("span", sqnr_text(layer.sqnr_db, ""),
                        class_=f"badge {grade(layer.sqnr_db)}"), -1e9 if layer.sqnr_db is None else layer.sqnr_db)  # fmt: skip
        clipped = Cell(f"{layer.clipped:.2%}", layer.clipped)
        used = None if layer.used is None else Cell(f"{layer.used:.0%}", layer.used)
        lost = None if layer.lost_db is None else Cell(f"{layer.lost_db:.1f}", layer.lost_db)
        shape = "×".join(map(str, layer.shape))
        cells = [
            Cell(layer.index if layer.index >= 0 else "in", layer.index),
            layer.operator,
            Cell(name, class_="name"),
            shape,
            sqnr,
            lost,
            clipped,
            used,
        ]
        rows.append((f"layer-{layer.index}", cells))
    columns = ("#", "operator", "tensor", "shape", "SQNR, dB", "lost, dB", "clipped", "range")
    legend = tag(
        "ul",
        *(tag("li", tag("i", class_=k, aria_hidden="true"), t)
          for k, t in (("good", "20 dB and more"), ("fair", "10 to 20 dB"), ("poor", "under 10 dB"))),
        class_="legend",
    )  # fmt: skip
    told = (
        f"Signal to quantization noise of each operator's output over {found.count} samples, both models run with every "
        "tensor kept. Point at a bar, or use the arrow keys; Enter or a click goes to its row."
    )
    missing = [*found.unmatched, *(f"{name}: only in the float model" for name in found.float_unmatched)]
    note = None
    if missing:
        more = f" and {len(missing) - 20} more" if missing[20:] else ""
        note = tag("p", f"Not compared: {'; '.join(missing[:20])}{more}.", class_="note")
    parts: tuple[Html | None, ...] = (tag("p", "No layer has a partner in the float model."),)
    if found.layers:
        chart = tag("div", layer_chart(found.layers), class_="scroll")
        live = tag("p", "", id="told", class_="told", aria_live="polite")
        parts = (legend, chart, live, sortable(columns, rows, "Layers"))
    return tag("section", tag("h2", "Layers"), tag("p", told), *parts, note)


def _operators(comparison: Comparison, about: About) -> Html:
    rows = []
    for op in comparison.operators:
        shapes = ", ".join(
            f"{d}[{'×'.join(map(str, s))}]" for d, s in zip(op["output_dtypes"], op["output_shapes"], strict=True)
        )
        weights = Cell(_size(op["weight_bytes"]), op["weight_bytes"])
        rows.append((None, [op["index"], op["name"], op["version"], shapes, weights, op["macs"], about.unit]))
    columns = ("#", "operator", "version", "output", "weights", "MACs", "unit")
    told = f"What the {comparison.variant} model does, in this order, and on which unit each operator runs."
    return tag(
        "section",
        tag("h2", "Operators"),
        tag("p", told),
        sortable(columns, rows, f"Operators of the {comparison.variant} model"),
    )


def _rows(title: str, rows: tuple[object, ...], told: str) -> Html | None:
    return tag("section", tag("h2", title), tag("p", told), mappings(rows, title)) if rows else None


def _list(title: str, lines: tuple[str, ...]) -> Html | None:
    return tag("section", tag("h2", title), tag("ul", *(tag("li", line) for line in lines))) if lines else None


def _preprocess(about: About) -> Html | None:
    if not about.preprocess:
        return None
    said = [
        (name, tag("code", ", ".join(f"{key} = {value}" for key, value in spec.items())))
        for name, spec in about.preprocess.items()
    ]
    told = "How a raw sample becomes what the model sees: the same code for calibration, for these figures and on the board."
    return tag("section", tag("h2", "Preprocessing"), tag("p", told), facts(said))


def _origin(comparison: Comparison, about: About) -> Html:
    made_by = ", ".join(f"{tool} {version}" for tool, version in sorted(about.made_by.items())) or None
    pairs: list[tuple[str, object]] = [("bundle", about.bundle and tag("code", about.bundle)), ("target", about.target)]
    pairs += [("samples judged", f"{comparison.count}, {comparison.samples}"), ("made by", made_by)]
    for name, digest in sorted(about.made_from.items()):
        commit = f", git commit {about.commits[name]}" if name in about.commits else ""
        pairs.append((name, tag("code", f"sha256 {digest}{commit}")))
    command = tag("pre", tag("code", shlex.join(about.command))) if about.command else None
    return tag("section", tag("h2", "Make it again"), command, facts(pairs))


def _size(count: int) -> str:
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} B"


def _time(us: float | None) -> str:
    if us is None:
        return "–"
    return f"{us:.1f} µs" if us < 100 else f"{us:.0f} µs" if us < 1000 else f"{us / 1000:.2f} ms"
