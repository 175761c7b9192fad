"""`edgekit join`."""

from __future__ import annotations

from pathlib import Path

import click

from edgekit.cli.show import json_option, show_facts, show_json

EXAMPLES = """\b
Example:
  edgekit join wide narrow -o two --goal 'max_accuracy(watts=3, deadline=1s)'
made of what these wrote:
  edgekit convert wide.keras -o wide --samples s.npz --evaluate test.npz
  edgekit convert narrow.keras -o narrow --samples s.npz --evaluate test.npz
"""


@click.command("join", epilog=EXAMPLES)
@click.argument("bundles", nargs=-1, required=True, metavar="BUNDLE...", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="The new bundle.")
@click.option("--goal", help="Of power, for the new bundle; default: the first one's.")
@json_option
def join_command(bundles: tuple[Path, ...], output: Path, goal: str | None, as_json: bool) -> None:
    """Make one bundle of several, with all their variants, for a goal to choose from.

    Each BUNDLE is proved once more, and must be of the same task: same inputs, preprocessing, labels and samples. The first
    one's default variant stays the default.
    """
    from edgekit.convert.join import join

    made = join(bundles, output, goal=goal)
    variants = {variant.name: {q.metric: q.value for q in variant.qualities} for variant in made.manifest.variants}
    if as_json:
        show_json({"bundle": str(output), "id": made.id, "goal": made.manifest.goal, "variants": variants})
        return
    shown = [
        ("variant", ", ".join([name, *(f"{m} {value:.4g}" for m, value in q.items())])) for name, q in variants.items()
    ]
    show_facts(
        [("bundle", output), ("id", made.id), *shown, *([("goal", made.manifest.goal)] if made.manifest.goal else [])]
    )
