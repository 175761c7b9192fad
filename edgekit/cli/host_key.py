"""`edgekit host-key show` and `replace`."""

from __future__ import annotations

import sys
from typing import Any

import click

from edgekit.cli.show import json_option, show_facts, show_json

DEVICE = click.argument("device", metavar="DEVICE")


@click.group(
    "host-key",
    epilog="\b\nExamples:\n  edgekit host-key show pi@raspberrypi.local\n  edgekit host-key replace pi@raspberrypi.local",
)
def host_key_command() -> None:
    """Show which key a device proves itself with, and replace it on file when it changed for a good reason.

    A device that shows another key than the one on file is not talked to. There is no option to do it nevertheless: if the
    board was set up anew, compare the fingerprint with what it prints itself, and replace the key.
    """


@host_key_command.command("show", epilog="Example:\n  edgekit host-key show pi@raspberrypi.local")
@DEVICE
@json_option
def show_command(device: str, as_json: bool) -> int:
    """Show the key that DEVICE has now; exit 4 if it is not the one on file."""
    from edgekit.deploy.host_key import look_at_host_key

    found = look_at_host_key(device)
    facts: dict[str, Any] = {
        "device": found.name,
        "shows": f"{found.shown.type} {found.shown.fingerprint}",
        "on file": [f"{key.type} {key.fingerprint}" for key in found.known.trusted],
        "verdict": found.verdict,
    }
    if as_json:
        show_json(facts)
    else:
        show_facts([(name, ", ".join(v) or "-" if isinstance(v, list) else v) for name, v in facts.items()])
    return 0 if found.verdict in ("known", "signed") else 4


@host_key_command.command(
    "replace",
    epilog="\b\nExamples:\n  edgekit host-key replace pi@raspberrypi.local\n"
    "  edgekit host-key replace pi@raspberrypi.local --fingerprint SHA256:...\n\n"
    "The board prints its own with: ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub",
)
@DEVICE
@click.option("--fingerprint", metavar="SHA256:...", help="What it must be; then nobody is asked.")
@json_option
def replace_command(device: str, fingerprint: str | None, as_json: bool) -> None:
    """Forget the key on file for DEVICE, and trust the one that it shows now."""
    from edgekit.deploy.host_key import look_at_host_key, replace_host_key
    from edgekit.errors import HostKeyUnknown, InputError

    found = look_at_host_key(device)
    shown = f"{found.shown.type} {found.shown.fingerprint}"
    if fingerprint is None:
        if not sys.stdin.isatty():
            raise InputError(
                f"{found.name} shows {shown}, and nobody is there to vouch for it",
                hint="compare it with the board's own, then add: --fingerprint SHA256:...",
            )
        for key in found.known.trusted:
            click.echo(f"on file: {key.type} {key.fingerprint}", err=True)
        click.echo(f"it shows: {shown}", err=True)
        click.confirm("Is that the device's own?", default=False, err=True, abort=True)
    elif fingerprint != found.shown.fingerprint:
        raise HostKeyUnknown(
            f"{found.name} shows {shown}, not {fingerprint}", hint="nothing was changed; somebody may be in between"
        )
    changed = replace_host_key(found)
    if as_json:
        show_json({"device": found.name, "key": shown, "changed": [str(path) for path in changed]})
    else:
        click.echo(f"{found.name}: {shown} is trusted from now on ({', '.join(str(path) for path in changed)})")
