"""`edgekit signers`: which keys a device takes signatures from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from edgekit.cli.device import DEVICE, DEVICE_HELP, ask_host_key, device_options
from edgekit.cli.show import json_option, show_facts, show_json, show_table

PUBLIC = click.Path(path_type=Path)


@click.group(
    "signers",
    epilog="\b\nExamples:\n  edgekit signers add pi@raspberrypi.local release_key.pub\n"
    "  edgekit signers list pi@raspberrypi.local\n"
    "  edgekit signers replace pi@raspberrypi.local old.pub new.pub --sign old\n"
    "  edgekit signers prepare c.json --add new.pub --revoke old.pub --sign old\n"
    "  edgekit signers apply pi@raspberrypi.local c.json",
)
def signers_command() -> None:
    """Say whose signature a device asks for; once there is one, it takes signed releases only."""


def change_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """What a change of an enrolled device needs."""
    sign = click.option("--sign", type=PUBLIC, metavar="KEY", help="An enrolled key signs the change.")
    unsigned = click.option("--unsigned", is_flag=True, help="No signature: this login is to be enough.")
    return sign(unsigned(device_options(function)))


@signers_command.command("list", epilog=DEVICE_HELP)
@DEVICE
@device_options
def list_command(device: str, python: str, as_json: bool) -> None:
    """Show the keys that DEVICE knows."""
    from edgekit.deploy.address import parse_address
    from edgekit.deploy.enrol import list_signers

    _show(list_signers(parse_address(device), python=python, ask=ask_host_key), as_json)


@signers_command.command("add", epilog=DEVICE_HELP)
@DEVICE
@click.argument("key", metavar="KEY.pub", type=PUBLIC)
@click.option("--name", help="Whose it is; default: the first word of the key's comment.")
@change_options
def add_command(
    device: str, key: Path, name: str | None, sign: Path | None, unsigned: bool, python: str, as_json: bool
) -> None:
    """Enrol a key on DEVICE. The first one needs no signature: whoever may log in there enrols it."""
    from edgekit.deploy.enrol import name_of
    from edgekit.deploy.sign import read_public_key

    add = {name_of(key, name): read_public_key(key)[0]}
    _change(device, python, as_json, sign, unsigned=unsigned, add=add)


@signers_command.command("replace", epilog=DEVICE_HELP)
@DEVICE
@click.argument("old", metavar="OLD")
@click.argument("new", metavar="NEW.pub", type=PUBLIC)
@click.option("--name", help="Whose the new one is; default: the first word of its comment.")
@change_options
def replace_command(
    device: str, old: str, new: Path, name: str | None, sign: Path | None, unsigned: bool, python: str, as_json: bool
) -> None:
    """Enrol NEW.pub and revoke OLD in one step.

    OLD is a .pub file, a fingerprint or a name.
    """
    from edgekit.deploy.enrol import name_of
    from edgekit.deploy.sign import read_public_key

    add = {name_of(new, name): read_public_key(new)[0]}
    _change(device, python, as_json, sign, unsigned=unsigned, add=add, revoke=[_key(old)])


@signers_command.command("revoke", epilog=DEVICE_HELP)
@DEVICE
@click.argument("key", metavar="KEY")
@change_options
def revoke_command(device: str, key: str, sign: Path | None, unsigned: bool, python: str, as_json: bool) -> None:
    """Let a key never count on DEVICE again.

    KEY is a .pub file, a fingerprint or a name.
    """
    _change(device, python, as_json, sign, unsigned=unsigned, add={}, revoke=[_key(key)])


@signers_command.command("prepare")
@click.argument("change", metavar="CHANGE.json", type=PUBLIC)
@click.option(
    "--add", multiple=True, type=PUBLIC, metavar="KEY.pub", help="To be enrolled, by its comment's first word."
)
@click.option("--revoke", multiple=True, type=PUBLIC, metavar="KEY.pub", help="Never to count again.")
@click.option("--sign", type=PUBLIC, metavar="KEY", help="An enrolled key that signs it; without, sign it elsewhere.")
@json_option
def prepare_command(
    change: Path, add: tuple[Path, ...], revoke: tuple[Path, ...], sign: Path | None, as_json: bool
) -> None:
    """Write, and sign, a change for many devices.

    Who applies it needs no key.
    """
    from edgekit.deploy.enrol import make_change, name_of
    from edgekit.deploy.sign import Signed, read_public_key, sign_with, write_signed
    from edgekit.deploy.sshsig import SIGNERS
    from edgekit.errors import InputError

    if not add and not revoke:
        raise InputError("what shall change?", hint="give --add KEY.pub or --revoke KEY.pub")
    named = {name_of(path, None): read_public_key(path)[0] for path in add}
    text = make_change(named, [read_public_key(path)[0] for path in revoke])
    write_signed(change, Signed(text, b"" if sign is None else sign_with(sign, SIGNERS)(text)))
    if as_json:
        show_json(
            {"change": change, "signed": sign is not None, "add": sorted(named), "revoke": [str(p) for p in revoke]}
        )
        return
    show_facts(
        [("change", change), ("adds", ", ".join(sorted(named)) or "-"), ("revokes", ", ".join(map(str, revoke)) or "-")]
    )
    if sign is None:
        click.echo(f"next: ssh-keygen -Y sign -n {SIGNERS} -f KEY {change}")
    click.echo(f"then: edgekit signers apply DEVICE {change}")


@signers_command.command("apply", epilog=DEVICE_HELP)
@DEVICE
@click.argument("change", metavar="CHANGE.json", type=PUBLIC)
@device_options
def apply_command(device: str, change: Path, python: str, as_json: bool) -> None:
    """Hand a signed change to DEVICE; doing it again changes nothing."""
    from edgekit.deploy.address import parse_address
    from edgekit.deploy.enrol import apply_change
    from edgekit.deploy.sign import read_signed
    from edgekit.errors import InputError

    signed = read_signed(change)
    if signed is None:
        raise InputError(f"{change} is not there", hint="edgekit signers prepare makes one")
    _show(apply_change(parse_address(device), signed, python=python, ask=ask_host_key), as_json)


def _change(
    device: str,
    python: str,
    as_json: bool,
    sign: Path | None,
    *,
    unsigned: bool,
    add: dict[str, str],
    revoke: Sequence[str] = (),
) -> None:
    from edgekit.deploy.address import parse_address
    from edgekit.deploy.enrol import change_signers
    from edgekit.deploy.sign import sign_with
    from edgekit.deploy.sshsig import SIGNERS

    signer = None if sign is None else sign_with(sign, SIGNERS)
    done = change_signers(
        parse_address(device), add=add, revoke=revoke, sign=signer, unsigned=unsigned, python=python, ask=ask_host_key
    )
    _show(done, as_json)


def _key(given: str) -> str:
    """The key in a .pub file, or what was given: a fingerprint or a name."""
    from edgekit.deploy.sign import read_public_key

    return read_public_key(Path(given))[0] if Path(given).is_file() else given


def _show(found: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        show_json(found)
        return
    if not found["enforced"]:
        click.echo(f"{found['device']}: no signers; it takes releases without a signature")
        return
    rows = [
        (r["name"], r["type"], r["key"], r["min_seq"] or "-", "revoked" if r["revoked"] else "enrolled")
        for r in found["signers"]
    ]
    show_table(("name", "type", "key", "least number", "state"), rows)
