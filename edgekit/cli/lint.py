"""`edgekit lint`, and how findings are shown after a conversion."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgekit.cli.show import json_option, show_facts, show_json
from edgekit.cli.targets import TARGET

if TYPE_CHECKING:
    from edgekit.convert.finding import Finding

EXAMPLES = """\b
Examples:
  edgekit lint model.tflite --samples samples.npz
  edgekit lint bundle --target jetson-nano --strict
"""
FILE = click.Path(path_type=Path)
COLOURS = {"warning": "yellow", "info": "cyan"}


@click.command("lint", epilog=EXAMPLES)
@click.argument("path", type=FILE, metavar="BUNDLE|MODEL.tflite")
@click.option("--target", type=TARGET, help="The kind of board that it is meant for.")
@click.option("--samples", type=FILE, help="Typical inputs: then ranges are looked at too. As for convert.")
@click.option("--preprocess", "spec", type=FILE, help="TOML: how a raw input becomes what the model sees.")
@click.option("--strict", is_flag=True, help="Exit 6 if there is a warning.")
@json_option
def lint_command(
    path: Path, target: str | None, samples: Path | None, spec: Path | None, strict: bool, as_json: bool
) -> None:
    """Tell what in a model is known to cost accuracy in int8, or not to run: layer, evidence, what to do."""
    from edgekit.convert.apart import run_apart
    from edgekit.convert.inspection import check_strict, inspect_file

    if samples is None:  # nothing is run, only read
        findings = inspect_file(path, target=target)
    else:
        findings = run_apart(
            *("edgekit.convert.inspection", "inspect_file", path),
            doing=f"measuring {path}",
            target=target,
            samples=samples,
            spec=spec,
        )
    if as_json:
        show_json({"path": str(path), "findings": findings})
    elif not findings:
        click.echo("nothing found")
    else:
        show_findings(findings, apart=False)
    check_strict(findings, strict)


def show_findings(findings: Sequence[Finding], *, apart: bool = True) -> None:
    """Each finding as a paragraph: rule and layer, evidence, what to do."""
    for index, finding in enumerate(findings):
        if apart or index:
            click.echo()
        click.echo(f"{click.style(finding.severity, fg=COLOURS[finding.severity])}  {finding.rule}: {finding.layer}")
        show_facts([("  seen", finding.evidence), ("  do", finding.fix)])
