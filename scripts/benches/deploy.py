"""Deploying beside scp: 12 files, 3.7 MB over a real sshd on loopback; first, with a new model, and with nothing changed.

Needs Debian's openssh-server; the server gets keys, a port and folders of its own. The runtime, which goes to a device once,
is sent before anything is timed.
"""

import argparse
import dataclasses
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2] / "tests"))

from sshd import running_sshd, why_no_sshd

from benches import Row, limit_row, ratio_row

FILES, BYTES = 12, 3_700_000


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", nargs="?", type=Path, default=Path("build/demo/bundle"))
    parser.add_argument("--rounds", type=int, default=7, help="deployments of each kind (default 7)")


def measure(options: argparse.Namespace) -> list[Row]:
    if not (options.bundle / "manifest.json").is_file():
        sys.exit(f"bench: {options.bundle} is not a bundle\n  scripts/demo makes one in build/, or give its path")
    with tempfile.TemporaryDirectory(prefix="edgekit-bench-") as folder, _device(Path(folder)) as wire:
        from edgekit.deploy.address import parse_address
        from edgekit.deploy.install import deploy

        address = parse_address("board")
        scp, new, again, sent, connections = [], [], [], [], []
        for number in range(options.rounds + 1):
            bundle = _bundle(options.bundle, Path(folder) / f"bundle{number}", number)
            scp.append(_seconds(lambda bundle=bundle: _scp(bundle.path, Path(folder))))
            new.append(_seconds(lambda bundle=bundle: deploy(bundle, address)))
            wire.reset()
            again.append(_seconds(lambda bundle=bundle: deploy(bundle, address)))
            sent.append(wire.bytes / 1000)
            connections.append(float(wire.connections))
    return [
        ratio_row("new model, checked and switched, beside scp -r", scp[1:], new[1:], "s", at_most=5),
        ratio_row("nothing changed, beside scp -r", scp[1:], again[1:], "s", at_most=1.5),
        limit_row("nothing changed, both directions on the wire", sent[1:], "kB", at_most=10),
        limit_row("nothing changed, connections", connections[1:], "", at_most=1),
    ]


def _bundle(source: Path, path: Path, number: int):
    """The bundle with other random files in it, so that it has 12 files and 3.7 MB, and another hash each time."""
    from edgekit.bundle import read_bundle, write_bundle

    given = read_bundle(source)
    contents = {name: given.file(name).read_bytes() for name in given.manifest.files}
    missing = FILES - len(contents) - 1
    each = (BYTES - sum(map(len, contents.values()))) // missing
    contents |= {f"models/part{i}.bin": os.urandom(each) for i in range(missing)}
    return write_bundle(path, dataclasses.replace(given.manifest, name=f"bench-{number}"), contents)


def _scp(path: Path, folder: Path) -> None:
    shutil.rmtree(folder / "there", ignore_errors=True)
    words = ["scp", "-q", "-r", "-F", folder / "ssh_config", path, f"board:{folder / 'there'}"]
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)


def _seconds(do: Callable[[], object]) -> float:
    started = time.perf_counter()
    do()
    return time.perf_counter() - started


class _Wire:
    """A TCP link on loopback that counts what passes."""

    def __init__(self, to_port: int) -> None:
        self.to_port, self.bytes, self.connections = to_port, 0, 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def reset(self) -> None:
        self.bytes = self.connections = 0

    def _accept(self) -> None:
        while True:
            near, _ = self.listener.accept()
            self.connections += 1
            far = socket.create_connection(("127.0.0.1", self.to_port))
            for connection in (near, far):
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for pair in ((near, far), (far, near)):
                threading.Thread(target=self._pump, args=pair, daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while block := source.recv(1 << 16):
                self.bytes += len(block)
                sink.sendall(block)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # one side closed at once: the connection is over


@contextmanager
def _device(folder: Path) -> Iterator[_Wire]:
    """The tests' sshd, with keys of its own, behind a counting link; `board` is its name in our ssh_config."""
    if why_no_sshd():
        sys.exit(f"bench: {why_no_sshd()}")
    with running_sshd(folder) as server:
        wire = _Wire(server.port)
        server.write_client_config(port=wire.port)
        server.trust(wire.port)
        kept = dict(os.environ)
        cache = kept.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
        os.environ.update({**server.environment, "XDG_CACHE_HOME": cache})
        try:
            yield wire
        finally:
            os.environ.clear()
            os.environ.update(kept)
