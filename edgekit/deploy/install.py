"""Deploys: probe, plan, send what is missing, install beside, prove, switch. One connection; nothing to do is one answer."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from edgekit.bundle import Bundle, verify_bundle
from edgekit.deploy.address import Address
from edgekit.deploy.release import Content, Release, plan_release, read_content
from edgekit.deploy.runtime import Tree, build_runtime
from edgekit.deploy.session import Hello, Session, open_session, refuse_host_key
from edgekit.deploy.transport import AskHostKey
from edgekit.errors import DeviceUnsupported, InputError
from edgekit.platforms import choose_runtime

Progress = Callable[[str, int, int], None]  # stage, bytes done, bytes in all (0: not counted in bytes)


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
    files_sent: int
    bytes_sent: int  # before packing
    check: Mapping[str, Any] | None  # the device's golden check, as its runner reports it


def deploy(
    bundle: Bundle,
    address: Address,
    *,
    python: str = "python3",
    with_pillow: bool = False,
    dry_run: bool = False,
    verify: bool = False,
    ask: AskHostKey = refuse_host_key,
    progress: Progress = lambda stage, done, total: None,
) -> Deployment:
    """Makes `bundle` the current release of the device, after its golden vectors agreed there.

    Until the very last step nothing that runs on the device changes; any EdgekitError means that it is as it was.
    `verify` first hashes everything on the device and sends again what is damaged.
    """
    verify_bundle(bundle)
    progress("connect", 0, 0)
    with open_session(address, python=python, ask=ask) as session:
        hello = session.hello
        _check_fits(bundle, hello, address)
        damaged = session.request("verify")["damaged"] if verify else ()

        def make_plan(*, anew: bool) -> _Plan:
            progress("runtime", 0, 0)
            runtime = choose_runtime(hello.platform)
            tree = build_runtime(hello.platform, runtime, with_pillow=with_pillow, anew=anew)
            release = plan_release(bundle, tree.id, hello.executable, list(tree.requirements))
            return _plan(session, release, tree, damaged, "missing" if dry_run else "plan")

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
            previous=hello.current if dry_run else hello.previous,
            changed=not plan.is_done,
            dry_run=dry_run,
            files_sent=len(plan.missing),
            bytes_sent=sum(plan.missing.values()),
            check=None,
        )
        if dry_run or plan.is_done:
            return result
        _send(session, plan, progress)
        if not plan.has_runtime:
            progress("install", 0, 0)
            session.request("runtime", id=plan.tree.id, text=plan.tree.text)
        progress("check", 0, 0)
        check = session.request("release", id=plan.release.id, text=plan.release.text)["check"]
        switched = session.request("switch", id=plan.release.id)
        return replace(result, previous=switched["previous"], check=check)


@dataclass(frozen=True)
class _Plan:
    """What a deployment has to bring."""

    release: Release
    tree: Tree
    is_done: bool  # the release is current already, and whole
    has_runtime: bool
    missing: Mapping[str, int]  # sha256 -> bytes, what must be sent
    contents: Mapping[str, Content]  # sha256 -> what has that hash

    def changed_here(self) -> list[str]:
        """What must be sent and is not what the lists say: a cache loses files, a bundle is written to meanwhile."""
        return [sha256 for sha256 in self.missing if not _has_hash(self.contents[sha256], sha256)]


def _plan(session: Session, release: Release, tree: Tree, damaged: Sequence[str], operation: str) -> _Plan:
    hello = session.hello

    def is_whole(folder: str) -> bool:
        return not any(path.startswith(f"{folder}/") for path in damaged)

    has_runtime = tree.id in hello.runtimes and is_whole(f"runtimes/{tree.id}")
    is_done = has_runtime and hello.current == release.id and is_whole(f"releases/{release.id}")
    missing: dict[str, int] = {}
    if not is_done:
        needed = {**release.sizes, **({} if has_runtime else tree.sizes)}
        answer = session.request(operation, files=needed)["missing"]
        missing = {sha256: size for sha256, size in needed.items() if sha256 in answer}
    return _Plan(release, tree, is_done, has_runtime, missing, {**tree.contents, **release.contents})


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
    total, done = sum(plan.missing.values()), 0
    for index, (sha256, size) in enumerate(plan.missing.items(), start=1):
        progress("send", done, total)
        session.put(sha256, read_content(plan.contents[sha256]), answer=index == len(plan.missing))
        done += size
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
