"""Deploys: probe, plan, send what is missing, install beside, prove, try, confirm over a second connection.

Nothing to do is one answer. What the device does meanwhile, and without us, is in trial.py.
"""

from __future__ import annotations

import functools
import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from edgekit.bundle import Bundle, verify_bundle
from edgekit.deploy.address import Address, Local
from edgekit.deploy.journal import JUDGE_S
from edgekit.deploy.release import Content, Release, plan_release, read_content
from edgekit.deploy.runtime import Tree, build_runtime
from edgekit.deploy.session import Hello, Session, open_session, plain, refuse_host_key
from edgekit.deploy.sign import Signed, Signer, make_statement
from edgekit.deploy.transport import AskHostKey
from edgekit.errors import DeviceUnreachable, DeviceUnsupported, InputError, TrialOver
from edgekit.platforms import choose_runtime

Progress = Callable[[str, int, int], None]  # stage, bytes done, bytes in all (0: not counted in bytes)

WINDOW_S = 120.0  # for which a release is on trial unless somebody says otherwise
AGAIN_S = 1.0  # between two attempts to connect for the confirmation


@dataclass(frozen=True)
class Step:
    """One thing that a deployment does; the plan is made of these, and done by these."""

    stage: str
    what: str  # for a person


@dataclass(frozen=True)
class Deployment:
    """What a deployment did, or (`dry_run`) would do."""

    device: str
    root: str
    system: str
    release: str
    bundle: str
    runtime: str
    requirements: tuple[str, ...]
    previous: str | None
    changed: bool  # False: this release was current already
    dry_run: bool
    steps: tuple[Step, ...]
    files_sent: int
    bytes_sent: int  # before packing
    service: str | None  # what keeps it running: system, user, none; None: nothing was done
    confirmed_by: str | None  # workstation or device
    check: Mapping[str, Any] | None  # the device's golden check, as its runner reports it
    signed_by: str | None  # name and fingerprint; None: unsigned, or the device does not ask for it
    health: Mapping[str, Any] | None  # what its server said of itself on trial; None without a service
    warning: str  # what a person should know of the device; "" if nothing


def deploy(
    bundle: Bundle,
    address: Address,
    *,
    python: str = "python3",
    with_pillow: bool = False,
    dry_run: bool = False,
    verify: bool = False,
    window_s: float = WINDOW_S,
    confirm: str = "workstation",
    service: str = "auto",
    volatile: bool = False,
    signed: Signed | None = None,
    sign: Signer | None = None,
    unsigned: bool = False,
    ask: AskHostKey = refuse_host_key,
    progress: Progress = lambda stage, done, total: None,
) -> Deployment:
    """Makes `bundle` the proven release of the device, after its golden vectors agreed there and its trial went well.

    On trial, it is in use for at most `window_s` unless it is confirmed: by us, over a new connection, or (`confirm` is
    "device") by the device itself when it is still well at the end of the window. If it is not, the release before is in use
    again, whether we are there or not. Any EdgekitError means that it is so, or will be by the end of the window.
    `verify` first hashes everything on the device and sends again what is damaged. `volatile` allows a device that may
    forget everything when it is switched off, as one in this machine (Local) always may.
    A device that has signers wants what `sign` signs now, or `signed` before, or to be told `unsigned`.
    """
    if isinstance(address, Local) and service == "auto":  # this machine is not to start things by itself
        service = "none"
    verify_bundle(bundle)
    progress("connect", 0, 0)
    with open_session(address, python=python, ask=ask) as session:
        hello = session.hello
        _check_fits(bundle, hello, address)
        damaged = session.request("verify")["damaged"] if verify else ()
        request = {"volatile": volatile or isinstance(address, Local)}

        def make_plan(*, anew: bool) -> _Plan:
            progress("runtime", 0, 0)
            runtime = choose_runtime(hello.platform, compiled=bundle.manifest.needs_compiled)
            tree = build_runtime(hello.platform, runtime, with_pillow=with_pillow, anew=anew)
            release = plan_release(bundle, tree.id, hello.executable, list(tree.requirements))
            proof = functools.partial(_proof, bundle, hello, signed=signed, sign=sign, unsigned=unsigned)
            return _plan(session, release, tree, damaged, "missing" if dry_run else "plan", request, proof)

        plan = make_plan(anew=False)
        if any(sha256 in plan.tree.contents for sha256 in plan.changed_here()):  # a damaged cache
            plan = make_plan(anew=True)
        for sha256 in plan.changed_here():
            raise InputError(
                f"{plan.contents[sha256]!s} has just changed here", hint="deploy again when it is finished"
            )
        result = Deployment(
            device=str(address),
            root=hello.root,
            system=hello.board or hello.system,
            release=plan.release.id,
            bundle=bundle.id,
            runtime=plan.tree.id,
            requirements=plan.tree.requirements,
            previous=hello.good if dry_run else hello.previous,
            changed=not plan.is_done,
            dry_run=dry_run,
            steps=_steps(plan, hello, window_s, confirm),
            files_sent=len(plan.missing),
            bytes_sent=plan.bytes_to_send,
            service=None,
            confirmed_by=None,
            check=None,
            signed_by=None,
            health=None,
            warning=plan.warning,
        )
        if dry_run or plan.is_done:
            return result
        for step in result.steps[:-1]:  # the last one needs another connection
            if step.stage == "send":
                _send(session, plan, progress)
                continue
            progress(step.stage, 0, 0)
            if step.stage == "install":
                session.request("runtime", id=plan.tree.id, text=plan.tree.text)
            elif step.stage == "check":
                answer = session.request("release", **{"id": plan.release.id, "text": plan.release.text, **plan.proof})
                result = replace(result, check=answer["check"])
            elif step.stage == "trial":
                begun = session.request(
                    "trial",
                    id=plan.release.id,
                    window_s=window_s,
                    confirm=confirm,
                    service=service,
                    unsigned=unsigned,
                )
                who = begun["signed"]
                signed_by = None if who is None else f"{who['principal']} ({who['key']})"
                result = replace(result, service=begun["service"], health=begun["health"], signed_by=signed_by)
    ends = time.monotonic() + window_s
    settle = confirm_release if confirm == "workstation" else await_device
    progress("confirm", 0, 0)
    previous = settle(address, plan.release.id, ends, python=python, ask=ask)
    return replace(result, previous=previous, confirmed_by=confirm)


def confirm_release(
    address: Address, release: str, ends: float, *, python: str = "python3", ask: AskHostKey = refuse_host_key
) -> str | None:
    """The release before, after this one was confirmed over a new connection: sshd, network and login still work.

    Tries until `ends` (time.monotonic) to connect. Raises TrialOver if the device has gone back already, and what is wrong
    with the connection if there is none to be had in time; then the device goes back by itself.
    """
    while True:
        try:
            with open_session(address, python=python, ask=ask) as session:
                previous = session.request("confirm", id=release)["previous"]
                return None if previous is None else str(previous)
        except DeviceUnreachable as error:
            if time.monotonic() + AGAIN_S > ends:
                message = f"{error}; release {release} is not confirmed, so the device goes back by itself"
                raise type(error)(message, hint=error.hint) from error
            time.sleep(AGAIN_S)


def await_device(
    address: Address, release: str, ends: float, *, python: str = "python3", ask: AskHostKey = refuse_host_key
) -> str | None:
    """The release before, after the device itself has confirmed this one. Raises TrialOver if it did not."""
    while True:
        found: Mapping[str, Any] = {"outcome": "trial"}
        time.sleep(min(max(ends - time.monotonic(), AGAIN_S), 10.0))
        try:
            with open_session(address, python=python, ask=ask) as session:
                found = session.request("outcome", id=release)
        except DeviceUnreachable as error:
            if time.monotonic() > ends + JUDGE_S:
                hint = "the device decides without us: edgekit status DEVICE shows how"
                raise type(error)(str(error), hint=hint) from error
        if found["outcome"] == "good":
            return None if found["previous"] is None else str(found["previous"])
        if found["outcome"] != "trial":
            raise TrialOver(
                f"{address}: release {release} was not well at the end of its trial, the one before is in use again",
                hint="edgekit logs DEVICE shows what it said",
            )


@dataclass(frozen=True)
class _Plan:
    """What a deployment has to bring."""

    release: Release
    tree: Tree
    is_done: bool  # the release is proven and current already, and whole
    has_runtime: bool
    missing: Mapping[str, int]  # sha256 -> bytes, what must be sent
    arrived: Mapping[str, int]  # sha256 -> bytes of it that are there already
    contents: Mapping[str, Content]  # sha256 -> what has that hash
    warning: str
    proof: Mapping[str, Any]  # what the device wants to know of who signed it

    @property
    def bytes_to_send(self) -> int:
        return sum(self.missing.values()) - sum(self.arrived.values())

    def changed_here(self) -> list[str]:
        """What must be sent and is not what the lists say: a cache loses files, a bundle is written to meanwhile."""
        return [sha256 for sha256 in self.missing if not _has_hash(self.contents[sha256], sha256)]


def _plan(
    session: Session,
    release: Release,
    tree: Tree,
    damaged: Sequence[str],
    operation: str,
    request: Mapping[str, Any],
    make_proof: Callable[[Release, Tree], Mapping[str, Any]],
) -> _Plan:
    hello = session.hello

    def is_whole(folder: str) -> bool:
        return not any(path.startswith(f"{folder}/") for path in damaged)

    has_runtime = tree.id in hello.runtimes and is_whole(f"runtimes/{tree.id}")
    is_proven = hello.phase == "idle" and hello.current == hello.good == release.id
    is_done = has_runtime and is_proven and is_whole(f"releases/{release.id}")
    missing: dict[str, int] = {}
    arrived: dict[str, int] = {}
    warning = ""
    proof: Mapping[str, Any] = {}
    if not is_done:
        proof = make_proof(release, tree)
        needed = {**release.sizes, **({} if has_runtime else tree.sizes)}
        answer = session.request(operation, files=needed, **request, **proof)
        missing = {sha256: size for sha256, size in needed.items() if sha256 in answer["missing"]}
        arrived = {sha256: min(max(0, int(answer["missing"][sha256])), size) for sha256, size in missing.items()}
        if answer["warning"]:
            warning = f"{hello.root} is on {plain(answer['warning'])}: it may be gone after a reboot"
    contents = {**tree.contents, **release.contents}
    return _Plan(release, tree, is_done, has_runtime, missing, arrived, contents, warning, proof)


def _proof(
    bundle: Bundle,
    hello: Hello,
    release: Release,
    tree: Tree,
    *,
    signed: Signed | None,
    sign: Signer | None,
    unsigned: bool,
) -> Mapping[str, Any]:
    """What goes into a request so that a device with signers takes the release."""
    if unsigned or not hello.signers:
        return {"unsigned": unsigned}
    if sign is not None:
        statement = make_statement(bundle, [tree], seq=None)
        signed = Signed(statement, sign(statement))
    return {"id": release.id, "text": release.text, "signed": None if signed is None else signed.frame}


def _steps(plan: _Plan, hello: Hello, window_s: float, confirm: str) -> tuple[Step, ...]:
    """What there is to do, in the order in which it is done."""
    if plan.is_done:
        return ()
    steps, release = [], plan.release.id
    if plan.missing:
        there = f", {sum(plan.arrived.values())} bytes of them are there" if any(plan.arrived.values()) else ""
        steps.append(Step("send", f"{len(plan.missing)} files, {plan.bytes_to_send} bytes before compression{there}"))
    if not plan.has_runtime:
        steps.append(Step("install", f"runtime {plan.tree.id}: {' '.join(plan.tree.requirements)}"))
    steps.append(Step("check", f"build release {release} beside what runs, hash it, compare its golden answers"))
    back = f"goes back to {hello.good}" if hello.good else "takes it out of use"
    steps.append(Step("trial", f"switch to {release}; a guard there {back} unless it is confirmed in {window_s:g} s"))
    if confirm == "workstation":
        steps.append(Step("confirm", "over a new connection; then what neither release needs is deleted"))
    else:
        steps.append(Step("confirm", "by the device itself, if the release is still well then"))
    return tuple(steps)


def _check_fits(bundle: Bundle, hello: Hello, address: Address) -> None:
    wanted = bundle.manifest.arch
    if wanted is not None and wanted != hello.arch:
        raise DeviceUnsupported(
            f"the bundle was made for {bundle.manifest.target} ({wanted}), {address} is {hello.arch}",
            hint="convert again with a --target that fits, or without one",
        )


def _has_hash(content: Content, sha256: str) -> bool:
    try:
        return hashlib.sha256(read_content(content)).hexdigest() == sha256
    except OSError:
        return False


def _send(session: Session, plan: _Plan, progress: Progress) -> None:
    """All missing blobs, one after the other, without waiting in between: only the last one is answered."""
    total, done = plan.bytes_to_send, 0
    again: list[str] = []
    for index, (sha256, size) in enumerate(plan.missing.items(), start=1):
        progress("send", done, total)
        content, offset = read_content(plan.contents[sha256]), plan.arrived[sha256]
        again = session.put(sha256, content, answer=index == len(plan.missing), offset=offset)
        done += size - offset
    for sha256 in again:  # what was there of them was something else
        if sha256 in plan.missing:
            session.put(sha256, read_content(plan.contents[sha256]), answer=True)
    progress("send", total, total)


def status(
    address: Address, *, python: str = "python3", verify: bool = False, ask: AskHostKey = refuse_host_key
) -> Mapping[str, Any]:
    """What is installed on the device; with `verify`, also which of its files are not what was sent."""
    with open_session(address, python=python, ask=ask) as session:
        found = dict(session.request("status"))
        if verify:
            found["damaged"] = session.request("verify")["damaged"]
        return {"device": str(address), **_facts(session.hello), **found}


def rollback(address: Address, *, python: str = "python3", ask: AskHostKey = refuse_host_key) -> Mapping[str, Any]:
    """Makes the previous release current again. Raises NotInstalled if there is none, DeviceDamaged if it is damaged."""
    with open_session(address, python=python, ask=ask) as session:
        return {"device": str(address), **session.request("rollback")}


def adopt(address: Address, *, python: str = "python3", ask: AskHostKey = refuse_host_key) -> Mapping[str, Any]:
    """Takes over what another version laid out, or what lost its journal; every byte in use is hashed first."""
    with open_session(address, python=python, ask=ask) as session:
        return {"device": str(address), **session.request("adopt")}


def remove(address: Address, *, python: str = "python3", ask: AskHostKey = refuse_host_key) -> Mapping[str, Any]:
    """Takes everything of edgekit's off the device."""
    with open_session(address, python=python, ask=ask) as session:
        return {"device": str(address), **session.request("remove")}


def _facts(hello: Hello) -> dict[str, Any]:
    return {
        "board": hello.board,
        "system": hello.system,
        "arch": hello.arch,
        "libc": hello.libc,
        "python": ".".join(str(part) for part in hello.python),
        "root": hello.root,
        "free_bytes": hello.free_bytes,
    }
