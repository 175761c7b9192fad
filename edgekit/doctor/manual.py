"""docs/doctor.md's list of checks, written from the checks themselves: `python -m edgekit.doctor.manual docs/doctor.md`."""

from __future__ import annotations

import sys
from pathlib import Path

from edgekit.doctor.checks import CHECKS

BEGIN, END = "<!-- written by edgekit.doctor.manual: begin -->", "<!-- end -->"
TOPICS = {
    "runtime": "Python, C library, numpy",
    "edgetpu": "Coral Edge TPU: its library",
    "coral": "Coral Edge TPU on USB",
    "apex": "Coral Edge TPU on PCIe and M.2",
    "gpu": "GPU",
    "power": "Supply, heat, clocks",
    "storage": "Disks",
    "clock": "The time",
    "memory": "Memory",
    "login": "sshd and signatures",
    "systemd": "Services",
}


def listed_checks() -> str:
    """Every check by topic, as Markdown."""
    lines = []
    for topic, title in TOPICS.items():
        lines += [f"### {title}", ""]
        for check in CHECKS:
            if check.topic == topic:
                lines.append(f"- **`{check.name}`** ({', '.join(check.severities)}): {check.about}.")
                lines.append(f"  {check.reason}")
                lines.append(f"  *Known from:* {check.source}.")
        lines.append("")
    return "\n".join(lines)


def rewritten(document: str) -> str:
    """The document with its list written anew."""
    head, _, rest = document.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n\n{listed_checks()}\n{END}{tail}"


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(rewritten(path.read_text("utf-8")), "utf-8")
