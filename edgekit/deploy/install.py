"""Deploys: probe, plan, send what is missing, install beside, prove, switch. One connection; nothing to do is one answer."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.bundle import Bundle, verify_bundle
from edgekit.deploy.address import Address
from edgekit.deploy.platforms import choose_runtime
from edgekit.deploy.release import Release, plan_release, scratch_folder
from edgekit.deploy.runtime import Tree, build_runtime
from edgekit.deploy.session import Hello, Session, open_session, refuse_host_key
from edgekit.deploy.transport import AskHostKey
from edgekit.errors import DeviceUnsupported

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
    with scratch_folder() as scratch, open_session(address, python=python, ask=ask) as session:
        hello = session.hello
        _check_fits(bundle, hello, address)
        runtime = choose_runtime(hello.platform)
        progress("runtime", 0, 0)
        tree = build_runtime(hello.platform, runtime, with_pillow=with_pillow)
        requirements = json.loads(tree.text)["requirements"]
        release = plan_release(bundle, tree.id, hello.executable, requirements, Path(scratch))

        def result(*, changed: bool, sent: Mapping[str, int], previous: str | None, check: Any) -> Deployment:
            return Deployment(
                device=str(address),
                root=hello.root,
                system=hello.board or hello.system,
                release=release.id,
                bundle=bundle.id,
                runtime=tree.id,
                requirements=tuple(requirements),
                previous=previous,
                changed=changed,
                dry_run=dry_run,
                files_sent=len(sent),
                bytes_sent=sum(sent.values()),
                check=check,
            )

        if verify and not dry_run:
            session.request("repair")
        elif hello.current == release.id:
            return result(changed=False, sent={}, previous=hello.previous, check=None)
        runtimes = () if verify else hello.runtimes
        needed, places = _needed(release, tree, with_runtime=tree.id not in runtimes)
        missing = session.request("missing" if dry_run else "plan", files=needed)["missing"]
        sent = {sha256: needed[sha256] for sha256 in missing}
        if dry_run:
            return result(changed=True, sent=sent, previous=hello.current, check=None)
        _send(session, sent, places, progress)
        if tree.id not in runtimes:
            progress("install", 0, 0)
            session.request("runtime", id=tree.id, text=tree.text)
        progress("check", 0, 0)
        check = session.request("release", id=release.id, text=release.text)["check"]
        switched = session.request("switch", id=release.id)
        return result(changed=True, sent=sent, previous=switched["previous"], check=check)


def _check_fits(bundle: Bundle, hello: Hello, address: Address) -> None:
    wanted = bundle.manifest.arch
    if wanted is not None and wanted != hello.arch:
        raise DeviceUnsupported(
            f"the bundle was made for {bundle.manifest.target} ({wanted}), {address} is {hello.arch}",
            hint="convert again with a --target that fits, or without one",
        )


def _needed(release: Release, tree: Tree, *, with_runtime: bool) -> tuple[dict[str, int], dict[str, Path]]:
    """sha256 -> bytes and sha256 -> file here, of all that the release needs on the device."""
    needed, places = dict(release.sizes), dict(release.paths)
    if with_runtime:
        needed |= tree.sizes
        places |= tree.paths
    return needed, places


def _send(session: Session, sent: Mapping[str, int], places: Mapping[str, Path], progress: Progress) -> None:
    """All missing blobs, one after the other, without waiting in between: only the last one is answered."""
    total, done = sum(sent.values()), 0
    for index, (sha256, size) in enumerate(sent.items(), start=1):
        progress("send", done, total)
        session.put(sha256, places[sha256], answer=index == len(sent))
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
