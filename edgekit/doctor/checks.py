"""Every check, and the diagnosis: what they say of one snapshot, worst first."""

from __future__ import annotations

from dataclasses import dataclass

from edgekit.doctor import apex, clock, edgetpu, gpu, login, memory, power, runtime, storage, systemd
from edgekit.doctor.finding import EXIT_CODES, SEVERITIES, Check, Finding, Unknown
from edgekit.doctor.snapshot import Snapshot

CHECKS: tuple[Check, ...] = (
    *runtime.CHECKS,
    *edgetpu.CHECKS,
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


def diagnose(board: Snapshot) -> Diagnosis:
    """Every check over one snapshot: pure, so that recorded snapshots are tests."""
    findings: list[Finding] = []
    unknown: list[Unknown] = []
    for check in CHECKS:
        found, could_not_tell = check(board)
        findings += found
        unknown += could_not_tell
    findings.sort(key=lambda finding: SEVERITIES.index(finding.severity))  # stable: checks keep their order
    return Diagnosis(tuple(findings), tuple(unknown), len(CHECKS))


def summary(diagnosis: Diagnosis) -> str:
    """One line: how many findings of which kind."""
    counts = diagnosis.counts
    parts = [f"{count} {name}{'s' if count != 1 else ''}" for name, count in counts.items() if count]
    told = ", ".join(parts) if parts else "nothing wrong"
    silent = len(diagnosis.unknown)
    return f"{told}; {diagnosis.checks} checks" + (f", {silent} could not tell" if silent else "")
