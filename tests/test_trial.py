"""A release on trial: who ends it, and how, when the workstation, the network or the power is gone."""

from __future__ import annotations

import json
import os
import subprocess
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from devices import PYTHON, Here, begin, install, parcel, recorded, refused, release, send, wait_until, world
from hypothesis import given
from hypothesis import strategies as st

from edgekit.deploy import disk, guard, journal
from edgekit.deploy.address import Local
from edgekit.deploy.confirm import confirm_release
from edgekit.deploy.install import adopt, rollback, status
from edgekit.deploy.journal import Journal, Moment
from edgekit.deploy.parts import packed_agent
from edgekit.deploy.service import Unkept
from edgekit.deploy.session import open_session
from edgekit.deploy.store import Store
from edgekit.deploy.trial import Trials
from edgekit.errors import (
    DeviceDamaged,
    DeviceError,
    DeviceFull,
    DeviceRefused,
    DeviceUnreachable,
    NotInstalled,
    TrialOver,
)

# passes the golden check as long as the device says so
FICKLE = b"""#!/bin/sh
[ -e "$(dirname "$0")/../../../sick" ] && exit 1
echo '{"variants": []}'
"""


@pytest.fixture
def old(device: Local) -> str:
    """The id of the release that a device has."""
    one = release("old")
    install(Here(device.root), one)
    return one.id


def bring(session: Any, one: Any) -> None:
    send(session, one)
    session.request("release", id=one.id, text=one.text)


def in_use(device: Local) -> str:
    return os.path.basename(os.readlink(device.root / "current"))


def alone(device: Local, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The agent's own file, as the start of the machine runs it."""
    command = [PYTHON, "-I", device.root / "agent" / "current.py", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def rebooted(device: Local) -> None:
    """As the journal looks to a machine that was started since."""
    path = device.root / "journal.json"
    path.write_text(json.dumps({**recorded(device.root), "boot": "another"}) + "\n")


# -- nobody confirms


@pytest.mark.parametrize(
    "stays",
    [pytest.param(False, id="the workstation goes", marks=pytest.mark.slow), pytest.param(True, id="it hangs")],
)
def test_a_trial_that_nobody_confirms_goes_back_by_itself(device: Local, old: str, stays: bool) -> None:
    new = release("new")
    with open_session(device) as session:
        bring(session, new)
        begin(session, new, window_s=1)
        assert in_use(device) == new.id
        if stays:  # its agent waits for a request; it must not keep the guard from its work
            wait_until(lambda: in_use(device) == old)
    wait_until(lambda: in_use(device) == old)

    wait_until(lambda: recorded(device.root)["phase"] == "idle")
    assert recorded(device.root)["good"] == old
    assert recorded(device.root)["failed"] == [new.id]
    with refused(TrialOver, 5), open_session(device) as session:
        session.request("confirm", id=new.id)


def test_a_confirmed_release_stays_when_the_window_ends_and_the_guard_goes(device: Local, old: str) -> None:
    new = release("new")
    with open_session(device) as session:
        bring(session, new)
        begin(session, new, window_s=60)
        assert guards(new.id)
        assert confirm_release(device, new.id, 0) == old
    with open_session(device) as session:
        session.request("confirm", id=new.id)  # the first answer was lost

    wait_until(lambda: not guards(new.id))
    assert in_use(device) == new.id
    assert recorded(device.root)["prev"] == old


def guards(name: str) -> list[str]:
    found = subprocess.run(["ps", "-ww", "-eo", "pid,comm"], capture_output=True, text=True).stdout
    return [line for line in found.splitlines() if f"guard-{name}"[:15] in line]


def test_a_machine_that_was_started_anew_goes_back_before_anything_runs(device: Local, old: str) -> None:
    new = release("new")
    with open_session(device) as session:
        bring(session, new)
        begin(session, new)
    rebooted(device)

    done = alone(device, "recover")

    assert (done.returncode, done.stderr) == (0, "")
    assert in_use(device) == old
    assert alone(device, "recover").returncode == 0


@pytest.mark.slow
def test_the_launcher_goes_back_too_where_nothing_else_does_at_a_start(device: Local) -> None:
    from edgekit.deploy.release import launcher_script

    package = {"edgekit/__init__.py": b"", "edgekit/runner/__init__.py": b""}
    for label in ("old", "new"):
        main = f"import sys\ndef main(): print('{label}', *sys.argv[1:])\n".encode()
        one = release(label, run=launcher_script(PYTHON).encode(), **package, **{"edgekit/runner/__main__.py": main})
        with open_session(device) as session:
            send(session, one)
            build_unchecked(device, one)
            begin(session, one)
            if label == "old":
                session.request("confirm", id=one.id)
    run = [device.root / "current" / "run", "infer"]
    before = subprocess.run(run, capture_output=True, text=True)
    rebooted(device)
    after = subprocess.run(run, capture_output=True, text=True)

    assert before.stdout.split()[:2] == ["new", "infer"], before.stderr
    assert after.stdout.split()[:2] == ["old", "infer"], after.stderr
    assert in_use(device) in after.stdout


def build_unchecked(device: Local, one: Any) -> None:
    """The release without its golden check, which this one has not."""
    store = Store(str(device.root))
    store.build("releases", one.id, json.loads(one.text)["files"], {"release.json": one.text.encode()}, {})


@pytest.mark.slow
def test_a_first_deployment_that_nobody_confirms_leaves_nothing_in_use(device: Local) -> None:
    new = release("new")
    with open_session(device) as session:
        bring(session, new)
        begin(session, new, window_s=0.2)

    wait_until(lambda: not os.path.lexists(device.root / "current"))
    wait_until(lambda: recorded(device.root)["phase"] == "idle")
    assert recorded(device.root)["good"] is None


def test_a_runner_that_does_not_stay_up_ends_its_trial(device: Local, old: str) -> None:
    new = release("new")
    with open_session(device) as session:
        bring(session, new)
        begin(session, new)

    assert alone(device, "failed").returncode == 0
    assert in_use(device) == old
    before = world(device.root)
    assert alone(device, "failed").returncode == 0  # what is proven is not taken away
    assert world(device.root) == before


def test_the_device_alone_confirms_what_is_well_at_the_end_of_its_window(device: Local, old: str) -> None:
    new = release("new", run=FICKLE)
    with open_session(device) as session:
        bring(session, new)
        begin(session, new, window_s=0.2, confirm="device")

    wait_until(lambda: recorded(device.root)["phase"] == "idle")
    assert recorded(device.root)["good"] == new.id == in_use(device)


def test_the_device_alone_goes_back_from_what_is_not_well_then(device: Local, old: str) -> None:
    new = release("new", run=FICKLE)
    with open_session(device) as session:
        bring(session, new)
        (device.root.parent / "sick").touch()
        begin(session, new, window_s=0.2, confirm="device")

    wait_until(lambda: recorded(device.root)["phase"] == "idle")
    assert recorded(device.root)["good"] == old == in_use(device)


def test_a_guard_that_does_not_start_leaves_what_was_in_use(device: Local, old: str) -> None:
    new = release("new")
    with refused(DeviceError, 4) as caught, open_session(device) as session:
        bring(session, new)
        (device.root / "agent").joinpath("current.py").unlink(missing_ok=True)
        (device.root / "agent" / "current.py").mkdir()  # nothing can be put in its place
        begin(session, new)

    assert caught.value.hint
    assert in_use(device) == old
    assert recorded(device.root)["phase"] == "idle"


class Stubborn(Unkept):
    """A service that does not do what it is asked."""

    def restart(self) -> None:
        raise disk.Refused("DeviceError", "it does not start", "look at its log")

    def cancel_guard(self, release: str) -> None:
        raise disk.Refused("DeviceError", "no such timer", "look at its log")


def test_a_service_that_does_not_obey_leaves_a_journal_that_says_what_is_in_use(device: Local, old: str) -> None:
    new = release("new")
    with open_session(device) as session:
        bring(session, new)
        begin(session, new)
    store = Store(str(device.root))
    trials = Trials(store, find=lambda root, kind: Stubborn(root))
    store.lock()
    with pytest.raises(disk.Refused):
        trials.give_up()
    store.unlock()

    assert in_use(device) == old
    assert (trials.journal.phase, trials.journal.good) == ("idle", old)


# -- the health of a server is looked at without the lock, and somebody else may be quicker


def in_trial(device: Local, name: str, window_s: float = 60) -> tuple[Trials, Journal]:
    """A trial as the one that began it knows it."""
    with open_session(device) as session:
        bring(session, release(name))
        begin(session, release(name), window_s=window_s)
    trials = Trials(Store(str(device.root)))
    return trials, trials.journal


def test_a_release_that_is_not_well_is_taken_back(device: Local, old: str) -> None:
    trials, begun = in_trial(device, "sick")

    trials.fail(begun)

    assert in_use(device) == old
    assert recorded(device.root)["phase"] == "idle"


def test_a_server_that_the_guard_took_back_is_not_called_one_that_fell(device: Local, old: str) -> None:
    _, begun = in_trial(device, "slow", window_s=60)
    late = Trials(Store(str(device.root)), now=lambda: Moment(begun.boot, begun.decide_s + 1))
    late.recover()

    with pytest.raises(disk.Refused) as caught:
        late.fail(begun)
    assert caught.value.reply["error"] == "TrialOver"
    assert "--window" in caught.value.reply["hint"]
    assert in_use(device) == old


def test_a_trial_that_another_deployment_began_meanwhile_goes_on(device: Local, old: str) -> None:
    trials, begun = in_trial(device, "first")
    trials.give_up()
    _, other = in_trial(device, "second")

    trials.fail(begun)

    assert trials.journal == other
    assert in_use(device) == other.to


# -- somebody else comes meanwhile


@pytest.mark.slow
def test_a_deployment_in_a_trial_goes_back_to_what_was_proven_never_to_what_was_tried(device: Local, old: str) -> None:
    with open_session(device) as session:
        bring(session, release("unproven"))
        begin(session, release("unproven"))
    newest = release("newest")
    with open_session(device) as session:
        install(session, newest)

    assert recorded(device.root)["prev"] == old
    assert in_use(device) == newest.id


def test_status_tells_of_a_trial_and_of_what_did_not_pass(
    device: Local, old: str, command: Callable[..., tuple[int, str, str]]
) -> None:
    new = release("new")
    with open_session(device) as session:
        bring(session, new)
        begin(session, new)
    found = status(device)
    shown = command("status", device)[1]
    back = rollback(device)

    assert [(row["role"], row["name"]) for row in found["releases"]] == [("trial", "new"), ("good", "old")]
    assert found["trial"]["release"] == new.id
    assert 0 < found["trial"]["left_s"] <= 60
    assert (back["current"], back["left"]) == (old, new.id)
    assert f"on trial  {new.id}: the workstation decides within" in shown
    assert status(device)["failed"] == [new.id]
    assert f"failed  {new.id}" in command("status", device)[1]
    assert status(device)["trial"] is None


def test_a_workstation_that_cannot_come_back_says_that_the_device_goes_back(device: Local) -> None:
    with refused(DeviceUnreachable, 4) as caught:
        confirm_release(device, "0" * 16, 0, python="/nowhere/python3")

    assert "goes back by itself" in str(caught.value)


@pytest.mark.slow
def test_a_lock_is_not_held_for_a_workstation_that_fell_silent(
    device: Local, old: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = zlib.decompress(packed_agent())
    impatient = zlib.compress(sent.replace(b"IDLE_S = 600", b"IDLE_S = 1"), 9)
    assert zlib.decompress(impatient) != sent

    with open_session(device, agent=impatient) as session:
        session.request("plan", files={}, volatile=True)
        Here(device.root).request("plan", files={}, volatile=True)  # waits until the lock is free
        with pytest.raises(DeviceError):
            session.request("plan", files={}, volatile=True)


# -- what came before


def as_protocol_1(device: Local) -> None:
    """The folder as an older edgekit left it."""
    found = recorded(device.root)
    (device.root / "previous").symlink_to(f"releases/{found['prev']}")
    (device.root / "journal.json").unlink()
    (device.root / "layout").write_text("edgekit 1\n")
    for path in (device.root / "agent").iterdir():
        path.unlink()


@pytest.mark.parametrize("how", ["adopt", pytest.param("deploy", marks=pytest.mark.slow)])
def test_a_folder_of_protocol_1_is_taken_over_with_both_its_releases(device: Local, old: str, how: str) -> None:
    new = release("new")
    install(Here(device.root), new)
    as_protocol_1(device)
    seen = status(device)
    if how == "adopt":
        adopt(device)
    else:
        with open_session(device) as session:
            install(session, new)

    assert [row["role"] for row in seen["releases"]] == ["current", "previous"]
    assert (recorded(device.root)["good"], recorded(device.root)["prev"]) == (new.id, old)
    assert not os.path.lexists(device.root / "previous")
    assert rollback(device)["current"] == old


@pytest.mark.slow
def test_a_lost_journal_is_for_a_person_to_decide(device: Local, old: str) -> None:
    for lost in (b"", b"\0" * 300, b"[]", b'{"edgekit_journal": 2}', None):
        path = device.root / "journal.json"
        path.unlink() if lost is None else path.write_bytes(lost)
        with refused(DeviceDamaged, 4) as caught, open_session(device) as session:
            session.request("plan", files={}, volatile=True)
        assert "adopt" in caught.value.hint
        path.unlink(missing_ok=True)
        assert adopt(device)["current"] == old

    assert in_use(device) == old


@pytest.mark.slow
def test_a_damaged_release_is_not_adopted(device: Local, old: str) -> None:
    (device.root / "journal.json").unlink()
    (device.root / "current" / "label").chmod(0o644)
    (device.root / "current" / "label").write_text("oxd")

    with refused(DeviceDamaged, 4):
        adopt(device)


def test_a_journal_of_a_later_version_is_not_touched(device: Local, old: str) -> None:
    path = device.root / "journal.json"
    path.write_text(json.dumps({**recorded(device.root), "edgekit_journal": 3}))
    before = world(device.root)

    with refused(DeviceError, 4) as caught, open_session(device) as session:
        session.request("plan", files={}, volatile=True)
    assert "another version" in str(caught.value)
    assert world(device.root) == before


def test_adopting_where_nothing_is_makes_nothing(device: Local) -> None:
    with refused(NotInstalled, 4):
        adopt(device)

    assert not device.root.exists()


# -- the parts


ids = st.none() | st.from_regex(r"[0-9a-f]{16}", fullmatch=True)
proven = st.fixed_dictionaries(
    {
        "good": ids,
        "prev": ids,
        "confirm": st.sampled_from(["workstation", "device"]),
        "service": st.sampled_from(["none", "user", "system"]),
        "min_seq": st.dictionaries(st.text(max_size=9), st.integers(0, 1 << 40), max_size=3),
        "failed": st.lists(st.from_regex(r"[0-9a-f]{16}", fullmatch=True), max_size=8).map(tuple),
    }
)


@given(proven, st.from_regex(r"[0-9a-f]{16}", fullmatch=True), st.integers(0, 9))
def test_a_trial_ends_as_before_or_with_the_new_release_and_is_read_as_it_was_written(
    fields: dict[str, Any], new: str, seq: int
) -> None:
    start = Journal(**fields)
    tried = journal.begun(
        start, new, Moment("b", 5.0), window_s=60, confirm="workstation", service="none", signed=["k", seq]
    )
    with pytest.MonkeyPatch.context() as patch:
        written: dict[str, bytes] = {}
        patch.setattr(journal, "write_durably", lambda path, content: written.update({path: content}))
        patch.setattr(journal, "read_file", lambda path, most: written[path])
        for one in (start, tried, journal.confirmed(tried), journal.given_up(tried)):
            journal.write_journal("/r", one)
            assert journal.read_journal("/r") == one
            assert (b'"phase": "trial"' in written["/r/journal.json"]) == one.is_trial

    assert tried.before == start.good
    assert not tried.is_over(Moment("b", 64.9))
    assert tried.is_over(Moment("b", 65.0))
    assert tried.is_over(Moment("another", 5.0))
    assert journal.given_up(tried).good == start.good
    assert journal.confirmed(tried).good == new
    assert journal.confirmed(tried).prev in (start.good, start.prev)
    assert journal.confirmed(tried).min_seq["k"] == max(seq, start.min_seq.get("k", 0))


def test_the_guard_counts_the_time_since_the_start_of_the_machine_sleep_included() -> None:
    on = Journal(phase="trial", to="0" * 16, boot="b", until_s=100.0)
    clock = iter([Moment("b", 10.0), Moment("b", 10.0), Moment("b", 250.0)])
    slept: list[float] = []

    assert guard.wait("0" * 16, lambda: on, lambda: next(clock), slept.append)
    assert slept == [1.0]


@pytest.mark.parametrize("now", [None, Journal(), Journal(phase="trial", to="1" * 16, boot="b")])
def test_the_guard_goes_when_its_trial_is_not_on(now: Journal | None) -> None:
    assert not guard.wait("0" * 16, lambda: now, lambda: Moment("b", 0.0))


MOUNTS = """22 1 179:2 / / rw,noatime shared:1 - ext4 /dev/root rw
30 22 0:26 / /run rw,nosuid - tmpfs tmpfs rw
40 22 0:40 / /home rw - overlay overlay rw,lowerdir=/lower
41 40 179:3 / /home/pi/with\\040space rw - ext4 /dev/mmcblk0p3 rw
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/var/lib/edgekit", ""),
        ("/run/edgekit", "tmpfs"),
        ("/runner", ""),
        ("/home/pi/.local/state/edgekit", "overlay"),
        ("/home/pi/with space/edgekit", ""),
    ],
)
def test_a_file_system_that_forgets_is_seen(tmp_path: Path, path: str, kind: str) -> None:
    (tmp_path / "mountinfo").write_text(MOUNTS)

    assert disk.forgets(path, str(tmp_path / "mountinfo")) == kind


@contextmanager
def small_disk(tmp_path: Path, options: str) -> Iterator[Path]:
    """The root of a device on a file system of its own."""
    (tmp_path / "disk").mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"mode=755,{options}", "edgekit-test", tmp_path / "disk"]
    if os.geteuid() != 0 or subprocess.run(command).returncode:
        pytest.skip("only root can mount a small disk, if this machine lets it")
    try:
        yield tmp_path / "disk" / "device"
    finally:
        subprocess.run(["umount", "-l", tmp_path / "disk"], check=True)


@pytest.mark.slow
def test_a_file_system_that_forgets_or_has_no_names_left_is_refused(tmp_path: Path) -> None:
    with small_disk(tmp_path, "size=64M,nr_inodes=90") as root:
        one = parcel("release", {str(n): b"%d" % n for n in range(40)})
        with refused(DeviceRefused, 4) as caught:
            Here(root).request("plan", files=one.sizes)
        assert "tmpfs" in str(caught.value)
        assert "--allow-volatile" in caught.value.hint
        with refused(DeviceFull, 4) as full:
            Here(root).request("plan", files=one.sizes, volatile=True)
        assert "40 files" in str(full.value)


@pytest.mark.slow
def test_what_did_not_pass_its_trial_makes_room_for_the_next(tmp_path: Path) -> None:
    with small_disk(tmp_path, "size=24M") as root:
        here = Here(root)
        install(here, release("old"))
        bad, good = (release(label, big=os.urandom(4_500_000)) for label in ("bad", "good"))
        bring(here, bad)
        begin(here, bad)
        here.request("rollback")
        assert (root / "releases" / bad.id).is_dir()

        install(here, good)

        assert sorted(os.listdir(root / "releases")) == sorted([release("old").id, good.id])
