"""The device's side of `edgekit doctor`: runs commands, those that only read and those that a person has agreed to.

Sent with collect.py. Standard library, any Python >= 3.6.
"""

import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading

if False:  # for the type checker alone: typing is slow to import
    from typing import Any, Dict, List, Optional

LONGEST_TEXT = 16384  # characters of what a command prints
MOST_LINES = 200  # the last ones
LONGEST_LINE = 300
FOLDERS = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"  # sshd gives a command fewer


class Running:
    """A command that goes on to its end even if nobody waits: a package manager must not be cut off half-way."""

    def __init__(self, argv: "List[str]", stdin: str) -> None:
        self.printed = tempfile.TemporaryFile()  # noqa: SIM115 (it has no name, and goes with us)
        with tempfile.TemporaryFile() as given:
            given.write(stdin.encode())
            given.seek(0)
            self.process = subprocess.Popen(
                argv,
                stdin=given,
                stdout=self.printed,
                stderr=subprocess.STDOUT,
                env=environment(),
                start_new_session=True,
                cwd="/",
            )

    def wait(self, seconds: float) -> "Dict[str, Any]":
        """Whether it has ended, its code (negative: a signal), and the end of what it has printed."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            pass
        size = os.fstat(self.printed.fileno()).st_size
        end = os.pread(self.printed.fileno(), LONGEST_TEXT, max(0, size - LONGEST_TEXT))
        code = self.process.returncode
        return {"done": code is not None, "code": code, "lines": end.decode(errors="replace").splitlines()}


def path_list() -> str:
    return os.environ.get("PATH", "") + ":" + FOLDERS


def environment() -> "Dict[str, str]":
    """What a command sees: English, the folders of administrators, and where its user's systemd listens."""
    found = {"PATH": path_list(), "LC_ALL": "C", "HOME": os.path.expanduser("~")}
    runtime = os.environ.get("XDG_RUNTIME_DIR") or "/run/user/%d" % os.getuid()
    if os.path.isdir(runtime):
        found["XDG_RUNTIME_DIR"] = runtime
    return found


def run(argv: "List[str]", seconds: float, wanted: "Optional[str]") -> "Dict[str, Any]":
    """What a command says; `wanted` keeps the lines that match. A command that hangs is killed, with its children."""
    program = shutil.which(argv[0], path=path_list())
    if program is None:
        return {"missing": True}
    try:
        process = subprocess.Popen(
            [program] + argv[1:],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(),
            start_new_session=True,
        )
    except OSError as error:
        return {"failed": error.strerror or "OSError"}
    killed = threading.Event()

    def kill() -> None:
        killed.set()
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except OSError:
            pass

    timer = threading.Timer(seconds, kill)
    timer.start()
    try:
        out, err = (data.decode(errors="replace") for data in process.communicate())
    finally:
        timer.cancel()
    if killed.is_set():
        return {"timed_out": seconds}
    if wanted is not None:
        out = "\n".join(matching_lines(out, wanted))
    return {"code": process.returncode, "out": out[-LONGEST_TEXT:], "err": err[-LONGEST_TEXT:]}


def matching_lines(text: str, wanted: str) -> "List[str]":
    pattern = re.compile(wanted)
    return [line[:LONGEST_LINE] for line in text.splitlines() if pattern.search(line)][-MOST_LINES:]
