"""`edgekit deploy`."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from edgekit.cli.device import DEVICE, DEVICE_HELP, STAGES, agree, ask_beside, device_options
from edgekit.cli.show import limits_text, show_facts, show_json, showing_progress, size_text

POWER = """edgekit-powerd is one file of the standard library that runs as root there, as a systemd service without network.
It sets the highest clock of processors and devfreq devices to one of their own, and a Jetson's power mode, for this runner
alone; everything is as before when the runner goes. edgekit remove takes it away."""
SERVICES = {
    "system": "systemd keeps it running, it answers at /run/edgekit/edgekit.sock",
    "user": "the user's systemd keeps it running, it answers at ROOT/run/edgekit.sock",
    "none": "none: nothing keeps it running; start it with ROOT/current/run",
}


@click.command(
    "deploy",
    epilog=DEVICE_HELP + "\n\b\nExamples:\n  edgekit deploy bundle pi@raspberrypi.local\n"
    "  edgekit deploy bundle local:./device --dry-run",
)
@click.argument("bundle", type=click.Path(path_type=Path))
@DEVICE
@click.option("--with-pillow", is_flag=True, help="Also put Pillow there, to infer from picture files.")
@click.option("--dry-run", is_flag=True, help="Show the plan as it would be run; change nothing.")
@click.option("--verify", is_flag=True, help="Hash everything on the device first; send again what is damaged.")
@click.option(
    "--window", type=click.FloatRange(5, 86400), default=120.0, show_default=True, metavar="S", help="Seconds of trial."
)
@click.option(
    "--confirm",
    type=click.Choice(["workstation", "device"]),
    default="workstation",
    show_default=True,
    help="Who ends the trial: we, over a new connection, or the device at the end of the window (for flaky links).",
)
@click.option(
    "--service",
    type=click.Choice(["auto", "system", "user", "none"]),
    default="auto",
    show_default=True,
    help="What keeps it running: the system's systemd, the user's, or nothing.",
)
@click.option(
    "--sign", type=click.Path(path_type=Path), metavar="KEY", help="Sign it now (a key, or the .pub of an agent's)."
)
@click.option("--unsigned", is_flag=True, help="Without a signature, to a device that has signers.")
@click.option("--allow-volatile", is_flag=True, help="Deploy to a file system that may forget at a reboot.")
@click.option("--power", is_flag=True, help="Also install edgekit-powerd there, which sets clocks as root; asks first.")
@click.option("--yes", is_flag=True, help="Do not ask about --power.")
@device_options
def deploy_command(
    bundle: Path,
    device: str,
    python: str,
    with_pillow: bool,
    dry_run: bool,
    verify: bool,
    window: float,
    confirm: str,
    service: str,
    sign: Path | None,
    unsigned: bool,
    allow_volatile: bool,
    power: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Put BUNDLE on DEVICE, let it answer its golden vectors there, switch to it on trial, confirm it.

    The device needs sshd and python3, nothing else: the interpreter for its Python is built here and sent once. Unless
    the trial is confirmed in time, the device goes back to the release before by itself: after a lost connection, a
    crash here, a power cut there. With --json, progress is one JSON object a line on stderr.
    """
    from edgekit.bundle import read_bundle
    from edgekit.deploy.address import parse_address
    from edgekit.deploy.install import deploy
    from edgekit.deploy.sign import read_signed, sign_with, statement_path
    from edgekit.errors import InputError

    if sign is not None and unsigned:
        raise InputError("--sign and --unsigned say the opposite", hint="leave one of them out")
    found = read_bundle(bundle)
    if power and not yes and not dry_run:
        agree(f"{POWER}\nInstall it on {device}?", "--power asks before it installs what runs as root")
    with showing_progress(as_json) as progress:

        def sign_beside(statement: bytes) -> bytes:
            assert sign is not None
            with progress.hidden():  # ssh-keygen may ask for a passphrase
                return sign_with(sign)(statement)

        done = deploy(
            found,
            parse_address(device),
            python=python,
            with_pillow=with_pillow,
            dry_run=dry_run,
            verify=verify,
            window_s=window,
            confirm=confirm,
            service=service,
            volatile=allow_volatile,
            signed=None if unsigned or sign is not None else read_signed(statement_path(found)),
            sign=None if sign is None else sign_beside,
            unsigned=unsigned,
            power=power,
            ask=lambda *key: ask_beside(progress, *key),
            progress=show_events() if as_json else lambda stage, *sent: progress(STAGES[stage], *sent),
        )
    if as_json:
        show_json(done)
        return
    sent = f"{done.files_sent} files, {size_text(done.bytes_sent)} (before compression)"
    if not done.changed:
        click.echo(f"{done.device}: release {done.release} is current already, nothing was sent")
        if dry_run or done.power is not None:
            show_facts([(f"would {step.stage}", step.what) for step in done.steps] if dry_run else _power(done.power))
        return
    if done.service_before is not None:
        click.echo(f"{done.device}: release {done.release} was current already and stays so")
        show_facts(
            [
                ("service", SERVICES.get(done.service or "", done.service)),
                ("before", done.service_before),
                *_power(done.power),
            ]
        )
        return
    facts: list[tuple[str, object]] = [("device", f"{done.device} ({done.system})")]
    facts += [("warning", done.warning)] if done.warning else []
    if dry_run:
        facts += [("root", done.root), *((f"would {step.stage}", step.what) for step in done.steps)]
        show_facts([*facts, ("in use now", done.previous)])
        return
    facts += [("sent", sent), ("release", f"{done.root}/releases/{done.release}")]
    facts += [("runtime", " ".join(done.requirements)), ("previous", done.previous), *_agreements(done.check)]
    facts += [("service", SERVICES.get(done.service or "", done.service))]
    if found.manifest.limits:
        facts += [("limits", f"{limits_text(found.manifest.limits)}: {_kept(done.health)}")]
    facts += [("signed by", done.signed_by)] if done.signed_by else []
    facts += [("confirmed by", f"the {done.confirmed_by}"), *_power(done.power)]
    show_facts(facts)


def _power(changed: tuple[str, ...] | None) -> list[tuple[str, object]]:
    return (
        [] if changed is None else [("power helper", f"edgekit-powerd runs ({', '.join(changed) or 'it was there'})")]
    )


def _kept(health: Mapping[str, Any] | None) -> str:
    """What a server on trial was found to take."""
    if health is None:
        return "not checked, there is no server"
    found = health["server"]
    rss, p95 = found.get("rss_bytes"), found.get("p95_ms")
    said = [] if rss is None else [size_text(int(rss))]
    said += [] if p95 is None else [f"{p95:g} ms"]
    return f"it took {', '.join(said)}" if said else "not checked, its server does not say what it takes"


def _agreements(check: Mapping[str, Any] | None) -> list[tuple[str, object]]:
    """A line for each variant of the device's golden check; more where a delegate did not serve that was asked for."""
    if check is None:
        return []
    lines: list[tuple[str, object]] = []
    for row in check["variants"]:
        told = f"{row['bit_equal']} of {row['count']} answers equal to the bit, largest difference "
        told += f"{row['largest_difference']:g} (allowed {row['tolerance']:g})"
        placement = row.get("placement") or {}  # runners before delegates have none
        kind = "FAKE " if placement.get("fake") else "software " if placement.get("software") else ""
        is_cpu = placement.get("unit", "cpu") == "cpu"
        lines.append((f"golden {row['variant']}", told if is_cpu else f"{told}, on {kind}{placement['unit']}"))
        if placement and placement["requested"] != placement["delegate"]:
            lines.append(("NOT AS ASKED", f"{placement['delegate']} serves, {placement['requested']} was asked for"))
            tried = (each for each in placement["attempts"] if each["outcome"] != "serves")
            lines += [(each["delegate"].partition(":")[0], f"{each['outcome']}: {each['reason']}") for each in tried]
    return lines


def show_events() -> Callable[[str, int, int], None]:
    """Shows progress as JSON lines on stderr, twice a second at most while bytes are sent."""
    started: dict[str, float] = {}
    shown_s = 0.0

    def show(stage: str, done: int, total: int) -> None:
        nonlocal shown_s
        now_s = time.monotonic()
        since_s = now_s - started.setdefault(stage, now_s)
        if done not in (0, total) and now_s - shown_s < 0.5:
            return
        shown_s = now_s
        event: dict[str, object] = {"event": stage}
        if total:
            left_s = since_s / done * (total - done) if done else None
            event |= {"bytes": done, "bytes_total": total, "left_s": None if left_s is None else round(left_s, 1)}
        click.echo(json.dumps(event), err=True)

    return show
