"""`edgekit completion`."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

EXAMPLES = """\b
Examples:
  edgekit completion bash >> ~/.bashrc
  edgekit completion zsh >> ~/.zshrc
  edgekit completion fish > ~/.config/fish/completions/edgekit.fish
"""


@click.command("completion", epilog=EXAMPLES)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion_command(shell: str) -> None:
    """Print the completion script for SHELL."""
    from edgekit.cli.main import cli

    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(cli, {}, "edgekit", "_EDGEKIT_COMPLETE").source())
