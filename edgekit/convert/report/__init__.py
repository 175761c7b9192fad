"""The report: one HTML file that needs nothing else, not the network either. The same comparison is the same bytes.

It lies beside the bundle, not in it: the bundle is named by its content and goes to boards, and a report has times in it
that were measured just now. It is also written when the gate refuses the model and there is no bundle at all.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from edgekit.convert.arguments import report_unwritable
from edgekit.convert.compare import Comparison
from edgekit.convert.gate import refusal
from edgekit.convert.layers import loser_text
from edgekit.convert.report.about import About
from edgekit.convert.report.page import render
from edgekit.errors import QualityLost

__all__ = ["About", "refused", "render", "report_path", "write_report"]


def report_path(bundle: Path) -> Path:
    """Where the report of a bundle lies: `digits.report.html` beside `digits`."""
    whole = bundle if bundle.name not in ("", "..") else Path(os.path.abspath(bundle))  # noqa: PTH100  # a name is needed
    return whole.with_name(whole.name + ".report.html")


def refused(comparison: Comparison, page: Path | None, repairs: Sequence[str] = ()) -> QualityLost:
    """The error for a comparison that the gate does not pass; `page` is where its report lies, if it was written.

    `repairs` are the steps that were tried.
    """
    losers = comparison.layers.losers()
    return refusal(
        comparison.verdict,
        [loser_text(layer) for layer in losers],
        report="" if page is None else str(page),
        clipped=any(layer.clipped > 0.01 for layer in losers),
        repairs=repairs,
    )


def write_report(path: Path, comparison: Comparison, about: About) -> None:
    """Writes it: aside first, then renamed. InputError if nothing can be written there."""
    text = render(comparison, about).encode()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, aside = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(text)
            Path(aside).chmod(0o666 & ~_umask())
            Path(aside).replace(path)
        finally:
            Path(aside).unlink(missing_ok=True)
    except OSError as error:
        raise report_unwritable(path, error.strerror or str(error)) from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
