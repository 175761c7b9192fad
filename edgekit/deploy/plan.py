"""What a deployment has to bring and to do: decided before anything is done, and done by install.py."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgekit.bundle import Bundle
from edgekit.deploy.address import Address
from edgekit.deploy.answers import plain
from edgekit.deploy.hello import Hello
from edgekit.deploy.release import Content, Release, read_content
from edgekit.deploy.runtime import Tree
from edgekit.deploy.session import Session
from edgekit.deploy.sign import Signed, Signer, make_statement
from edgekit.errors import DeviceUnsupported


@dataclass(frozen=True)
class Step:
    """One thing that a deployment does; the plan is made of these, and done by these."""

    stage: str
    what: str  # for a person


@dataclass(frozen=True)
class Plan:
    """What a deployment has to bring."""

    release: Release
    tree: Tree
    is_done: bool  # the release is proven and current already, and whole
    has_runtime: bool
    missing: Mapping[str, int]  # sha256 -> bytes, what must be sent
    arrived: Mapping[str, int]  # sha256 -> bytes of it that are there already
    contents: Mapping[str, Content]  # sha256 -> what has that hash
    changed_here: Sequence[str]  # of those that must be sent: a cache loses files, a bundle is written to meanwhile
    warning: str
    proof: Mapping[str, Any]  # what the device wants to know of who signed it

    @property
    def bytes_to_send(self) -> int:
        return sum(self.missing.values()) - sum(self.arrived.values())


def plan_deployment(
    session: Session,
    release: Release,
    tree: Tree,
    damaged: Sequence[str],
    operation: str,
    request: Mapping[str, Any],
    prove: Callable[[Release, Tree], Mapping[str, Any]],
) -> Plan:
    """What has to be brought. The device is asked with `operation`: "plan", or "missing", which changes nothing there."""
    hello = session.hello

    def is_whole(folder: str) -> bool:
        return not any(path.startswith(f"{folder}/") for path in damaged)

    has_runtime = tree.id in hello.runtimes and is_whole(f"runtimes/{tree.id}")
    is_proven = hello.phase == "idle" and hello.current == hello.good == release.id
    is_done = has_runtime and is_proven and is_whole(f"releases/{release.id}")
    missing: dict[str, int] = {}
    arrived: dict[str, int] = {}
    changed: list[str] = []
    warning = ""
    proof: Mapping[str, Any] = {}
    if not is_done:
        proof = prove(release, tree)
        needed = {**release.sizes, **({} if has_runtime else tree.sizes)}
        asked = {"files": needed, "runtime": tree.id, **request, **proof}
        answers = session.requests((operation, asked))
        changed = [sha256 for sha256 in release.sizes if not _has_hash(release.contents[sha256], sha256)]  # meanwhile
        answer = next(answers)
        missing = {sha256: size for sha256, size in needed.items() if sha256 in answer["missing"]}
        arrived = {sha256: min(max(0, int(answer["missing"][sha256])), size) for sha256, size in missing.items()}
        if answer["warning"]:
            warning = f"{hello.root} is on {plain(answer['warning'])}: it may be gone after a reboot"
    contents = {} if is_done else {**tree.contents, **release.contents}
    changed += [sha256 for sha256 in missing if sha256 not in release.sizes and not _has_hash(contents[sha256], sha256)]
    changed = [sha256 for sha256 in changed if sha256 in missing]
    return Plan(release, tree, is_done, has_runtime, missing, arrived, contents, changed, warning, proof)


def make_proof(
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


def check_fits(bundle: Bundle, hello: Hello, address: Address) -> None:
    """Raises DeviceUnsupported for a bundle that was made for another processor."""
    wanted = bundle.manifest.arch
    if wanted is not None and wanted != hello.arch:
        raise DeviceUnsupported(
            f"the bundle was made for {bundle.manifest.target} ({wanted}), {address} is {hello.arch}",
            hint="convert again with a --target that fits, or without one",
        )


def service_changes(plan: Plan, hello: Hello, service: str) -> bool:
    """True if the release is current and something else than what somebody asked for keeps it running."""
    return plan.is_done and service not in ("auto", hello.service)


def list_steps(
    plan: Plan, hello: Hello, window_s: float, confirm: str, service: str, limits: Mapping[str, float] | None
) -> tuple[Step, ...]:
    """What there is to do, in the order in which it is done."""
    if service_changes(plan, hello, service):
        return (Step("service", f"release {plan.release.id} stays; service {service} instead of {hello.service}"),)
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
    within = "" if limits is None else f", its server within {_words(limits)}"
    steps.append(
        Step("trial", f"switch to {release}{within}; a guard there {back} unless it is confirmed in {window_s:g} s")
    )
    if confirm == "workstation":
        steps.append(Step("confirm", "over a new connection; then what neither release needs is deleted"))
    else:
        steps.append(Step("confirm", "by the device itself, if the release is still well then"))
    return tuple(steps)


def _words(limits: Mapping[str, float]) -> str:
    said = [f"{limits['rss_bytes'] / (1 << 20):.1f} MiB of memory"] if "rss_bytes" in limits else []
    said += [f"{limits['p95_ms']:g} ms for 95 of 100 answers"] if "p95_ms" in limits else []
    return " and ".join(said)


def _has_hash(content: Content, sha256: str) -> bool:
    try:
        return hashlib.sha256(read_content(content)).hexdigest() == sha256
    except OSError:
        return False
