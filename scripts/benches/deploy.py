"""Deploying beside other tools: 12 files, 3.7 MB over a real sshd, at several round trips; what is done in it, and a big file.

Needs Debian's openssh-server; the server gets keys, a port and folders of its own. edgekit's side hashes, syncs, lets the release
answer its golden vectors, puts it on trial and confirms over a second connection; the others copy, compare hashes and
switch a symlink. The runtime, which goes to a device once, is sent before anything is timed.
"""

import argparse
import dataclasses
import hashlib
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path += [str(ROOT / "tests"), str(ROOT / "scripts")]

from sshd import Sshd, running_sshd, why_no_sshd  # noqa: E402
from standins.link import FarLink, far_link_to  # noqa: E402

from benches import Row, limit_row, ratio_row  # noqa: E402
from benches._peers import Job, installed_peers  # noqa: E402

PYTHON = "/usr/bin/python3" if os.path.exists("/usr/bin/python3") else "python3"  # as on a board, without pyenv's shims
FILES, BYTES = 12, 3_700_000
AT_MOST_S = {0: 0.4, 20: 0.6, 100: 1.8}  # to confirmed, by round trip in ms
OF_PARAMIKO = {0: 4.0, 20: 0.5, 100: 0.25}  # without a round trip it only copies, which is quick


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", nargs="?", type=Path, default=Path("build/demo/bundle"))
    parser.add_argument("--rounds", type=int, default=5, help="deployments of each kind and round trip (default 5)")
    parser.add_argument("--round-trip", type=int, nargs="+", default=[0, 20, 100], help="in ms (default 0 20 100)")
    parser.add_argument("--only", help="only this peer, for example paramiko or scp")
    parser.add_argument(
        "--big", type=int, default=200, metavar="MB", help="size of the big file (default 200, 0: none)"
    )


def measure(options: argparse.Namespace) -> Iterator[Row]:
    if not (options.bundle / "manifest.json").is_file():
        sys.exit(f"bench: {options.bundle} is not a bundle\n  scripts/demo makes one in build/, or give its path")
    peers = {n: f for n, f in installed_peers().items() if options.only is None or options.only in n}
    with tempfile.TemporaryDirectory(prefix="edgekit-bench-") as name, _device(Path(name)) as (server, link):
        folder = Path(name)
        yield from _beside_peers(options, folder, server, link, peers)
        link.round_trip_s = 0
        yield from _nothing_to_do(options, folder, link)
        yield _open_connection()
        if options.big:
            yield _big_file(folder, options.big)


def _beside_peers(
    options: argparse.Namespace, folder: Path, server: Sshd, link: FarLink, peers: dict[str, Callable[[Job], None]]
) -> Iterator[Row]:
    from edgekit.deploy.address import parse_address
    from edgekit.deploy.install import deploy

    address, number = parse_address("board"), 0
    deploy(_bundle(options.bundle, folder / "bundle", 0), address, python=PYTHON)  # sends the runtime
    for round_trip in options.round_trip:
        link.round_trip_s = round_trip / 1000
        ours: list[float] = []
        theirs: dict[str, list[float]] = {name: [] for name in peers}
        for _ in range(options.rounds):
            number += 1
            bundle = _bundle(options.bundle, folder / f"bundle{number}", number)
            ours.append(_seconds(lambda bundle=bundle: deploy(bundle, address, python=PYTHON)))
            for name, peer in peers.items():
                job = _job(bundle.path, folder / name.replace(" ", "") / str(number), server, link)
                job.to.parent.mkdir(exist_ok=True)
                theirs[name].append(_seconds(lambda peer=peer, job=job: peer(job)))
                assert os.readlink(job.to.parent / "current") == str(job.to)
        at = f"{round_trip} ms round trip"
        if round_trip in AT_MOST_S:
            yield limit_row(f"{at}: deployed and confirmed", ours, "s", at_most=AT_MOST_S[round_trip])
        for name, found in theirs.items():
            most = (
                OF_PARAMIKO.get(round_trip, 1.0)
                if "paramiko" in name
                else 4.0
                if name in ("scp -r", "rsync -a")
                else 1.0
            )
            yield ratio_row(f"{at}, beside {name}", found, ours, "s", at_most=most)


def _nothing_to_do(options: argparse.Namespace, folder: Path, link: FarLink) -> Iterator[Row]:
    from edgekit.deploy.address import parse_address
    from edgekit.deploy.install import deploy

    address, bundle = parse_address("board"), _bundle(options.bundle, folder / "again", -1)
    deploy(bundle, address, python=PYTHON)
    taken, cpu, sent, connections = [], [], [], []
    for _ in range(options.rounds + 1):
        link.reset_counts()
        before = _cpu_s()
        taken.append(_seconds(lambda: deploy(bundle, address, python=PYTHON)))
        cpu.append((_cpu_s() - before) * 1000)
        sent.append(link.total_bytes / 1000)
        connections.append(float(link.connections))
    yield limit_row("nothing changed, wall time", [s * 1000 for s in taken[1:]], "ms", at_most=150)
    yield limit_row("nothing changed, client CPU with its children", cpu[1:], "ms", at_most=15)
    yield limit_row("nothing changed, both directions on the wire", sent[1:], "kB", at_most=10)
    yield limit_row("nothing changed, connections", connections[1:], "", at_most=1)


def _open_connection() -> Row:
    from edgekit.deploy.address import parse_address
    from edgekit.deploy.session import open_session

    with open_session(parse_address("board"), python=PYTHON) as session:
        session.request("missing", files={})
        taken = [_seconds(lambda: session.request("missing", files={})) * 1000 for _ in range(50)]
    return limit_row("one request on an open connection", taken, "ms", at_most=3)


def _big_file(folder: Path, megabytes: int) -> Row:
    from edgekit.deploy.address import parse_address
    from edgekit.deploy.session import open_session

    scp: list[float] = []
    ours: list[float] = []

    def by_scp(name: str) -> None:
        words = ["scp", "-q", "-F", str(folder / "ssh_config"), str(folder / "big"), f"board:{folder / name}"]
        subprocess.run(words, check=True)

    def by_us(sha256: str, content: bytes) -> None:
        with open_session(parse_address("board"), python=PYTHON) as session:
            session.request("plan", files={sha256: len(content)}, volatile=True)
            session.put(sha256, content, answer=True)

    for number in range(6):
        content = os.urandom(megabytes * 1_000_000)
        (folder / "big").write_bytes(content)
        sha256 = hashlib.sha256(content).hexdigest()
        # both write a new file (one that is written over has its pages already), and are the first in turns
        sides = [
            (scp, lambda number=number: by_scp(f"there{number}")),
            (ours, lambda sha256=sha256, content=content: by_us(sha256, content)),
        ]
        for taken, upload in sides if number % 2 else reversed(sides):
            os.sync()  # nobody waits for what was written before
            taken.append(_seconds(upload))
    return ratio_row(f"{megabytes} MB that do not pack, hashed there, beside scp", scp, ours, "s", at_most=1)


def _job(source: Path, to: Path, server: Sshd, link: FarLink) -> Job:
    files = sorted(path for path in source.rglob("*") if path.is_file())
    return Job(
        files={str(path.relative_to(source)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files},
        source=source,
        to=to,
        host="board",
        port=link.port,
        user=server.user,
        key=server.folder / "id",
        ssh_config=server.folder / "ssh_config",
        known_hosts=server.known_hosts,
    )


def _bundle(source: Path, path: Path, number: int):
    """The bundle with other random files in it, so that it has 12 files and 3.7 MB, and another hash each time."""
    from edgekit.bundle import read_bundle, write_bundle

    given = read_bundle(source)
    contents = {name: given.file(name).read_bytes() for name in given.manifest.files}
    missing = FILES - len(contents) - 1
    each = (BYTES - sum(map(len, contents.values()))) // missing
    contents |= {f"models/part{i}.bin": os.urandom(each) for i in range(missing)}
    return write_bundle(path, dataclasses.replace(given.manifest, name=f"bench-{number}"), contents)


def _seconds(do: Callable[[], object]) -> float:
    started = time.perf_counter()
    do()
    return time.perf_counter() - started


def _cpu_s() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


@contextmanager
def _device(folder: Path) -> Iterator[tuple[Sshd, FarLink]]:
    """The tests' sshd, with keys of its own, behind a link that counts and delays; `board` is its name in our ssh_config."""
    if why_no_sshd():
        sys.exit(f"bench: {why_no_sshd()}")
    with running_sshd(folder) as server, far_link_to(server.port) as link:
        server.write_client_config(port=link.port)
        server.trust(link.port)
        kept = dict(os.environ)
        cache = kept.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
        os.environ.update({**server.environment, "XDG_CACHE_HOME": cache})
        try:
            yield server, link
        finally:
            os.environ.clear()
            os.environ.update(kept)
