"""Deploys: probe, plan, send what is missing, install beside, prove, try, confirm over a second connection.

Nothing to do is one answer. What the device does meanwhile, and without us, is in trial.py.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from edgekit.bundle import Bundle, verify_bundle
from edgekit.deploy.address import Address, Local
from edgekit.deploy.confirm import await_device, confirm_release
from edgekit.deploy.hello import Hello
from edgekit.deploy.plan import Plan, Step, list_steps, make_proof, plan_deployment, service_changes
from edgekit.deploy.release import plan_release, read_content
from edgekit.deploy.route import resolved
from edgekit.deploy.runtime import build_runtime
from edgekit.deploy.session import Session, open_session, refuse_host_key
from edgekit.deploy.sign import Signed, Signer
from edgekit.deploy.transport import AskHostKey
from edgekit.errors import DeviceRefused, DeviceUnsupported, InputError
from edgekit.platforms import choose_runtime

Progress = Callable[[str, int, int], None]  # stage, bytes done, bytes in all (0: not counted in bytes)

HELPER = Step("power", "install edgekit-powerd, a service that runs as root: it sets clock caps, and takes them back")
WINDOW_S = 120.0  # for which a release is on trial unless somebody says otherwise


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
    service_before: str | None  # what did, where only that changed
    confirmed_by: str | None  # workstation or device
    check: Mapping[str, Any] | None  # the device's golden check, as its runner reports it
    signed_by: str | None  # name and fingerprint; None: unsigned, or the device does not ask for it
    health: Mapping[str, Any] | None  # what its server said of itself on trial; None without a service
    warning: str  # what a person should know of the device; "" if nothing
    power: tuple[str, ...] | None  # what installing the power helper changed; None: nobody asked for it


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
    power: bool = False,
    ask: AskHostKey = refuse_host_key,
    progress: Progress = lambda stage, done, total: None,
) -> Deployment:
    """Makes `bundle` the proven release of the device, after its golden vectors agreed there and its trial went well.

    On trial, it is in use for at most `window_s` unless it is confirmed: by us, over a new connection, or (`confirm` is
    "device") by the device itself when it is still well at the end of the window. If it is not, the release before is in use
    again, whether we are there or not. Any EdgekitError means that it is so, or will be by the end of the window.
    `verify` first hashes everything on the device and sends again what is damaged. `volatile` allows a device that may
    forget everything when it is switched off, as one in this machine (Local) always may.
    `power` also installs edgekit-powerd there, which runs as root: only for who was asked.
    A device that has signers wants what `sign` signs now, or `signed` before, or to be told `unsigned`.
    """
    wish = Wish(
        python=python,
        with_pillow=with_pillow,
        dry_run=dry_run,
        verify=verify,
        window_s=window_s,
        confirm=confirm,
        service=service,
        is_local=isinstance(address, Local),
        volatile=volatile or isinstance(address, Local),
        signed=signed,
        sign=sign,
        unsigned=unsigned,
        power=power,
    )
    verify_bundle(bundle)
    progress("connect", 0, 0)
    address = resolved(address)
    with open_session(address, python=python, ask=ask) as session:
        _check_fits(bundle, session.hello, address)
        if power and (reason := session.request("helper possible")["why_not"]):
            hint = "leave --power out: variants and threads need no right"
            raise DeviceRefused(f"{address}: no power helper: {reason}", hint=hint)
        plan = _plan(session, bundle, wish, progress)
        result = _planned(session.hello, address, bundle, plan, wish)
        if dry_run or plan.is_done:
            result = _keep_running(session, plan, wish, result, progress)
        else:
            result = _bring(session, plan, wish, result, progress)
    if not dry_run and not plan.is_done:
        ends = time.monotonic() + window_s
        settle = confirm_release if confirm == "workstation" else await_device
        progress("confirm", 0, 0)
        previous = settle(address, plan.release.id, ends, python=python, ask=ask)
        result = replace(result, previous=previous, confirmed_by=confirm)
    if power and not dry_run:
        progress("power", 0, 0)
        with open_session(address, python=python, ask=ask) as session:
            result = replace(result, power=tuple(session.request("helper")["changed"]))
    return result


@dataclass(frozen=True)
class Wish:
    """How somebody wants a deployment done; `deploy` says what each means."""

    python: str
    with_pillow: bool
    dry_run: bool
    verify: bool
    window_s: float
    confirm: str
    service: str
    is_local: bool  # the device is this machine
    volatile: bool
    signed: Signed | None
    sign: Signer | None
    unsigned: bool
    power: bool


def _plan(session: Session, bundle: Bundle, wish: Wish, progress: Progress) -> Plan:
    """What the device needs, whose every byte is here as it is listed."""
    hello = session.hello
    damaged = session.request("verify")["damaged"] if wish.verify else ()

    def make_plan(*, anew: bool) -> Plan:
        progress("runtime", 0, 0)
        runtime = choose_runtime(hello.platform, compiled=bundle.manifest.needs_compiled)
        tree = build_runtime(hello.platform, runtime, with_pillow=wish.with_pillow, anew=anew)
        release = plan_release(bundle, tree.id, hello.executable, list(tree.requirements))
        proof = functools.partial(make_proof, bundle, hello, signed=wish.signed, sign=wish.sign, unsigned=wish.unsigned)
        operation = "missing" if wish.dry_run else "plan"
        return plan_deployment(session, release, tree, damaged, operation, {"volatile": wish.volatile}, proof)

    plan = make_plan(anew=False)
    if any(sha256 in plan.tree.contents for sha256 in plan.changed_here):  # a damaged cache
        plan = make_plan(anew=True)
    for sha256 in plan.changed_here:
        raise InputError(f"{plan.contents[sha256]!s} has just changed here", hint="deploy again when it is finished")
    return plan


def _planned(hello: Hello, address: Address, bundle: Bundle, plan: Plan, wish: Wish) -> Deployment:
    """A deployment of which nothing is done yet."""
    return Deployment(
        device=str(address),
        root=hello.root,
        system=hello.board or hello.system,
        release=plan.release.id,
        bundle=bundle.id,
        runtime=plan.tree.id,
        requirements=plan.tree.requirements,
        previous=hello.good if wish.dry_run else hello.previous,
        changed=not plan.is_done or service_changes(plan, hello, wish.service),
        dry_run=wish.dry_run,
        steps=(
            *list_steps(plan, hello, wish.window_s, wish.confirm, wish.service, bundle.manifest.limits),
            *([HELPER] if wish.power else []),
        ),
        files_sent=len(plan.missing),
        bytes_sent=plan.bytes_to_send,
        service=None,
        service_before=None,
        confirmed_by=None,
        check=None,
        signed_by=None,
        health=None,
        warning=plan.warning,
        power=None,
    )


def _keep_running(session: Session, plan: Plan, wish: Wish, result: Deployment, progress: Progress) -> Deployment:
    """The end where nothing has to be brought: at most, something else keeps what is current running."""
    if wish.dry_run or not result.changed:
        return result
    progress("service", 0, 0)
    done = session.request("service", id=plan.release.id, service=wish.service)
    return replace(result, service=done["service"], service_before=done["before"], health=done["health"])


def _bring(session: Session, plan: Plan, wish: Wish, result: Deployment, progress: Progress) -> Deployment:
    """All but the end: sent, installed, checked, in use on trial. Nothing is waited for that the next step does not need."""
    if plan.missing:
        _send(session, plan, progress)
    if not plan.has_runtime:
        progress("install", 0, 0)
        session.request("runtime", id=plan.tree.id, text=plan.tree.text)
    progress("check", 0, 0)
    release = {"id": plan.release.id, "text": plan.release.text, **plan.proof}
    trial = {
        "id": plan.release.id,
        "window_s": wish.window_s,
        "confirm": wish.confirm,
        # this machine is not to start things by itself
        "service": "none" if wish.service == "auto" and wish.is_local else wish.service,
        "unsigned": wish.unsigned,
    }
    answers = session.requests(("release", release), ("trial", trial))
    check = next(answers)["check"]
    progress("trial", 0, 0)
    begun = next(answers)
    who = begun["signed"]
    signed_by = None if who is None else f"{who['principal']} ({who['key']})"
    return replace(result, check=check, service=begun["service"], health=begun["health"], signed_by=signed_by)


def _check_fits(bundle: Bundle, hello: Hello, address: Address) -> None:
    wanted = bundle.manifest.arch
    if wanted is not None and wanted != hello.arch:
        raise DeviceUnsupported(
            f"the bundle was made for {bundle.manifest.target} ({wanted}), {address} is {hello.arch}",
            hint="convert again with a --target that fits, or without one",
        )


def _send(session: Session, plan: Plan, progress: Progress) -> None:
    """All missing blobs, one after the other. Only the last one is answered, and only if one of them goes on from a part."""
    total, done, resumes = plan.bytes_to_send, 0, any(plan.arrived.values())
    again: list[str] = []
    for index, (sha256, size) in enumerate(plan.missing.items(), start=1):
        progress("send", done, total)
        content, offset = read_content(plan.contents[sha256]), plan.arrived[sha256]

        def sent(share: float, before: int = done, left: int = size - offset) -> None:
            progress("send", before + int(share * left), total)

        again = session.put(sha256, content, answer=resumes and index == len(plan.missing), offset=offset, sent=sent)
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
