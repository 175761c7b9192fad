"""Every check, and the diagnosis: what they say of one snapshot, worst first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from edgekit.doctor import apex, clock, coral, edgetpu, gpu, login, memory, power, runtime, storage, systemd
from edgekit.doctor.finding import EXIT_CODES, SEVERITIES, Check, Finding, Unknown
from edgekit.doctor.snapshot import Snapshot
from edgekit.errors import InputError

CHECKS: tuple[Check, ...] = (
    *runtime.CHECKS,
    *edgetpu.CHECKS,
    *coral.CHECKS,
    *apex.CHECKS,
    *gpu.CHECKS,
    *power.CHECKS,
    *storage.CHECKS,
    *clock.CHECKS,
    *memory.CHECKS,
    *login.CHECKS,
    *systemd.CHECKS,
)


@dataclass(frozen=True)
class Diagnosis:
    """What all checks say of a device."""

    findings: tuple[Finding, ...]  # worst first
    unknown: tuple[Unknown, ...]
    checks: int  # how many were made

    @property
    def exit_code(self) -> int:
        """0 fine or notes only, 10 warnings, 20 errors."""
        return max((EXIT_CODES[finding.severity] for finding in self.findings), default=0)

    @property
    def counts(self) -> dict[str, int]:
        """Severity -> how many findings."""
        return {name: sum(finding.severity == name for finding in self.findings) for name in SEVERITIES}


def chosen(names: Sequence[str]) -> tuple[Check, ...]:
    """The checks of these names, all for none. Raises InputError for a name that is none."""
    wrong = sorted(set(names) - {check.name for check in CHECKS})
    if wrong:
        near = get_close_matches(wrong[0], [check.name for check in CHECKS], n=1)
        raise InputError(
            f"there is no check {wrong[0]}",
            hint=f"did you mean {near[0]}?" if near else "docs/doctor.md lists every check",
        )
    return tuple(check for check in CHECKS if not names or check.name in names)


def diagnose(board: Snapshot, checks: Sequence[Check] = CHECKS) -> Diagnosis:
    """The checks over one snapshot: pure, so that recorded snapshots are tests."""
    findings: list[Finding] = []
    unknown: list[Unknown] = []
    for check in checks:
        found, could_not_tell = check(board)
        findings += found
        unknown += could_not_tell
    findings.sort(key=lambda finding: SEVERITIES.index(finding.severity))  # stable: checks keep their order
    return Diagnosis(tuple(findings), tuple(unknown), len(checks))


def summary(diagnosis: Diagnosis) -> str:
    """One line: how many findings of which kind."""
    counts = diagnosis.counts
    parts = [f"{count} {name}{'s' if count != 1 else ''}" for name, count in counts.items() if count]
    told = ", ".join(parts) if parts else "nothing wrong"
    silent = len(diagnosis.unknown)
    return f"{told}; {diagnosis.checks} check{'s' if diagnosis.checks != 1 else ''}" + (
        f", {silent} could not tell" if silent else ""
    )
