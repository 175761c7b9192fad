"""`edgekit logs`."""

from __future__ import annotations

import json

import click

from edgekit.cli.device import DEVICE, DEVICE_HELP, ask_host_key, device_options


@click.command(
    "logs",
    epilog=DEVICE_HELP + "\n\b\nExamples:\n  edgekit logs pi@raspberrypi.local\n"
    "  edgekit logs pi@raspberrypi.local -n 100 --follow",
)
@DEVICE
@click.option(
    "-n", "--lines", type=click.IntRange(1, 10_000), default=30, show_default=True, help="How many of the last lines."
)
@click.option("-f", "--follow", is_flag=True, help="Then go on with each new one, until Ctrl-C.")
@device_options
def logs_command(device: str, lines: int, follow: bool, python: str, as_json: bool) -> None:
    """Show what DEVICE's runner said, and what its guards did.

    With --json each line is an object of its own.
    """
    from edgekit.deploy.address import parse_address
    from edgekit.deploy.logs import read_logs

    for line in read_logs(parse_address(device), lines, follow=follow, python=python, ask=ask_host_key):
        click.echo(json.dumps({"line": line}) if as_json else line)
