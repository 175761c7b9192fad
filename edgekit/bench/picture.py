"""Results as a drawing (SVG) and as one HTML page that needs nothing else."""

from __future__ import annotations

import datetime
import html
from collections.abc import Sequence
from pathlib import Path

from edgekit.bench.grid import Result
from edgekit.delegates import delegate_text
from edgekit.errors import InputError

_WIDTH, _ROW, _LEFT, _TOP = 860, 30, 300, 44
_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:60em;margin:2em auto;padding:0 1em;color:#1b1f24}
table{border-collapse:collapse}
td,th{padding:.25em .8em;border-bottom:1px solid #d8dde3;text-align:left}
td.n{text-align:right;font-variant-numeric:tabular-nums}
"""


def svg(results: Sequence[Result], title: str) -> str:
    """A bar from 0 to the median for each candidate, a thin one on to the 99th percentile; invalid runs are hatched grey."""
    shown = [result for result in results if result.median_us is not None]
    most = max((result.figures["p99_us"] for result in shown), default=1.0) * 1.02
    height = _TOP + _ROW * len(results) + 30
    scale = (_WIDTH - _LEFT - 90) / most
    rows = []
    for place, result in enumerate(results):
        y = _TOP + _ROW * place
        name = f"{result.candidate.variant} · {delegate_text(result.candidate.delegate)}"
        rows.append(f'<text x="{_LEFT - 10}" y="{y + 17}" text-anchor="end">{_escaped(_short(name))}</text>')
        if result.median_us is None:
            why = result.failed or f"{result.served_by}: no times"
            rows.append(f'<text x="{_LEFT}" y="{y + 17}" fill="#8a2b2b">{_escaped(why[:70])}</text>')
            continue
        colour = "#9aa3ad" if result.invalid else "#2f6f9f"
        wide, far = result.median_us * scale, result.figures["p99_us"] * scale
        rows.append(f'<rect x="{_LEFT}" y="{y + 4}" width="{wide:.1f}" height="18" rx="2" fill="{colour}"/>')
        rows.append(
            f'<rect x="{_LEFT + wide:.1f}" y="{y + 12}" width="{max(far - wide, 0):.1f}" height="2" fill="{colour}"/>'
        )
        label = f"{duration(result.median_us)}{' (invalid)' if result.invalid else ''}"
        rows.append(f'<text x="{_LEFT + far + 6:.1f}" y="{y + 17}">{label}</text>')
    told = "bar: median, line: to the 99th percentile; measured, less is better"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" font-family="system-ui,sans-serif"'
        f' font-size="13" fill="#1b1f24" role="img" aria-label="{_escaped(title)}">'
        '<rect width="100%" height="100%" fill="#ffffff"/>'
        f'<text x="14" y="24" font-size="16" font-weight="600">{_escaped(title)}</text>{"".join(rows)}'
        f'<text x="{_LEFT}" y="{height - 8}" fill="#5b6570">{told}</text></svg>\n'
    )


def page(results: Sequence[Result], title: str, about: Sequence[tuple[str, str]]) -> str:
    """The drawing, the conditions and the table."""
    rows = "".join(f"<tr>{''.join(_cell(cell) for cell in row)}</tr>" for row in map(figures, results))
    head = "".join(f"<th>{_escaped(name)}</th>" for name in COLUMNS)
    facts = "".join(f"<tr><th>{_escaped(name)}</th><td>{_escaped(value)}</td></tr>" for name, value in about)
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{_escaped(title)}</title><style>{_STYLE}</style>'
        f"<h1>{_escaped(title)}</h1>{svg(results, title)}<table>{facts}</table><h2>Figures</h2>"
        f"<table><tr>{head}</tr>{rows}</table><p>Measured {datetime.date.today().isoformat()}. FAKE and software units have "
        "no times. A run is invalid if it was throttled or noisy and stayed so.</p></html>\n"
    )


COLUMNS = (
    "variant",
    "delegate",
    "served by",
    "operators",
    "p50",
    "p90",
    "p99",
    "first answer",
    "memory",
    "energy",
    "note",
)


def figures(result: Result) -> tuple[str, ...]:
    """One row under COLUMNS."""
    candidate = result.candidate
    start = (candidate.variant, delegate_text(candidate.delegate), result.served_by)
    if not result.figures:
        return (*start, "", "", "", "", "", "", "", result.failed)
    found, placement = result.figures, result.figures["placement"]
    known = placement["operators"] is not None
    share = f"{placement['on_unit']} of {placement['operators']}" if known else "not told"
    times = [duration(found[key]) for key in ("median_us", "p90_us", "p99_us")]
    first = "" if found["cold_start_ms"] is None else f"{found['cold_start_ms']:.0f} ms"
    memory = "" if not found["peak_bytes"] else f"{found['peak_bytes'] / 2**20:.1f} MiB"
    energy = "" if result.energy_uj is None else f"{result.energy_uj / 1000:.3g} mJ ({found['energy_of']})"
    note = "; ".join(result.invalid) or (f"run {result.tries} times" if result.tries > 1 else "")
    return (*start, share, *times, first, memory, energy, f"INVALID: {note}" if result.invalid else note)


def duration(us: float | None) -> str:
    """`7.9 us`, `1.23 ms`; `-` where nothing is shown."""
    if us is None:
        return "-"
    return f"{us:.3g} us" if us < 1000 else f"{us / 1000:.3g} ms"


def write_text(path: Path, text: str) -> None:
    """Aside first, then renamed. InputError where it cannot be."""
    aside = path.with_name(f".{path.name}.new")
    try:
        aside.write_text(text, "utf-8")
        aside.replace(path)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}", hint="choose another place") from error


def _cell(text: str) -> str:
    return f'<td class="n">{_escaped(text)}</td>' if text[:1].isdigit() else f"<td>{_escaped(text)}</td>"


def _short(name: str) -> str:
    return name if len(name) <= 44 else f"{name[:26]}…{name[-17:]}"


def _escaped(text: str) -> str:
    return html.escape("".join(c if c.isprintable() else "?" for c in text), quote=True)
