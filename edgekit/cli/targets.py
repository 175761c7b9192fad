"""`edgekit targets`, and the type of every --target option."""

from __future__ import annotations

import click
from click.shell_completion import CompletionItem

from edgekit.cli.show import json_option, show_json, show_table


class TargetName(click.types.StringParamType):
    """A target's name; the shell completes it."""

    name = "target"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from edgekit.target import target_names

        return [CompletionItem(name) for name in target_names() if name.startswith(incomplete)]


TARGET = TargetName()


@click.command("targets", epilog="\b\nExamples:\n  edgekit targets\n  edgekit targets --json")
@json_option
def targets_command(as_json: bool) -> None:
    """List the kinds of board edgekit knows; each is one file in targets/."""
    from edgekit.target import load_target, target_names

    targets = [load_target(name) for name in target_names()]
    if as_json:
        show_json(targets)
        return
    rows = [(t.name, t.arch, t.threads, t.description) for t in targets]
    show_table(("target", "arch", "threads", "what it is"), rows)
