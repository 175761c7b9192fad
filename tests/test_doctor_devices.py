"""`edgekit doctor --fix` for real: on a Debian with its own systemd, sshd and sudo, where causes are put and taken away."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from standins.nspawn import Device

LAX = "/etc/ssh/sshd_config.d/20-lax.conf"
OURS = "/etc/ssh/sshd_config.d/05-edgekit-root-login.conf"
ROOT = "/home/pi/.local/state/edgekit"
CAUSES = ("linger", "ssh-max-startups", "ssh-root-login", "broken-packages", "root-unsafe")
ONLY = [word for check in CAUSES for word in ("--only", check)]
CONTROL = "Package: half\nVersion: 1\nArchitecture: all\nMaintainer: nobody <nobody@example.org>\nDescription: half\n"


def put_causes(machine: Device) -> None:
    """What the doctor is to find: few logins, a package half configured, a ROOT for everybody, no linger."""
    machine.inside("sh", "-c", f"printf '%s\\n' 'MaxStartups 3:50:10' 'PermitRootLogin yes' > {LAX}; rm -f {OURS}")
    build = f"mkdir -p /root/half/DEBIAN && printf '{CONTROL}' > /root/half/DEBIAN/control"
    machine.inside("sh", "-c", build.replace("\n", "\\n") + " && dpkg-deb -b /root/half /root/half.deb")
    machine.inside("sh", "-c", "dpkg -P half; dpkg --unpack /root/half.deb")
    machine.inside("loginctl", "disable-linger", "pi")
    machine.ssh(f"mkdir -p {ROOT} && chmod 777 {ROOT}")


def told(machine: Device) -> dict[str, str]:
    """What the device's own tools say of it, which is not edgekit's word."""
    sshd = machine.inside("sshd", "-T").splitlines()
    return {
        "linger": machine.inside("loginctl", "show-user", "pi", "-p", "Linger", check=False).strip(),
        "ssh-max-startups": next(line for line in sshd if line.startswith("maxstartups")),
        "ssh-root-login": next(line for line in sshd if line.startswith("permitrootlogin")),
        "broken-packages": machine.inside("dpkg-query", "-W", "-f", "${db:Status-Status}", "half"),
        "root-unsafe": machine.inside("stat", "-c", "%a", ROOT).strip(),
    }


@pytest.mark.slow
def test_fix_takes_the_causes_away_and_they_stay_away(machine, command):
    put_causes(machine)
    sick = told(machine)
    code, out, err = command("doctor", machine.name, "--json", *ONLY)

    assert {row["check"] for row in json.loads(out)["findings"]} == set(CAUSES)
    assert (code, err) == (20, "")

    code, out, err = command("doctor", machine.name, "--fix", "--yes", *ONLY)

    assert (code, err) == (0, ""), out
    assert [line for line in out.splitlines() if line.endswith(": gone")] == [
        f"  {check}: gone"
        for check in ("root-unsafe", "broken-packages", "ssh-max-startups", "ssh-root-login", "linger")
    ]
    assert out.endswith("nothing wrong; 5 checks\n")
    assert sick == {
        "linger": "Linger=no",
        "ssh-max-startups": "maxstartups 3:50:10",
        "ssh-root-login": "permitrootlogin yes",
        "broken-packages": "unpacked",
        "root-unsafe": "777",
    }
    assert told(machine) == {
        "linger": "Linger=yes",
        "ssh-max-startups": "maxstartups 10:30:100",
        "ssh-root-login": "permitrootlogin without-password",
        "broken-packages": "installed",
        "root-unsafe": "755",
    }
    machine.reboot()
    assert command("doctor", machine.name, *ONLY)[0] == 0


@pytest.mark.slow
def test_where_sudo_wants_a_password_nothing_at_all_is_changed(machine, command):
    put_causes(machine)
    sick = told(machine)
    machine.inside("sh", "-c", "echo 'pi ALL=(ALL) ALL' > /etc/sudoers.d/pi")
    try:
        code, out, err = command("doctor", machine.name, "--fix", "--yes", *ONLY)
    finally:
        machine.inside("sh", "-c", "echo 'pi ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/pi")

    assert code == 4
    assert "sudo wants a password" in err
    assert "fix   sudo loginctl enable-linger pi" in out
    assert told(machine) == sick


@pytest.mark.slow
def test_a_command_that_fails_there_is_told_and_the_rest_of_its_finding_left_out(machine, command):
    put_causes(machine)
    machine.inside("sh", "-c", "echo 'NoSuchOption yes' > /etc/ssh/sshd_config.d/90-wrong.conf")
    try:
        code, out, _ = command("doctor", machine.name, "--fix", "--yes", "--only", "ssh-max-startups")
    finally:
        machine.inside("rm", "/etc/ssh/sshd_config.d/90-wrong.conf")

    assert "$ sudo sshd -t" in out
    assert "exit code 255: the rest of this one is left out" in out
    assert "systemctl reload ssh" not in out.split("sshd -t", 1)[1].split("second look")[0].split("$", 1)[-1]
    assert code == 0  # the file says so; sshd was not told


@pytest.mark.slow
def test_the_whole_look_at_a_debian_device_ends_with_its_summary(machine, command):
    code, out, err = command("doctor", machine.name)

    assert (code in (0, 10, 20), err) == (True, "")
    assert out.startswith(f"{machine.name}: Debian GNU/Linux 12 (bookworm)\n")
    assert max(len(line) for line in out.splitlines() if not line.startswith("  fix   ")) <= 80


def old_pythons() -> list[str]:
    """Pythons that the runner does not take, and the doctor must."""
    names = [shutil.which(f"python3.{minor}") for minor in (6, 7, 8)]
    names += [str(path) for path in Path.home().glob(".pyenv/versions/3.[678].*/bin/python3.?")]
    return sorted(
        {name for name in names if name and subprocess.run([name, "-V"], capture_output=True).returncode == 0}
    )


@pytest.mark.parametrize("python", old_pythons() or [pytest.param("", marks=pytest.mark.skip("no Python 3.6 to 3.8"))])
def test_an_old_python_is_a_finding_and_no_error(command, device, python):
    code, out, err = command("doctor", device, "--json", "--python", os.path.realpath(python), "--only", "python-wheel")
    [finding] = json.loads(out)["findings"]

    assert (code, err) == (20, "")
    assert finding["message"].startswith("no interpreter wheel for Python 3.")
