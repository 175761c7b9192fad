"""sshd and signatures: who gets in, how many at once, and whether the board can check who signed a bundle."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase

from edgekit.doctor.finding import (
    CannotTell,
    Command,
    Evidence,
    Found,
    as_root,
    check,
    install,
    install_by_hand,
    write_file,
)
from edgekit.doctor.snapshot import Snapshot
from edgekit.doctor.text import cited, version_of, whole

DEFAULTS = {"maxstartups": "10:30:100", "permitrootlogin": "prohibit-password", "passwordauthentication": "yes"}
DROP_IN = "/etc/ssh/sshd_config.d/05-edgekit-root-login.conf"  # the first value wins: before 50-cloud-init.conf
MAIN = "/etc/ssh/sshd_config"
FEWEST = 10  # OpenSSH's own
_OFF = "s/^[[:space:]]*MaxStartups/#&/I"  # sed: the line becomes a comment, the default holds
SIGNS = (8, 1)  # OpenSSH's first version with ssh-keygen -Y verify


def sshd_settings(board: Snapshot) -> tuple[Mapping[str, str], str] | None:
    """What sshd goes by, and where that is from: sshd -T if it could be run (root), else its files. None without sshd."""
    ran = board.ran("sshd")
    if ran is not None and ran.code == 0:
        rows = (line.partition(" ") for line in ran.out.splitlines())
        return {**DEFAULTS, **{key.lower(): value.strip() for key, _, value in rows if key}}, "sshd -T"
    if board.text(MAIN) is None:
        return None
    first = {key: value for key, value, _ in reversed(configured(board))}
    return {**DEFAULTS, **first}, MAIN


def configured(board: Snapshot) -> list[tuple[str, str, str]]:
    """Every (setting, value, file) of sshd's files that is for everybody, in the order in which sshd meets them."""
    found: list[tuple[str, str, str]] = []
    _read_config(board, MAIN, found, set())
    return found


def _read_config(board: Snapshot, path: str, found: list[tuple[str, str, str]], seen: set[str]) -> None:
    if path in seen:
        return
    seen.add(path)
    for line in (board.text(path) or "").splitlines():
        match = re.match(r"\s*([A-Za-z]+)[\s=]+(.*?)\s*$", line.split("#")[0])
        if not match:
            continue
        key, value = match[1].lower(), match[2].strip('"')
        if key == "match":  # what follows is for some only
            return
        if key == "include":
            for pattern in value.split():
                wanted = pattern if pattern.startswith("/") else f"/etc/ssh/{pattern}"
                for included in board.paths("/etc/ssh/*"):
                    if fnmatchcase(included, wanted):
                        _read_config(board, included, found, seen)
        else:
            found.append((key, value, path))


def _set(board: Snapshot, line: str) -> tuple[Command, ...]:
    """What sets a line for sshd, checks the file and loads it; () where drop-ins are not read."""
    if "sshd_config.d/" not in (board.text(MAIN) or "") or board.program("systemctl") is None:
        return ()
    return (
        write_file(board, DROP_IN, line + "\n"),
        *_reload(board),
    )


def _reload(board: Snapshot) -> tuple[Command, ...]:
    """What checks sshd's files and has it read them: the unit is ssh on Debian's family, sshd elsewhere."""
    unit = "ssh" if board.program("apt-get") else "sshd"
    return as_root(board, "sshd", "-t"), as_root(board, "systemctl", "reload", unit)


def _unknown(board: Snapshot) -> Iterator[CannotTell]:
    why = board.why_not(MAIN)
    if why:
        yield CannotTell(f"{MAIN}: {cited(why)}")


@check(
    "ssh-max-startups",
    "warning",
    "sshd takes as many logins at once as it does by default",
    reason="Beyond the first number of MaxStartups sshd drops connections at random that have not logged in yet: "
    "with 10:30:100 and 16 at once 21 to 31 % were refused. Fewer is a deployment that fails beside a monitor.",
    source="sshd_config(5); measured with 8 to 100 connections at once, OpenSSH 9.2",
)
def max_startups(board: Snapshot) -> Iterator[Found | CannotTell]:
    told = sshd_settings(board)
    if told is None:
        yield from _unknown(board)
        return
    settings, where = told
    # of several lines OpenSSH 9.2 takes the last, for this setting alone (measured): any that is low counts
    rows = [(value, path) for key, value, path in configured(board) if key == "maxstartups"]
    low = [(value, path) for value, path in rows if _begins_low(value)]
    if not (_begins_low(settings["maxstartups"]) if where == "sshd -T" else low):
        return
    value, path = low[0] if low else (settings["maxstartups"], where)
    files = sorted({path for _, path in low if re.fullmatch(r"/etc/ssh/[\w./-]+", path)})
    yield Found(
        f"sshd begins to drop logins at {whole(value)} at once",
        (Evidence(path, f"MaxStartups {cited(value)}"),),
        (
            *(as_root(board, "sed", "-i", "-E", _OFF, path) for path in files),
            *_reload(board),
        )
        if files and board.program("systemctl")
        else (),
        by_hand="" if files and board.program("systemctl") else f"take MaxStartups out of {MAIN}, then reload sshd",
    )


def _begins_low(value: str) -> bool:
    start = whole(value.split(":")[0])
    return start is not None and start < FEWEST


@check(
    "ssh-root-login",
    "warning",
    "root does not log in with a password",
    reason="root is the one name that every board has: passwords for it are tried from the first minute on a network.",
    source="sshd_config(5), PermitRootLogin",
)
def root_login(board: Snapshot) -> Iterator[Found | CannotTell]:
    told = sshd_settings(board)
    if told is None:
        yield from _unknown(board)
        return
    settings, where = told
    if settings["permitrootlogin"] == "yes" and settings["passwordauthentication"] != "no":
        commands = () if board.uid == 0 else _set(board, "PermitRootLogin prohibit-password")
        first = (
            "you are root there: see that your key is in /root/.ssh/authorized_keys, then " if board.uid == 0 else ""
        )
        yield Found(
            "root may log in with a password",
            (
                Evidence(where, "permitrootlogin yes"),
                Evidence(where, f"passwordauthentication {cited(settings['passwordauthentication'])}"),
            ),
            commands,
            by_hand="" if commands else f"{first}PermitRootLogin prohibit-password in {MAIN}, sshd -t, and reload sshd",
        )


@check(
    "ssh-password",
    "note",
    "Only keys log in",
    reason="A password that is guessed is a board that is gone; edgekit itself logs in with keys only.",
    source="sshd_config(5), PasswordAuthentication",
)
def password_login(board: Snapshot) -> Iterator[Found | CannotTell]:
    told = sshd_settings(board)
    if told is None:
        yield from _unknown(board)
        return
    settings, where = told
    if settings["passwordauthentication"] == "yes":
        yield Found(
            "passwords may log in",
            (Evidence(where, "passwordauthentication yes"),),
            by_hand="when everybody who needs it has a key there: PasswordAuthentication no in "
            "/etc/ssh/sshd_config.d/05-keys-only.conf, sudo sshd -t, "
            "sudo systemctl reload ssh. doctor does not do this, it could lock somebody out",
        )


@check(
    "ssh-keygen",
    "warning",
    "The board can check signatures",
    reason="Signed bundles are checked on the board with ssh-keygen -Y verify, which OpenSSH has from 8.1 on.",
    source="OpenSSH release notes 8.1; Debian's openssh-server depends on openssh-client",
)
def ssh_keygen(board: Snapshot) -> Iterator[Found]:
    if board.program("ssh-keygen") is None:
        yield Found(
            "there is no ssh-keygen: signatures cannot be checked",
            (Evidence("PATH", "no ssh-keygen"),),
            install(board, "openssh-client"),
            install_by_hand(board, "openssh-client"),
        )
        return
    ran = board.ran("ssh_version")
    match = re.search(r"OpenSSH_(\d+\.\d+)", (ran.err + ran.out) if ran else "")
    if match and version_of(match[1]) < SIGNS:
        yield Found(
            f"OpenSSH {match[1]} cannot check signatures",
            (Evidence("ssh -V", cited(ran.err or ran.out) if ran else ""),),
            by_hand="a newer system has it (Debian 11, Ubuntu 20.04); until then deploy unsigned bundles there",
        )


CHECKS = (max_startups, root_login, password_login, ssh_keygen)
