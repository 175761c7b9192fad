"""`edgekit power show`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import click

from edgekit.cli.device import DEVICE, DEVICE_HELP, ask_host_key, device_options
from edgekit.cli.show import show_facts, show_json, show_table


@click.group("power", epilog="\b\nExample:\n  edgekit power show pi@raspberrypi.local")
def power_command() -> None:
    """Show what a device draws, how hot it is and how fast it runs."""


@power_command.command(
    "show",
    epilog=DEVICE_HELP + "\n\b\nExamples:\n  edgekit power show pi@raspberrypi.local\n"
    "  edgekit power show pi@raspberrypi.local --seconds 30 --json\n"
    "  edgekit power show local:.                 this machine\n"
    "On the device itself: ROOT/current/run power",
)
@DEVICE
@click.option(
    "--seconds",
    type=click.FloatRange(0, 100),
    default=1.0,
    show_default=True,
    help="How long to watch for one table, ten times a second; 0 is one look.",
)
@click.option("--once", is_flag=True, help="One table, also on a terminal, where it is renewed until Ctrl-C.")
@device_options
def show_command(device: str, seconds: float, once: bool, python: str, as_json: bool) -> None:
    """Show every sensor of DEVICE: value, where it comes from, and the energy meanwhile.

    Nothing is installed or written there, and no right is needed; what only root may read is shown as absent, with what
    to do. A value is measured, estimated (a fit or a sum, the clock that was asked for) or absent; never 0 for unknown.
    """
    from edgekit.deploy.address import parse_address
    from edgekit.deploy.sensors import open_sensors

    with open_sensors(parse_address(device), python=python, ask=ask_host_key) as sensors:
        is_live = sys.stdout.isatty() and not once and not as_json
        while True:
            found = sensors.watch(max(seconds, 0.2) if is_live else seconds)
            if as_json:
                show_json({"device": device, **found})
                return
            if is_live:
                click.clear()
            _show(device, sensors.board, found)
            if not is_live:
                return


def _show(device: str, board: str, found: Mapping[str, Any]) -> None:
    from edgekit.runner.power.table import COLUMNS, reading_rows, summary

    rows = reading_rows(found)
    facts = [("device", f"{device} ({found['board'] or board})"), *summary(found)]
    if rows:
        show_table(COLUMNS, rows, right=("value",))
    else:
        facts.append(("sensors", "none: a virtual machine or a container, perhaps"))
    show_facts(facts)
