"""Deployments as a person makes them, to a folder of this machine: the real runner, a runtime that needs no building."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from devices import PYTHON, flip_a_byte, keep_small_runtime, refused, runtime_folder, wait_until, world

from edgekit.bundle import Bundle, write_bundle
from edgekit.deploy import golden, install, parts, session, store
from edgekit.deploy.address import Local
from edgekit.deploy.install import deploy, remove, rollback, status
from edgekit.deploy.session import open_session
from edgekit.errors import (
    DeviceDamaged,
    DeviceError,
    DeviceFull,
    DeviceRefused,
    DeviceUnsupported,
    GoldenMismatch,
    InputError,
    ReleaseUnhealthy,
)

pytestmark = pytest.mark.usefixtures("small_runtime")
Run = Callable[..., tuple[int, str, str]]


def test_a_first_deployment_answers_its_golden_vectors_and_a_second_one_sends_nothing(
    tiny_bundle: Bundle, device: Local
) -> None:
    first = deploy(tiny_bundle, device)
    before = world(device.root)
    second = deploy(tiny_bundle, device)

    assert first.changed
    assert first.check is not None
    assert first.check["variants"][0]["bit_equal"] == 8
    assert not second.changed
    assert (second.files_sent, second.bytes_sent, second.release) == (0, 0, first.release)
    assert world(device.root) == before
    assert os.path.realpath(device.root / "current") == str(device.root / "releases" / first.release)


def test_progress_is_told_while_a_large_file_is_on_its_way_and_only_grows(
    tiny_bundle: Bundle, device: Local, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    big_cache(tmp_path, monkeypatch, files=1, size=5_000_000)
    told: list[tuple[str, int, int]] = []

    deploy(tiny_bundle, device, progress=lambda *event: told.append(event))

    done = [event[1] for event in told if event[0] == "send"]
    assert done == sorted(done)
    assert done[0] == 0 and done[-1] == told[-5][2]
    assert max(after - before for before, after in itertools.pairwise(done)) < 1_100_000
    assert [stage for stage, _, _ in told if stage != "send"] == [
        "connect",
        "runtime",
        "install",
        "check",
        "trial",
        "confirm",
    ]


def test_a_program_gets_the_result_on_stdout_and_events_on_stderr(
    tiny_bundle: Bundle, device: Local, command: Run
) -> None:
    code, out, err = command("deploy", tiny_bundle.path, device, "--json", "--window", "30")

    events = [json.loads(line) for line in err.splitlines()]
    result = json.loads(out)
    assert code == 0
    assert [event["event"] for event in events if "bytes" not in event][-3:] == ["check", "trial", "confirm"]
    assert [event["bytes"] for event in events if "bytes" in event][-1] == result["bytes_sent"]
    assert (result["confirmed_by"], result["service"]) == ("workstation", "none")


def test_a_dry_run_shows_the_steps_that_are_then_done(tiny_bundle: Bundle, device: Local) -> None:
    planned = deploy(tiny_bundle, device, dry_run=True)
    done = deploy(tiny_bundle, device)

    assert planned.steps == done.steps
    assert [step.stage for step in planned.steps] == ["send", "install", "check", "trial", "confirm"]
    assert deploy(tiny_bundle, device, dry_run=True).steps == ()


def test_a_release_is_proven_where_its_libraries_are_loaded_already_and_by_its_launcher_if_not_there(
    deployed: Local, other_bundle: Bundle, tiny_bundle: Bundle
) -> None:
    """The first process is told late and answers late; the second is gone, as one without memory is."""
    slow = 'import sys, time; here = sys.stdin.readline(); time.sleep(0.7); print(\'{"variants": [], "here": 1}\')'
    for program, is_taken in ((slow, True), ("raise SystemExit(9)", False)):
        warm = subprocess.Popen(
            [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        found = golden.golden_check(str(deployed.root / "current"), None, warm)
        assert ("here" in found) == is_taken
        assert is_taken or found["variants"][0]["bit_equal"] == found["variants"][0]["count"]

    second = deploy(other_bundle, deployed)
    assert second.check is not None
    assert second.check["variants"][0]["bit_equal"] > 0


@pytest.mark.usefixtures("small_runtime")
def test_limits_of_a_bundle_are_shown_and_said_not_to_be_checked_where_nothing_serves(
    tiny_bundle: Bundle, device: Local, tmp_path: Path, command: Run
) -> None:
    manifest = dataclasses.replace(tiny_bundle.manifest, limits={"rss_bytes": 64 << 20, "p95_ms": 20.0})
    contents = {name: tiny_bundle.file(name).read_bytes() for name in manifest.files}
    bundle = write_bundle(tmp_path / "limited", manifest, contents)

    _, plan, _ = command("deploy", bundle.path, device, "--dry-run")
    _, shown, _ = command("inspect", bundle.path)
    code, out, err = command("deploy", bundle.path, device)

    assert "its server within 64.0 MiB of memory and 20 ms for 95 of 100 answers" in plan
    assert "at most 64.0 MiB of memory, 95 of 100 answers within 20 ms" in shown
    assert code == 0, err
    assert "95 of 100 answers within 20 ms: not checked, there is no server" in out


def test_a_dry_run_says_what_would_be_sent_and_touches_nothing(tiny_bundle: Bundle, device: Local) -> None:
    planned = deploy(tiny_bundle, device, dry_run=True)

    assert planned.files_sent > 5
    assert planned.bytes_sent > 1000
    assert not device.root.exists()


@pytest.mark.slow
def test_another_bundle_reuses_runtime_and_runner_and_rollback_goes_back(
    tiny_bundle: Bundle, other_bundle: Bundle, device: Local
) -> None:
    first = deploy(tiny_bundle, device)
    second = deploy(other_bundle, device)
    back = rollback(device)
    again = rollback(device)

    assert second.files_sent == 3  # model, golden vectors, manifest
    assert second.runtime == first.runtime
    assert second.previous == first.release
    assert (back["current"], back["previous"]) == (first.release, second.release)
    assert (again["current"], again["previous"]) == (second.release, first.release)


@pytest.fixture
def deployed(tiny_bundle: Bundle, device: Local) -> Local:
    deploy(tiny_bundle, device)
    return device


@pytest.mark.slow
def test_golden_answers_that_are_not_the_boards_keep_the_release_that_runs(
    deployed: Local, tmp_path: Path, command: Run
) -> None:
    from tiny_model import tiny_bundle

    tiny_bundle(tmp_path / "wrong", seed=1, golden_shift=3)
    before = world(deployed.root)

    code, out, err = command("deploy", tmp_path / "wrong", deployed)

    assert code == 5
    assert out == ""
    what, todo = err.splitlines()
    assert "3 away" in what
    assert todo.strip()
    assert world(deployed.root) == before


@pytest.mark.slow
def test_golden_answers_that_are_not_the_boards_leave_an_empty_device_without_a_release(
    device: Local, tmp_path: Path
) -> None:
    from tiny_model import tiny_bundle

    wrong = tiny_bundle(tmp_path / "wrong", golden_shift=3)

    with refused(GoldenMismatch, 5):
        deploy(wrong, device)

    assert not (device.root / "current").exists()
    for folder in ("releases", "runtimes", "blobs", "incoming"):
        assert os.listdir(device.root / folder) == []


@pytest.mark.slow
def test_a_model_that_the_interpreter_refuses_is_unhealthy_and_not_switched_to(
    deployed: Local, tmp_path: Path, tiny_bundle: Bundle
) -> None:
    from edgekit.bundle import write_bundle

    contents = {name: tiny_bundle.file(name).read_bytes() for name in tiny_bundle.manifest.files}
    contents["models/int8.tflite"] = b"\x1c\0\0\0TFL3" + b"\xff" * 500
    broken = write_bundle(tmp_path / "broken", tiny_bundle.manifest, contents)
    before = world(deployed.root)

    with refused(ReleaseUnhealthy, 5):
        deploy(broken, deployed)

    assert world(deployed.root) == before


def test_a_bundle_for_another_processor_is_refused_before_anything_is_built(device: Local, tmp_path: Path) -> None:
    from tiny_model import tiny_bundle

    with refused(DeviceUnsupported, 4) as caught:
        deploy(tiny_bundle(tmp_path / "bundle", arch="riscv64"), device)

    assert "riscv64" in str(caught.value)
    assert not device.root.exists()


@pytest.mark.slow
def test_a_processor_without_wheels_is_named(tiny_bundle: Bundle, device: Local, tmp_path: Path) -> None:
    if shutil.which("setarch") is None or os.uname().machine != "x86_64":
        pytest.skip("needs util-linux on x86-64, to look like a 32-bit PC")
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec setarch i686 {PYTHON} "$@"\n')
    python.chmod(0o755)

    with refused(DeviceUnsupported, 4) as caught:
        deploy(tiny_bundle, device, python=str(python))

    assert "i686" in str(caught.value)
    assert not device.root.exists()


@pytest.mark.slow
@pytest.mark.parametrize("place", ["current/models/int8.tflite", "current/site/sitecustomize.py", "current/run"])
def test_status_finds_a_flipped_byte_and_deploy_with_verify_repairs_it(
    deployed: Local, tiny_bundle: Bundle, command: Run, place: str
) -> None:
    before = world(deployed.root)
    flip_a_byte(deployed.root / place)

    code, out, _ = command("status", deployed, "--verify", "--json")
    repaired = deploy(tiny_bundle, deployed, verify=True)

    assert code == 4
    assert [path.split("/")[-1] for path in json.loads(out)["damaged"]] == [place.split("/")[-1]]
    assert (repaired.changed, repaired.files_sent) == (True, 1)
    assert world(deployed.root) == before
    assert status(deployed, verify=True)["damaged"] == []


@pytest.mark.slow
def test_verify_on_a_sound_device_sends_nothing(deployed: Local, tiny_bundle: Bundle) -> None:
    before = world(deployed.root)

    assert not deploy(tiny_bundle, deployed, verify=True).changed
    assert world(deployed.root) == before


@pytest.mark.slow
def test_a_runtime_that_is_damaged_on_the_device_is_found_when_a_release_fails_with_it(
    deployed: Local, other_bundle: Bundle
) -> None:
    [compiled] = (deployed.root / "current" / "site" / "__pycache__").glob("sitecustomize.*.pyc")  # which is what runs
    compiled.chmod(0o644)
    compiled.write_bytes(b"")
    (deployed.root / "current" / "site" / "sitecustomize.py").chmod(0o644)
    (deployed.root / "current" / "site" / "sitecustomize.py").write_text("")
    before = world(deployed.root)

    with refused(DeviceDamaged, 4) as caught:
        deploy(other_bundle, deployed)
    assert "--verify" in caught.value.hint
    assert world(deployed.root) == before

    assert deploy(other_bundle, deployed, verify=True).files_sent == 4
    assert status(deployed, verify=True)["damaged"] == []


@pytest.mark.slow
def test_the_launcher_imports_nothing_from_where_one_happens_to_be(deployed: Local, tmp_path: Path) -> None:
    (tmp_path / "edgekit").mkdir()
    (tmp_path / "edgekit" / "__init__.py").write_text("raise SystemExit('the wrong edgekit')")
    (tmp_path / "numpy.py").write_text("raise SystemExit('the wrong numpy')")

    done = subprocess.run(
        [deployed.root / "current" / "run", "check"], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )

    assert done.returncode == 0, done.stderr
    assert "8 of 8" in done.stdout


@pytest.mark.slow
def test_remove_and_deploy_again(deployed: Local, tiny_bundle: Bundle) -> None:
    remove(deployed)

    assert not deployed.root.exists()
    assert deploy(tiny_bundle, deployed).changed


def test_a_bundle_that_is_written_to_meanwhile_is_an_error(
    tiny_bundle: Bundle, device: Local, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgekit.bundle import read_bundle

    shutil.copytree(tiny_bundle.path, tmp_path / "copy")
    plan_release = install.plan_release

    def plan_then_change(*arguments: object) -> object:
        planned = plan_release(*arguments)  # type: ignore[arg-type]
        flip_a_byte(tmp_path / "copy" / "models" / "int8.tflite")
        return planned

    monkeypatch.setattr(install, "plan_release", plan_then_change)

    with refused(InputError, 2) as caught:
        deploy(read_bundle(tmp_path / "copy"), device)

    assert "int8.tflite" in str(caught.value)
    assert not (device.root / "current").exists()


# -- a disk that is full, or cannot be written


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MB."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24M,mode=755", "edgekit-test", disk]).returncode != 0:
        pytest.skip("this machine does not let us mount a small disk")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def big_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, files: int, size: int) -> Path:
    """A runtime with large files beside the small one."""
    more = {f"ballast/{index}.bin": os.urandom(size) for index in range(files)}
    folder = keep_small_runtime(tmp_path / "big-cache", **more)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "big-cache"))
    return folder


@pytest.mark.slow
def test_a_disk_without_room_is_noticed_before_anything_is_sent(
    small_disk: Path, tiny_bundle: Bundle, other_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = Local(small_disk / "device")
    deploy(tiny_bundle, device)
    before = world(device.root)
    big_cache(tmp_path, monkeypatch, files=2, size=5_000_000)

    with refused(DeviceFull, 4) as caught:
        deploy(other_bundle, device)

    assert "MB are needed" in str(caught.value)
    assert world(device.root) == before


@pytest.mark.slow
@pytest.mark.parametrize("leave", [0, 7_000_000])
def test_a_disk_that_fills_up_in_the_middle_leaves_what_runs_and_no_rubbish(
    small_disk: Path,
    tiny_bundle: Bundle,
    other_bundle: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    leave: int,
) -> None:
    device = Local(small_disk / "device")
    deploy(tiny_bundle, device)
    before = world(device.root)
    big_cache(tmp_path, monkeypatch, files=4, size=2_000_000)

    def fill(stage: str, done: int, total: int) -> None:
        if stage == "send" and done == 0:
            free = os.statvfs(small_disk)
            (small_disk / "others").write_bytes(b"\0" * (free.f_bavail * free.f_frsize - leave))

    with small_reserve():
        with refused(DeviceFull, 4) as caught:
            deploy(other_bundle, device, progress=fill)
        assert "no space left" in str(caught.value)
        assert world(device.root) == before

        (small_disk / "others").unlink()
        assert deploy(other_bundle, device).previous is not None


@pytest.mark.slow
def test_a_disk_without_a_byte_left_can_still_be_cleaned(small_disk: Path, tiny_bundle: Bundle) -> None:
    device = Local(small_disk / "device")
    deploy(tiny_bundle, device)
    with (small_disk / "others").open("wb", buffering=0) as stream, contextlib.suppress(OSError):
        while True:
            stream.write(b"\0" * 4096)
    assert os.statvfs(small_disk).f_bavail == 0

    remove(device)

    assert not device.root.exists()


@contextmanager
def small_reserve() -> Iterator[None]:
    """On a disk of 24 MB, 16 cannot stay free: the agent that is sent keeps less."""
    assert store.RESERVE == 16 << 20
    packed = zlib.decompress
    sent = parts.packed_agent()
    keeps_less = zlib.compress(packed(sent).replace(b"RESERVE = 16 << 20", b"RESERVE = 1 << 20"), 9)
    assert len(packed(keeps_less)) < len(packed(sent))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session, "packed_agent", lambda: keeps_less)
        yield


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a folder read-only")
def test_a_folder_that_became_read_only_is_an_error_and_unchanged(deployed: Local, other_bundle: Bundle) -> None:
    before = world(deployed.root)
    mounted = subprocess.run(["mount", "--bind", deployed.root, deployed.root]).returncode == 0
    if not mounted:
        pytest.skip("this machine does not let us mount")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", deployed.root], check=True)

        for change in (lambda: deploy(other_bundle, deployed), lambda: remove(deployed)):
            with refused(DeviceRefused, 4) as caught:
                change()
            assert "writable" in caught.value.hint
    finally:
        subprocess.run(["umount", "-l", deployed.root], check=True)
    assert world(deployed.root) == before


# -- an upload that is interrupted


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_upload_goes_on_where_it_was(
    deployed: Local, other_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: signal.Signals
) -> None:
    before = world(deployed.root)
    big_cache(tmp_path, monkeypatch, files=60, size=3_000_000)  # long enough to be interrupted on an idle machine
    process = subprocess.Popen(
        [sys.executable, "-m", "edgekit.cli.main", "deploy", other_bundle.path, str(deployed)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_until(lambda: len(large_blobs(deployed)) >= 2)
    process.send_signal(how)
    out, err = process.communicate(timeout=30)

    assert process.returncode == (-how if how == signal.SIGKILL else 130)
    assert "Traceback" not in out + err
    assert os.readlink(deployed.root / "current") == before["current"][3:]

    with open_session(deployed) as found:  # waits for the orphaned agent, which has seen the end by then
        found.request("plan", files={}, volatile=True)
    arrived = large_blobs(deployed)
    assert 2 <= len(arrived) < 60
    partial = [path.stat().st_size for path in (deployed.root / "incoming").iterdir()]
    assert len(partial) <= 1

    done = deploy(other_bundle, deployed)

    assert done.bytes_sent < (60 - len(arrived)) * 3_000_000 - sum(partial) + 1_000_000
    assert not os.listdir(deployed.root / "incoming")
    assert status(deployed, verify=True)["damaged"] == []


def large_blobs(device: Local) -> list[str]:
    return [path.name for path in (device.root / "blobs").iterdir() if path.stat().st_size == 3_000_000]


@pytest.mark.slow
def test_an_agent_that_is_killed_in_the_middle_of_an_upload_is_an_error(
    deployed: Local, other_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    big_cache(tmp_path, monkeypatch, files=12, size=3_000_000)

    def kill() -> None:
        wait_until(lambda: len(large_blobs(deployed)) >= 2)
        holder = (deployed.root / "lock").read_text().split()[-1]
        os.kill(int(holder), signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(DeviceError) as caught:  # which one depends on what we were doing just then
        deploy(other_bundle, deployed)
    killer.join()

    assert caught.value.hint
    assert caught.value.exit_code == 4
    assert deploy(other_bundle, deployed).changed


# -- the runtime's cache


@pytest.mark.slow
def test_a_cached_runtime_that_lost_a_file_is_built_again_before_it_is_sent(
    tiny_bundle: Bundle, device: Local, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    folder = keep_small_runtime(cache)
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    flip_a_byte(folder / "site" / "sitecustomize.py")
    built = []

    def build_again(site: Path, *_: object) -> None:
        built.append(site)
        keep_small_runtime(tmp_path / "fresh")
        shutil.copytree(runtime_folder(tmp_path / "fresh") / "site", site, dirs_exist_ok=True)

    monkeypatch.setattr("edgekit.deploy.runtime._pip_install", build_again)

    assert deploy(tiny_bundle, device).changed
    assert len(built) == 1
    assert not deploy(tiny_bundle, device).changed


@pytest.mark.slow
def test_a_python_with_another_name_is_used_as_given(tiny_bundle: Bundle, device: Local) -> None:
    done = deploy(tiny_bundle, device, python=PYTHON)

    assert PYTHON in (device.root / "releases" / done.release / "run").read_text()


def test_a_command_line_error_is_two_lines_and_an_exit_code(command: Run, device: Local, tmp_path: Path) -> None:
    code, out, err = command("status", device, "--python", "/nowhere/python3")

    assert (code, out) == (4, "")
    assert len(err.splitlines()) == 2
    assert "Traceback" not in err
