"""Cuts the power under the agent's own code after each of its file operations, and looks what comes back.

    scripts/crash             everything (minutes), and a table of which fsync is needed
    tests/test_crash.py       a part of it, in seconds

After a cut, the machine starts, `recover` runs before anything else, and then must hold:

G1  what `current` points to is whole, byte by byte, with its runtime: before `recover` too
G2  it is not a release that nobody confirmed
G3  once `confirm` has answered, it is that release
G4  deploying again from there ends with that release, and what can be gone back to was proven
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import json
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from compiled import compiled, runs
from crashing_disk import Disk, Node, PowerCut, Program, tree

ROOT = "/root"
KEY = "SHA256:key"


@dataclass(frozen=True)
class Small:
    """A release of a few bytes, as a workstation sends it."""

    id: str
    text: str
    runtime: str
    runtime_text: str
    blobs: dict[str, bytes]  # sha256 -> content
    seq: int


def small(label: str, seq: int, runtime: str = "runtime") -> Small:
    """One with files of its own, files that all have, and a folder; `runtime` names what it runs with."""
    blobs: dict[str, bytes] = {}

    def listing(kind: str, contents: dict[str, bytes], **fields: Any) -> tuple[str, str]:
        files = {}
        for name, content in contents.items():
            sha256 = hashlib.sha256(content).hexdigest()
            blobs[sha256] = content
            files[name] = {"sha256": sha256, "size": len(content)}
        text = json.dumps({f"edgekit_{kind}": 1, "files": files, **fields})
        return hashlib.sha256(text.encode()).hexdigest()[:16], text

    name, runtime_text = listing("runtime", {"numpy/core.so": runtime.encode() * 4})
    contents = {"run": b"#!/bin/sh", "models/model.tflite": label.encode() * 8, "main.py": b"y = 2"}
    release, text = listing("release", contents, runtime=name)
    return Small(release, text, name, runtime_text, blobs, seq)


A, B, C = small("A", 1), small("B", 2, "other runtime"), small("C", 3)
OTHERS = {one.id: one for one in (A, B, C)}


@dataclass
class World:
    """What the outside knows: which releases may be in use after a power cut at this moment."""

    allowed: set[str | None]
    proven: set[str | None]
    min_seq: int = 0


Script = Callable[[Program, World], None]


def agent_on(program: Program, boot: str, seconds: float, stream: bytes = b"") -> Any:
    """A session's agent."""
    found = program.agent.Agent(ROOT, io.BytesIO(stream))
    found.trials.now = lambda: program.journal.Moment(boot, seconds)
    return found


def ask(agent: Any, operation: str, **request: Any) -> dict[str, Any]:
    """The agent's answer; an error of its is an error of ours."""
    replies: list[dict[str, Any]] = []
    agent.reply_to({"op": operation, **request}, replies.append)
    if replies and "error" in replies[0]:
        raise RuntimeError(f"{operation}: {replies[0]['message']}")
    return replies[0] if replies else {}


def deploy(program: Program, world: World, one: Small, *, boot: str = "boot 1", at_s: float = 0.0) -> None:
    """A workstation's deployment, to the end."""
    bring(program, one, boot, at_s)
    begin(program, one, boot, at_s)
    confirm(program, world, one, boot, at_s)


def bring(program: Program, one: Small, boot: str = "boot 1", at_s: float = 0.0) -> None:
    """Up to the trial."""
    place = f"{ROOT}/runtimes/{one.runtime}"  # what the probe looks at
    has_runtime = program.os.path.isdir(place) and program.os.path.lexists(place + ".json")
    agent = agent_on(program, boot, at_s)
    needed = one.blobs if not has_runtime else {s: one.blobs[s] for s in hashes(one.text)}
    missing = ask(agent, "plan", files={s: len(c) for s, c in needed.items()}, volatile=True)["missing"]
    todo = [(sha256, offset) for sha256, offset in missing.items()]
    while todo:
        sha256, offset = todo.pop(0)
        rest = one.blobs[sha256][offset:]
        agent.stream = io.BytesIO(rest)
        size = {"size": len(one.blobs[sha256]), "stored": len(rest), "offset": offset, "packed": False}
        todo += [(again, 0) for again in ask(agent, "put", sha256=sha256, answer=True, **size)["again"]]
    if not has_runtime:
        ask(agent, "runtime", id=one.runtime, text=one.runtime_text)
    ask(agent, "release", id=one.id, text=one.text)


def hashes(text: str) -> list[str]:
    """Those in a list."""
    return [file["sha256"] for file in json.loads(text)["files"].values()]


def begin(program: Program, one: Small, boot: str = "boot 1", at_s: float = 0.0, confirm: str = "workstation") -> None:
    """The trial."""
    agent = agent_on(program, boot, at_s)
    real = agent.trials.begin
    agent.trials.begin = lambda *a, **k: real(*a, **{**k, "signed": [KEY, one.seq]})
    ask(agent, "trial", id=one.id, window_s=60.0, confirm=confirm, service="none")


def confirm(program: Program, world: World, one: Small, boot: str = "boot 1", at_s: float = 0.0) -> None:
    """From a new connection. Between question and answer, either release may come back."""
    before = set(world.allowed)
    world.allowed |= {one.id}
    world.proven |= {one.id}
    agent = agent_on(program, boot, at_s)
    real = agent.store.collect_garbage

    def answered(keep: Any) -> None:
        """What `confirm` has written, it has written before this: from here on its answer is as good as given."""
        if program.journal.read_journal(ROOT).good == one.id:
            world.allowed = {one.id}
            world.min_seq = max(world.min_seq, one.seq)
        real(keep)

    agent.store.collect_garbage = answered
    try:
        ask(agent, "confirm", id=one.id)
    except RuntimeError:
        world.allowed = before
        raise
    world.allowed = {one.id}


def time_over(program: Program, boot: str = "boot 1") -> None:
    """What the guard does when nobody has confirmed."""
    agent = agent_on(program, boot, 1000.0)
    agent.store.lock()
    agent.trials.recover()


def recover(program: Program, boot: str) -> None:
    """What the start of the machine does."""
    agent = agent_on(program, boot, 5.0)
    if agent.trials.needs_recovery():
        agent.store.lock()
        agent.trials.recover()


def go_back(program: Program, world: World, to: Small) -> None:
    """A person's rollback."""
    world.allowed |= {to.id}
    ask(agent_on(program, "boot 1", 0.0), "rollback")
    world.allowed = {to.id}


# -- what happens


def installed(program: Program, *releases: Small, ext4: bool) -> tuple[Disk, World]:
    """A device on which these were deployed one after the other, all of it on the disk."""
    disk, world = Disk(ext4=ext4), World({None}, {None})
    program.on(disk)
    for one in releases:
        deploy(program, world, one)
    return Disk(disk.nodes, ext4=ext4), world


def give_up(program: Program, world: World) -> None:
    bring(program, B)
    begin(program, B)
    time_over(program)


def begin_again(program: Program, world: World) -> None:
    """The workstation dies in the trial; another deploys the next release."""
    bring(program, B)
    begin(program, B)
    deploy(program, world, C, at_s=10.0)


def adopt(program: Program, world: World) -> None:
    """A folder as protocol 1 left it."""
    ask(agent_on(program, "boot 1", 0.0), "adopt")
    deploy(program, world, B)


def mend(program: Program, world: World) -> None:
    """A file of the release in use was damaged on the disk and is sent again."""
    program.os.disk.after("damage")
    deploy(program, world, A)


SCRIPTS: dict[str, tuple[tuple[Small, ...], Script]] = {
    "first deployment": ((), lambda p, w: deploy(p, w, A)),
    "deployment": ((A,), lambda p, w: deploy(p, w, B)),
    "deployment that takes the oldest away": ((A, B), lambda p, w: deploy(p, w, C)),
    "trial that is given up": ((A,), give_up),
    "deployment in a trial": ((A,), begin_again),
    "rollback": ((A, B), lambda p, w: go_back(p, w, A)),
    "root of protocol 1": ((A, C), adopt),
}


def start_of(program: Program, name: str, ext4: bool) -> tuple[Disk, World]:
    """The disk and what is known of it before the script of that name runs."""
    releases, _ = SCRIPTS[name]
    disk, world = installed(program, *releases, ext4=ext4)
    if name == "root of protocol 1":
        device = program.on(disk).os
        for agent in device.listdir(f"{ROOT}/agent"):
            device.unlink(f"{ROOT}/agent/{agent}")
        device.rmdir(f"{ROOT}/agent")
        device.unlink(f"{ROOT}/journal.json")
        device.symlink(f"releases/{releases[0].id}", f"{ROOT}/previous")
        handle = device.open(f"{ROOT}/layout", 1)
        device.write(handle, b"edgekit 1\n")
        disk = Disk(disk.nodes, ext4=ext4)
        world.min_seq = 0
    return disk, world


# -- what must hold


def broken(program: Program, nodes: dict[int, Node], world: World) -> str:
    """What does not hold of the disk that a power cut left; "" if all does. The nodes are as `recover` left them then."""
    disk = Disk(nodes)
    program.on(disk)
    found = in_use(disk)
    if isinstance(found, str) and found.startswith("!"):
        return f"G1 before recovery: {found}"
    try:
        journal = program.journal.read_journal(ROOT)
    except Exception as error:
        return f"the journal is damaged: {error}"
    if found not in world.proven and (journal is None or not journal.is_trial):
        return f"G2 {name_of(found)} is in use, and nothing tells that to the launcher"
    try:
        if has_agent(disk):
            recover(program, "boot 2")
    except Exception as error:
        return f"recovery fails: {error!r}"
    return state(program, disk, world)


def state(program: Program, disk: Disk, world: World) -> str:
    """The same, of a disk after recovery."""
    found = in_use(disk)
    if isinstance(found, str) and found.startswith("!"):
        return f"G1 {found}"
    if found not in world.allowed:
        return f"G2/G3 {name_of(found)} is in use, not {sorted(map(name_of, world.allowed))}"
    try:
        journal = program.on(disk).journal.read_journal(ROOT)
    except Exception as error:
        return f"the journal is damaged: {error}"
    if journal is None:
        return "" if found is None or None in world.allowed or old_layout(disk) else "no journal"
    if journal.is_trial or journal.good != found:
        return f"G2 the journal says {journal.phase} {name_of(journal.good)}, in use is {name_of(found)}"
    if journal.prev not in world.proven:
        return f"G4 what can be gone back to was not proven: {name_of(journal.prev)}"
    if journal.prev is not None and whole(disk, f"{ROOT}/releases/{journal.prev}"):
        return f"G4 what can be gone back to is not whole: {whole(disk, f'{ROOT}/releases/{journal.prev}')}"
    if journal.min_seq.get(KEY, 0) < world.min_seq:
        return "G5 the ratchet went back"
    damaged = program.look.verify(program.agent.Agent(ROOT, io.BytesIO()).trials)
    return f"G1 damaged: {damaged}" if damaged else ""


def has_agent(disk: Disk) -> bool:
    """True if the start of the machine finds the agent's own file, whole: who else should recover?"""
    try:
        link = disk.nodes[disk.find(f"{ROOT}/agent/current.py", follow=False)].target
        content = disk.nodes[disk.find(f"{ROOT}/agent/{link}")].data
    except OSError:
        return False
    return hashlib.sha256(content).hexdigest()[:16] == link[: -len(".py")]


def old_layout(disk: Disk) -> bool:
    try:
        return disk.nodes[disk.find(f"{ROOT}/layout")].data == b"edgekit 1\n"
    except OSError:
        return False


def in_use(disk: Disk) -> str | None:
    """The release that a runner would start; "!..." if it is not whole."""
    try:
        link = disk.nodes[disk.find(f"{ROOT}/current", follow=False)]
    except OSError:
        return None
    name = link.target.rpartition("/")[2]
    wrong = whole(disk, f"{ROOT}/releases/{name}")
    return f"!{name_of(name)}: {wrong}" if wrong else name


def whole(disk: Disk, folder: str) -> str:
    """Which file of a release is not what was sent, its runtime included; "" if all are. Not the agent's own code."""

    def content(path: str) -> bytes | None:
        try:
            return disk.nodes[disk.find(path)].data
        except OSError:
            return None

    one = OTHERS.get(folder.rpartition("/")[2])
    if one is None:
        return "no release of ours"
    lists = [(folder, one.text, f"{folder}/release.json"), (f"{folder}/site", one.runtime_text, "")]
    for place, text, own in lists:
        if own and content(own) != text.encode():
            return "release.json"
        for name, file in json.loads(text)["files"].items():
            if content(f"{place}/{name}") != one.blobs[file["sha256"]]:
                return name
            if name.endswith(".py") and not runs(
                content(f"{place}/{compiled(name)}") or b"", one.blobs[file["sha256"]]
            ):
                return compiled(name)
    return ""


def name_of(release: str | None) -> str:
    """A, B or C."""
    return {None: "nothing", A.id: "A", B.id: "B", C.id: "C"}.get(release, str(release))


# -- all of it


@dataclass
class Result:
    """What was looked at, and what did not hold."""

    images: int = 0  # different ones
    violations: Counter[str] = field(default_factory=Counter)

    def note(self, wrong: str, where: str) -> None:
        self.images += 1
        if wrong:
            self.violations[f"{where}: {wrong}"] += 1

    @property
    def count(self) -> int:
        return sum(self.violations.values())


def cut_everywhere(
    program: Program,
    name: str,
    *,
    ext4: bool,
    left_out: str = "",
    nested: float = 0.0,
    again: float = 0.0,
    enough: int = 1 << 30,
) -> Result:
    """Runs a script and looks at every image of every moment of it.

    `nested` is the share of them whose recovery is cut again, `again` that on which something is deployed then.
    """
    result, chance = Result(), random.Random(1)
    disk, world = start_of(program, name, ext4)
    disk.left_out = left_out
    seen: set[int] = set()
    where = f"{name}, {'ext4' if ext4 else 'any'}"

    def look(what: str) -> None:
        expected = World(set(world.allowed), set(world.proven), world.min_seq)
        working, handles = program.os.disk, dict(disk.handles)
        if result.count >= enough:
            raise PowerCut
        for nodes in disk.images(chance):
            key = hash((tree(nodes), tuple(sorted(map(str, expected.allowed))), expected.min_seq))
            if key in seen or result.count >= enough:
                continue
            seen.add(key)
            result.note(broken(program, copied(nodes), expected), where)
            if chance.random() < again:
                one = chance.choice([A, B, C])
                known = World(set(expected.allowed), set(expected.proven), expected.min_seq)
                fresh = Disk(copied(nodes), ext4=ext4)
                program.on(fresh)
                result.note(run_again(program, fresh, known, one, "boot 2"), f"{where}, then {name_of(one.id)}")
            if chance.random() < nested:
                cut_recovery(program, nodes, expected, result, chance, f"{where}, cut again", ext4, left_out)
        program.os.disk = working
        disk.handles = handles

    disk.after = look
    program.on(disk)
    with contextlib.suppress(PowerCut):
        SCRIPTS[name][1](program, world)
        look("the end: whoever asked has the answer")
    return result


def cut_recovery(
    program: Program,
    nodes: dict[int, Node],
    world: World,
    result: Result,
    chance: random.Random,
    where: str,
    ext4: bool,
    left_out: str,
) -> None:
    """The power goes again while the machine recovers from the first cut."""
    disk = Disk(copied(nodes), ext4=ext4)
    disk.left_out = left_out
    seen: set[int] = set()

    def look(what: str) -> None:
        handles = dict(disk.handles)
        for again in disk.images(chance):
            key = hash(tree(again))
            if key not in seen:
                seen.add(key)
                result.note(broken(program, copied(again), world), where)
        program.os.disk = disk
        disk.handles = handles

    disk.after = look
    program.on(disk)
    try:
        if has_agent(disk):
            recover(program, "boot 2")
    except Exception as error:
        result.note(f"recovery fails: {error!r}", where)


def die_everywhere(program: Program, *, ext4: bool, every: int = 1) -> Result:
    """The workstation, and the agent with it, dies after each file operation; then one of several things happens."""
    result, name = Result(), "deployment"
    for step in itertools.count(1, every):
        for what in FATES:
            disk, world = start_of(program, name, ext4)

            def die(_: str, disk: Disk = disk, last: int = step) -> None:
                if disk.operations == last:
                    raise PowerCut

            disk.after = die
            program.on(disk)
            try:
                SCRIPTS[name][1](program, world)
            except PowerCut:
                disk.after = lambda _: None
                disk.handles.clear()
                result.note(fate(program, disk, world, what), f"workstation dies, then {what}")
            else:
                return result
    raise AssertionError("it never ends")


FATES = (
    "the same again",
    "another release",
    "the time is over",
    "a power cut",
    "a power cut, then the same again",
    "confirm",
)


def fate(program: Program, disk: Disk, world: World, what: str) -> str:
    """What is wrong after what happened to a device whose workstation had died; "" if nothing is."""
    program.on(disk)
    in_doubt = set(world.allowed)
    wrong = ""
    if what == "the time is over":
        time_over(program)
    elif "power cut" in what:
        images = list(disk.images(random.Random(2)))
        for nodes in images[:: max(1, len(images) // 8)]:
            wrong = wrong or broken(program, copied(nodes), world)
            if "again" in what:
                again, known = Disk(copied(nodes)), World(set(world.allowed), set(world.proven), world.min_seq)
                program.on(again)
                wrong = wrong or run_again(program, again, known, B, "boot 2")
        return wrong
    elif what == "confirm":
        program.on(disk)
        try:
            confirm(program, world, B, at_s=20.0)
            confirm(program, world, B, at_s=21.0)  # the first answer was lost
        except RuntimeError:  # it had not come so far; then the time will be over
            world.allowed = in_doubt
            program.on(disk)
            time_over(program)
    else:
        return run_again(program, disk, world, B if what == "the same again" else C, "boot 1")
    return state(program, disk, world)


def run_again(program: Program, disk: Disk, world: World, one: Small, boot: str) -> str:
    """What is wrong when it is deployed from there; "" if it ends as it should."""
    try:
        deploy(program, world, one, boot=boot, at_s=20.0)
    except Exception as error:
        return f"G4 deploying again fails: {error!r}"
    return state(program, disk, world)


def copied(nodes: dict[int, Node]) -> dict[int, Node]:
    """The same, to be changed."""
    return {number: node.copy() for number, node in nodes.items()}


def everything(program: Program, **options: Any) -> Iterator[tuple[bool, str, Result]]:
    """(is ext4, script, result) of all scripts on both kinds of disk."""
    for ext4, name in itertools.product((False, True), SCRIPTS):
        yield ext4, name, cut_everywhere(program, name, ext4=ext4, **options)


def table(program: Program, *, enough: int = 20) -> Iterator[tuple[str, int, int, int]]:
    """(fsync, how often it is called, violations without it in model "any", in "ext4"), counted up to `enough` a script."""
    called: dict[str, list[tuple[bool, str]]] = {}
    times: Counter[str] = Counter()
    for ext4, name in itertools.product((False, True), SCRIPTS):
        disk, world = start_of(program, name, ext4)
        program.on(disk)
        SCRIPTS[name][1](program, world)
        for label, count in disk.labels.items():
            called.setdefault(label, []).append((ext4, name))
            times[label] += count if ext4 else 0
    for label in sorted(called):
        counts = {False: 0, True: 0}
        for ext4, name in called[label]:
            counts[ext4] += cut_everywhere(program, name, ext4=ext4, left_out=label, again=0.1, enough=enough).count
        yield label, times[label], counts[False], counts[True]


def main() -> int:
    """Everything, and the table; exit code 1 if anything does not hold, or an fsync that is needed is not caught."""
    import argparse
    import time

    about = "Power cuts, in a model, after every file operation of the agent; then without each of its fsyncs. Minutes."
    argparse.ArgumentParser(prog="crash", description=about).parse_args()
    program, total, wrong = Program(), 0, 0
    started = time.monotonic()
    print("cuts after every operation, a fifth of the recoveries cut again, a tenth deployed to again")
    for ext4, name, found in everything(program, nested=0.2, again=0.1):
        total, wrong = total + found.images, wrong + found.count
        print(f"  {'ext4' if ext4 else 'any':5}{name:40}{found.images:8} images{found.count:6} violations")
        for what, count in found.violations.most_common(5):
            print(f"       {count} x {what}")
    for ext4 in (False, True):
        found = die_everywhere(program, ext4=ext4)
        total, wrong = total + found.images, wrong + found.count
        print(
            f"  {'ext4' if ext4 else 'any':5}{'the workstation dies':40}{found.images:8} cases {found.count:6} violations"
        )
    print(f"{total} images, {wrong} violations, {time.monotonic() - started:.0f} s")
    print("\nleft out: violations (counted up to 20 a script)\n     any  ext4")
    caught = set()
    for label, _, any_count, ext4_count in table(program):
        caught |= {label} if any_count + ext4_count else set()
        print(f"  {any_count:6}{ext4_count:6}  {label}")
    missed = NEEDED - caught
    for label in sorted(missed):
        print(f"needed, and not caught: {label}")
    return 1 if wrong or missed else 0


# the fsyncs without which something breaks; the others are a second line, or save work that would be done again
NEEDED = {
    "adopt > keep_agent > point_durably (folder)",
    "adopt > keep_agent > write_durably > write_synced (file)",
    "begin > keep_agent > point_durably (folder)",
    "begin > keep_agent > write_durably > write_synced (file)",
    "begin > write_journal > write_durably (folder)",
    "begin > write_journal > write_durably > write_synced (file)",
    "confirm > confirm > write_journal > write_durably (folder)",
    "confirm > confirm > write_journal > write_durably > write_synced (file)",
    "install_release > build > build_tree (folder)",
    "install_release > build > build_tree > write_synced (file)",
    "install_release > build > sync_blobs (file)",
    "install_runtime > build > build_tree (folder)",
    "install_runtime > build > build_tree > write_synced (file)",
    "install_runtime > build > sync_blobs (file)",
    "install_runtime > write_durably (folder)",
    "install_runtime > write_durably > write_synced (file)",
    "lock > _lay_out > make_folder (folder)",
    "lock > _lay_out > write_durably > write_synced (file)",
    "lock > _lay_out > write_journal > write_durably > write_synced (file)",
    "plan > give_up > use > point_durably (folder)",
    "plan > give_up > write_journal > write_durably > write_synced (file)",
    "recover > give_up > use > point_durably (folder)",
    "recover > give_up > write_journal > write_durably > write_synced (file)",
    "rollback > go_back > write_journal > write_durably > write_synced (file)",
}

if __name__ == "__main__":
    raise SystemExit(main())
