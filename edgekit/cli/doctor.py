"""`edgekit doctor`."""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekit.cli.device import DEVICE, DEVICE_HELP, ask_host_key, device_options
from edgekit.cli.show import show_json

if TYPE_CHECKING:
    from edgekit.doctor.checks import Diagnosis
    from edgekit.doctor.examine import Done, Patient, Step
    from edgekit.doctor.finding import Finding

WIDTH = 80
COLOURS = {"error": "red", "warning": "yellow", "note": "cyan"}


@click.command(
    "doctor",
    epilog=DEVICE_HELP + "\n\b\nExamples:\n  edgekit doctor pi@raspberrypi.local\n"
    "  edgekit doctor pi@raspberrypi.local --fix\n"
    "  edgekit doctor pi@raspberrypi.local --json --save snapshot.json\n"
    "  edgekit doctor local:.                     this machine\n"
    "Exit codes: 0 fine or notes only, 10 warnings, 20 errors, 4 not reached.\n"
    "docs/doctor.md lists every check.",
)
@DEVICE
@click.option("--fix", is_flag=True, help="Show each command that would help, ask, and run it there.")
@click.option("--yes", is_flag=True, help="With --fix: do not ask, run them all.")
@click.option("--only", multiple=True, metavar="CHECK", help="Make this check only; may be given again.")
@click.option("--save", type=click.Path(path_type=Path), help="Also write what was read there, as JSON.")
@device_options
def doctor_command(
    device: str, fix: bool, yes: bool, only: tuple[str, ...], save: Path | None, python: str, as_json: bool
) -> int:
    """Find what is wrong with DEVICE, worst first, and what ends it.

    Looks at Python and wheels, Coral and GPU drivers, supply and heat, disks, clock, memory, sshd and systemd. Nothing has
    to be installed there, and nothing is changed without --fix and consent.
    """
    from edgekit.deploy.address import parse_address
    from edgekit.doctor.checks import chosen, diagnose
    from edgekit.doctor.examine import open_patient, plan, treat
    from edgekit.errors import InputError

    if yes and not fix:
        raise click.UsageError("--yes goes with --fix")
    if fix and not yes and not sys.stdin.isatty():
        raise InputError("--fix asks before each command, and nobody is there to answer", hint="add --yes")
    checks = chosen(only)
    address = parse_address(device)
    done: list[Done] = []
    with open_patient(address, python=python, ask=ask_host_key) as patient:
        board, fields = patient.snapshot()
        diagnosis = diagnose(board, checks)
        if save is not None:
            _save(save, fields)
        steps = plan(diagnosis) if fix else ()
        if not as_json:
            click.echo(f"{device}: {board.board or board.system}")
            _show(diagnosis)
        if steps:
            patient.check_sudo(steps)
            done = list(_treated(patient, steps, yes, quiet=as_json, treat=treat))
    if any(one.code is not None for one in done):
        before = diagnosis
        with open_patient(address, python=python, ask=ask_host_key) as patient:  # a new login has its new groups
            diagnosis = diagnose(patient.snapshot()[0], checks)
        if not as_json:
            _show_difference(before, diagnosis)
    if as_json:
        show_json({"device": device, "board": board.board or board.system, **_as_fields(diagnosis, done)})
    elif fix and diagnosis.findings and not steps:
        click.echo("no command of doctor's would help: what is left is for hands")
    return diagnosis.exit_code


def _treated(patient: Patient, steps: Sequence[Step], yes: bool, *, quiet: bool, treat: Any) -> Any:
    """Runs the steps and tells of each as it goes."""

    def agree(step: Step) -> bool:
        click.echo(f"\n{step.finding.check}: {step.finding.message}\n  $ {step.command.text}", err=quiet)
        return yes or click.confirm("  Run this on the device?", default=False, err=quiet)

    for one in _finishing(treat(patient, steps, agree)):
        if one.code is not None and not quiet:
            from edgekit.doctor.text import plain

            lines = [plain(line) for line in one.out.splitlines() if line.strip()]
            for line in lines[-1:] if one.code == 0 else lines[-8:]:
                click.echo(f"  {line}")
            click.echo("  done" if one.code == 0 else f"  exit code {one.code}: the rest of this one is left out")
        yield one


def _finishing(steps: Any) -> Any:
    """The same, and a word about what goes on when somebody interrupts it."""
    try:
        yield from steps
    except KeyboardInterrupt:
        click.echo("\na command that has begun goes on to its end on the device", err=True)
        raise


def _show(diagnosis: Diagnosis) -> None:
    from edgekit.doctor.checks import summary

    for finding in diagnosis.findings:
        click.echo()
        _show_finding(finding)
    if diagnosis.unknown:
        click.echo()
        told: dict[str, list[str]] = {}
        for unknown in diagnosis.unknown:
            told.setdefault(unknown.why, []).append(unknown.check)
        for why, checks in told.items():
            _wrapped(f"could not tell {', '.join(checks)}: {why}", "  ", "  ")
    click.echo(("\n" if diagnosis.findings or diagnosis.unknown else "") + summary(diagnosis))


def _show_finding(finding: Finding) -> None:
    head = textwrap.wrap(
        f"{finding.severity}  {finding.message} [{finding.check}]",
        WIDTH,
        subsequent_indent="  ",
        break_on_hyphens=False,
    )
    severity = len(finding.severity)
    click.echo(click.style(head[0][:severity], fg=COLOURS[finding.severity], bold=True) + head[0][severity:])
    for line in head[1:]:
        click.echo(line)
    for evidence in finding.evidence:
        _wrapped(f"{evidence.source}: {evidence.said}", "  read  ", "        ")
    _wrapped(finding.reason, "  why   ", "        ")
    for command in finding.commands:
        click.echo(f"  fix   {command.text}")  # never wrapped: it is there to be copied
    if finding.by_hand:
        _wrapped(finding.by_hand, "  hand  ", "        ")
    if finding.after:
        _wrapped(finding.after, "  then  ", "        ")


def _wrapped(text: str, first: str, rest: str) -> None:
    for line in textwrap.wrap(text, WIDTH, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False):
        click.echo(line)


def _show_difference(before: Diagnosis, after: Diagnosis) -> None:
    """What the commands changed, by a second look."""
    from edgekit.doctor.checks import summary

    left = {(finding.check, finding.message) for finding in after.findings}
    checks_left = {finding.check for finding in after.findings}
    click.echo("\nafter a second look:")
    for finding in before.findings:
        if not finding.commands:
            continue
        if (finding.check, finding.message) not in left and finding.check not in checks_left:
            _wrapped(f"{finding.check}: gone", "  ", "    ")
        else:
            then = f", until you {finding.after}" if finding.after else ""
            _wrapped(f"{finding.check}: still there{then}", "  ", "    ")
    for finding in after.findings:
        if finding not in before.findings:  # found now that something else is out of its way, or told otherwise
            _show_finding(finding)
    click.echo(summary(after))


def _as_fields(diagnosis: Diagnosis, done: Sequence[Done]) -> dict[str, Any]:
    """The result for programs."""
    return {
        "findings": [
            {
                "check": finding.check,
                "severity": finding.severity,
                "message": finding.message,
                "reason": finding.reason,
                "evidence": [{"source": one.source, "said": one.said} for one in finding.evidence],
                "commands": [_command_fields(command) for command in finding.commands],
                "by_hand": finding.by_hand,
                "after": finding.after,
            }
            for finding in diagnosis.findings
        ],
        "unknown": [{"check": one.check, "why": one.why} for one in diagnosis.unknown],
        "checks": diagnosis.checks,
        "counts": diagnosis.counts,
        "ran": [
            {"check": one.step.finding.check, "command": one.step.command.text, "code": one.code, "out": one.out}
            for one in done
        ],
    }


def _command_fields(command: Any) -> dict[str, Any]:
    return {"text": command.text, "argv": list(command.argv), "stdin": command.stdin}


def _save(path: Path, fields: dict[str, object]) -> None:
    from edgekit.errors import InputError

    aside = path.with_name(f".{path.name}.new")
    try:
        aside.write_text(json.dumps(fields, indent=1) + "\n", "utf-8")
        aside.replace(path)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise InputError(f"{path} cannot be written: {error.strerror}", hint="choose another file for --save") from None
