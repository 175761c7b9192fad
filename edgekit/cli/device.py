"""`edgekit status`, `rollback`, `adopt` and `remove`, and what every command has that talks to a device."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

import click

from edgekit.cli.show import (
    ProgressLine,
    json_option,
    show_facts,
    show_json,
    show_table,
    size_text,
)
from edgekit.deploy.address import Transport, parse_address

DEVICE_HELP = """\b
DEVICE is local:DIR (this machine), an alias of ~/.ssh/config, or
user@host[:port]. Host keys are strict; keys come from the agent and files.
"""


DEVICE = click.argument("device", metavar="DEVICE")


def device_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """What every command that talks to a device takes, behind its own options."""

    @functools.wraps(function)
    def addressed(*, device: str | None, transport: Transport, **options: Any) -> Any:
        return function(device=None if device is None else parse_address(device, transport), **options)

    python = click.option("--python", default="python3", show_default=True, help="Its Python, 3.9 or newer.")
    way = click.option(
        "--transport",
        type=click.Choice(["auto", "paramiko", "openssh"]),
        default="auto",
        show_default=True,
        help="How to reach it; auto takes ssh itself for what paramiko cannot do.",
    )
    return python(way(json_option(addressed)))


@click.command("status", epilog=DEVICE_HELP + "\n\b\nExample:\n  edgekit status pi@raspberrypi.local --verify")
@DEVICE
@click.option("--verify", is_flag=True, help="Hash everything on the device; exit 4 if something is damaged.")
@device_options
def status_command(device: str, python: str, verify: bool, as_json: bool) -> int:
    """Show what is installed on DEVICE."""
    from edgekit.deploy.address import parse_address
    from edgekit.deploy.install import status

    found = status(parse_address(device), python=python, verify=verify, ask=ask_host_key)
    damaged = found.get("damaged", [])
    if as_json:
        show_json(found)
        return 4 if damaged else 0
    free = "unknown" if found["free_bytes"] is None else size_text(found["free_bytes"])
    facts = [
        ("device", f"{found['device']} ({found['board'] or found['system']})"),
        ("python", f"{found['python']} on {found['arch']}, {found['libc'] or 'unknown libc'}"),
        ("space", f"{size_text(found['used_bytes'])} used in {found['root']}, {free} free"),
    ]
    facts += [("service", f"kept running by {found['service']} units")] if found["service"] != "none" else []
    if found["power"]["installed"]:
        does = "runs" if found["power"]["active"] else "does NOT run: see journalctl -u edgekit-powerd there"
        facts.append(("power helper", f"edgekit-powerd {does}"))
    if found["trial"] is not None:
        trial = found["trial"]
        facts.append(("on trial", f"{trial['release']}: the {trial['confirm']} decides within {trial['left_s']:.0f} s"))
    facts += [("failed", f"{', '.join(found['failed'])}: not in use any more")] if found["failed"] else []
    show_facts(facts)
    rows = [(r["role"], r["name"], r["id"], (r["bundle"] or "")[:16], r["edgekit"]) for r in found["releases"]]
    if rows:
        show_table(("", "name", "release", "bundle", "edgekit"), rows)
    else:
        click.echo("nothing is installed")
    if verify:
        click.echo("every file is as it was sent" if not damaged else f"damaged: {', '.join(damaged)}")
        if damaged:
            click.echo("  repair with: edgekit deploy BUNDLE DEVICE --verify", err=True)
    return 4 if damaged else 0


@click.command("rollback", epilog=DEVICE_HELP + "\n\b\nExample:\n  edgekit rollback pi@raspberrypi.local")
@DEVICE
@device_options
def rollback_command(device: str, python: str, as_json: bool) -> None:
    """Make DEVICE's previous release current again; what was current becomes the previous one."""
    from edgekit.deploy.address import parse_address
    from edgekit.deploy.install import rollback

    found = rollback(parse_address(device), python=python, ask=ask_host_key)
    if as_json:
        show_json(found)
    else:
        now = f"{found['current']} is current again" if found["current"] else "nothing is in use any more"
        click.echo(f"{found['device']}: {now}, instead of {found['left']}")


@click.command("adopt", epilog=DEVICE_HELP + "\n\b\nExample:\n  edgekit adopt pi@raspberrypi.local")
@DEVICE
@device_options
def adopt_command(device: str, python: str, as_json: bool) -> None:
    """Take over what an older edgekit deployed to DEVICE, or a folder there that lost its journal.

    Every file in use is hashed first. A deployment does the same by itself, except for a lost journal: which release is
    to be trusted then is for a person to say.
    """
    from edgekit.deploy.address import parse_address
    from edgekit.deploy.install import adopt

    found = adopt(parse_address(device), python=python, ask=ask_host_key)
    if as_json:
        show_json(found)
    else:
        click.echo(
            f"{found['device']}: {found['current'] or 'nothing'} is good, {found['previous'] or 'nothing'} before it"
        )


@click.command("remove", epilog=DEVICE_HELP + "\n\b\nExample:\n  edgekit remove pi@raspberrypi.local --yes")
@DEVICE
@click.option("--yes", is_flag=True, help="Do not ask.")
@device_options
def remove_command(device: str, python: str, yes: bool, as_json: bool) -> None:
    """Take everything of edgekit's off DEVICE."""
    from edgekit.deploy.address import parse_address
    from edgekit.deploy.install import remove

    address = parse_address(device)
    if not yes:
        agree(f"Remove all releases and runtimes from {address}?", "remove asks before it deletes")
    found = remove(address, python=python, ask=ask_host_key)
    if as_json:
        show_json(found)
    else:
        click.echo(f"{found['device']}: {found['removed']} is gone")
        if found["left"]:
            click.echo(f"edgekit: the power helper is still there\n  {found['left']}", err=True)


def agree(question: str, why: str) -> None:
    """Returns if a person at a terminal agrees; Abort if not, InputError where nobody is there to be asked."""
    from edgekit.errors import InputError

    if not sys.stdin.isatty():
        raise InputError(f"{why}, and nobody is there to answer", hint="add --yes")
    click.confirm(question, abort=True, err=True)


STAGES = {
    "connect": "connecting",
    "runtime": "building the runtime for its Python",
    "send": "sending",
    "install": "installing the runtime",
    "fetch": "fetching samples",
    "check": "checking golden vectors on the device",
    "service": "changing what keeps it running",
    "trial": "switching to it on trial",
    "confirm": "confirming over a new connection",
    "power": "installing the power helper",
}


def ask_host_key(host: str, key_type: str, fingerprint: str) -> bool:
    """Asks a person at a terminal, once; nobody there means no."""
    if not sys.stdin.isatty() or not sys.stderr.isatty():
        return False
    click.echo(f"\nThe host key of {host} is not known. It is {key_type} {fingerprint}", err=True)
    return click.confirm("Is that the device's own?", default=False, err=True)


def ask_beside(progress: ProgressLine, host: str, key_type: str, fingerprint: str) -> bool:
    """`ask_host_key` while the progress line is away."""
    with progress.hidden():
        return ask_host_key(host, key_type, fingerprint)
