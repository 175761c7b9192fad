"""`edgekit power show` through its real channel, and the runner's own `power`; on this machine, whatever it has."""

from __future__ import annotations

import io
import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from board_trees import BoardTree
from devices import PYTHON, refused, world

import edgekit
from edgekit.deploy.sensors import SENT, Sensors, _checked, open_sensors
from edgekit.errors import DeviceError
from edgekit.runner.power.table import energy_text, power_lines, reading_rows, summary, value_text
from edgekit.runner.power.watch import watch

PACKAGE = Path(edgekit.__file__).parent


def test_what_is_sent_is_all_of_the_sensors_in_an_order_that_imports(tmp_path):
    here = {f"edgekit.runner.power.{path.stem}" for path in PACKAGE.glob("runner/power/*.py")}

    assert here - set(SENT) == {
        "edgekit.runner.power.__init__",
        *(  # what a runner decides and sets by; not asked for
            f"edgekit.runner.power.{name}"
            for name in (
                *("actuators", "ask", "belief", "caps", "feasible", "goal", "hull", "levels", "limits", "looks"),
                *("pace", "points", "policy", "powerd", "trace"),
            )
        ),
        "edgekit.runner.power.table",  # the workstation shows
    }


def test_show_as_json_from_a_device_that_has_nothing_installed(command, device):
    code, out, err = command("power", "show", device, "--json", "--seconds", "0.2")
    found = json.loads(out)

    assert (code, err) == (0, "")
    assert found["watched_ms"] >= 200
    assert set(found) == {
        "device", "board", "watched_ms", "main_meter", "readings", "energies", "throttled_meanwhile", "time_in_state_ms",
    }  # fmt: skip
    assert world(device.root) == {}  # nothing was written, not even the folder
    assert not device.root.exists()


def test_show_for_a_person_says_when_there_is_no_meter(command, device):
    code, out, _ = command("power", "show", device, "--seconds", "0")

    assert code == 0
    assert out.startswith("device" if "sensors" in out else "sensor")


def test_sensors_are_asked_again_over_the_same_channel(device):
    with open_sensors(device) as sensors:
        first, second = sensors.watch(0), sensors.watch(0.1)

    assert first["watched_ms"] < second["watched_ms"] + 50
    assert second["watched_ms"] >= 100


@pytest.mark.parametrize("seconds", ["-1", "1000", "soon"])
def test_seconds_that_make_no_sense_are_a_usage_error(command, device, seconds):
    code, _, err = command("power", "show", device, "--seconds", seconds)

    assert code == 2
    assert "--seconds" in err


class Liar:
    """A device that answers something else."""

    def __init__(self, answer):
        self.answer = answer

    def request(self, operation, **arguments):
        return {"power": self.answer}

    class hello:
        board, system = "", "Linux"


READING = {"name": "x", "quantity": "power", "unit": "uW", "value": 1, "provenance": "measured", "at_ms": 0, "age_ms": 0,
           "source": "s", "note": "", "covers": ""}  # fmt: skip
ANSWER = {"board": "b", "watched_ms": 1, "main_meter": None, "readings": [READING], "energies": [],
          "throttled_meanwhile": [], "time_in_state_ms": {}}  # fmt: skip


@pytest.mark.parametrize(
    "answer",
    [
        None,
        [],
        {},
        {**ANSWER, "readings": [{}]},
        {**ANSWER, "readings": 3},
        {**ANSWER, "readings": [{**READING, "value": "12"}]},
        {**ANSWER, "readings": [{**READING, "value": 1.5}]},
        {**ANSWER, "watched_ms": "soon"},
        {**ANSWER, "time_in_state_ms": [1]},
        {**ANSWER, "main_meter": 3},
    ],
)
def test_an_answer_of_another_form_is_an_error_and_no_traceback(device, answer):
    with refused(DeviceError, 4):
        Sensors(Liar(answer), device).watch(0)


def test_a_device_cannot_send_control_characters_to_the_terminal():
    found = _checked({**ANSWER, "board": "a\x1b[2Jb", "readings": [{**READING, "name": "x\n\x07", "note": "\x9b1m"}]})

    assert found["board"] == "a?[2Jb"
    assert (found["readings"][0]["name"], found["readings"][0]["note"]) == ("x??", "?1m")


def run_runner(*arguments, python=sys.executable):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(PACKAGE.parent), *filter(None, sys.path)])}
    command = [python, "-m", "edgekit.runner", "power", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)


def test_the_runner_shows_its_own_machine():
    done = run_runner("--seconds", "0.1", "--json")
    plain = run_runner("--seconds", "0", "RELEASE")  # as `run power` calls it

    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["watched_ms"] >= 100
    assert (plain.returncode, plain.stdout.split()[0]) == (0, "sensor")


@pytest.mark.parametrize("seconds", ["-1", "nan", "x"])
def test_the_runner_refuses_seconds_that_make_no_sense(seconds):
    done = run_runner("--seconds", seconds)

    assert done.returncode == 2
    assert "not a number of seconds" in done.stderr


SERVE = """
import io, json, struct, sys, types, zlib
agent = None
for name, source in json.loads(zlib.decompress(sys.stdin.buffer.read()).decode()):
    agent = sys.modules[name] = type(sys)(name)
    exec(compile(source, name, "exec"), agent.__dict__)
from edgekit.runner.power.board import Board
from edgekit.runner.power.watch import watch
print(json.dumps(watch(Board(sys.argv[1]), 0)))
"""


@pytest.mark.parametrize("version", ["3.9", "3.13"])
@pytest.mark.parametrize("name", ["rpi4-ina219", "jetson-nano-jp4", "x86-mini-pc"])
def test_what_is_sent_runs_on_the_oldest_and_a_new_python_without_edgekit(tmp_path, version, name):
    from test_runner_imports import find_python

    from edgekit.deploy.transport import packed_sources

    board = BoardTree(name, tmp_path)
    done = subprocess.run(
        [find_python(version), "-I", "-c", SERVE, str(board.sys)],
        input=packed_sources(SENT),
        capture_output=True,
        timeout=60,
    )

    assert (done.returncode, done.stderr) == (0, b"")
    there, here = json.loads(done.stdout), watch(board.board(), 0)
    assert [(r["name"], r["value"], r["provenance"]) for r in there["readings"]] == [
        (r["name"], r["value"], r["provenance"]) for r in here["readings"]
    ]


@pytest.mark.slow
def test_a_device_behind_ssh_is_asked_before_anything_was_deployed_to_it(sshd, command):
    code, out, err = command("power", "show", "board", "--python", PYTHON, "--json", "--seconds", "0.3")

    assert (code, err) == (0, "")
    assert json.loads(out)["watched_ms"] >= 300
    assert not sshd.root.exists()


def test_a_terminal_shows_it_again_and_again_until_ctrl_c(device):
    main, beside = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(PACKAGE.parent), *filter(None, sys.path)])}
    show = [sys.executable, "-m", "edgekit.cli.main", "power", "show", str(device), "--seconds", "0.2"]
    with subprocess.Popen(
        show, stdin=beside, stdout=beside, stderr=beside, env=environment, start_new_session=True
    ) as run:
        os.close(beside)
        seen = b""
        while seen.count(b"device ") < 3:
            seen += os.read(main, 4096)
        run.send_signal(signal.SIGINT)
        code = run.wait(timeout=20)
    os.close(main)

    assert code == 130
    assert b"Traceback" not in seen


# -- the table


def test_the_table_of_a_pi5(tmp_path):
    pi = BoardTree("rpi5", tmp_path)

    def sleep(seconds):
        pi.clock.now_ms += round(seconds * 1000)

    lines = list(power_lines(watch(pi.board(), 1, sleep=sleep)))

    assert lines[0].split() == ["sensor", "quantity", "value", "provenance"]
    assert any(line.split()[:5] == ["VDD_CORE", "power", "9.761", "W", "measured"] for line in lines)
    assert any(line.split()[:5] == ["board", "power", "12.955", "W", "estimated"] for line in lines)
    assert any(line.split()[:5] == ["cpu-thermal", "temperature", "59.0", "°C", "measured"] for line in lines)
    assert any(line.split()[:5] == ["throttle", "word", "throttle", "0x0", "measured"] for line in lines)
    assert lines[-1] == "energy (board)  12.955 J in 1.0 s, estimated, mean 12.955 W"


def test_below_the_table_stand_gaps_throttling_and_clocks():
    energy = {"name": "x", "covers": "board", "energy_uj": 2_500_000, "power_uw": 1_250_000, "covered_ms": 2000,
              "gap_ms": 500, "gaps": 1, "provenance": "measured"}  # fmt: skip
    found = {
        **ANSWER,
        "main_meter": {"name": "x", "quantity": "power", "covers": "board"},
        "energies": [energy],
        "throttled_meanwhile": ["under-voltage"],
        "time_in_state_ms": {"policy0": {1_500_000_000: 250, 2_400_000_000: 750}, "policy4": {}},
    }

    assert summary(found) == [
        ("energy (board)", "2.500 J in 2.0 s, measured, mean 1.250 W; 0.5 s not measured, in a gap"),
        ("throttled", "under-voltage"),
        ("policy0", "1500 MHz 25 %, 2400 MHz 75 %"),
    ]
    assert energy_text({**energy, "energy_uj": None}) == "not measured"


def test_a_counter_is_shown_as_its_mean_power():
    reading = {**READING, "quantity": "energy", "unit": "uJ", "value": 10**12}
    energy = {"name": "x", "covers": "", "energy_uj": 8_000_000, "power_uw": 8_000_000, "covered_ms": 1000, "gap_ms": 0,
              "gaps": 0, "provenance": "measured"}  # fmt: skip
    rows = reading_rows({**ANSWER, "watched_ms": 1000, "readings": [reading], "energies": [energy]})

    one_look = reading_rows({**ANSWER, "readings": [reading]})

    assert rows == [("x", "power", "8.000 W", "measured", "mean over 1.0 s, from its counter")]
    assert one_look == [("x", "power", "-", "measured", "a counter: watch it for a while")]


def test_what_nobody_can_tell_is_a_dash_and_its_reason():
    rows = reading_rows({**ANSWER, "readings": [{**READING, "value": None, "provenance": "absent", "note": "why"}]})

    assert rows == [("x", "power", "-", "absent", "why")]


def test_an_old_value_says_how_old_it_is():
    rows = reading_rows({**ANSWER, "readings": [{**READING, "age_ms": 2500}]})

    assert rows[0][4] == "2.5 s old"


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (49925, "m°C", "49.9 °C"),
        (0, "uW", "0.000 W"),
        (5, "per mille", "0.5 %"),
        (71, "%", "71 %"),
        (1, "0/1", "yes"),
        (1_500_019_456, "Hz", "1500 MHz"),
        (-5000, "m°C", "-5.0 °C"),
    ],
)
def test_values_for_a_person(value, unit, text):
    assert value_text({"value": value, "unit": unit}) == text


def test_the_sent_code_refuses_what_it_does_not_know():
    from edgekit.runner.power.serve import serve

    replies = []
    serve("", lambda: {"op": "switch"}, replies.append, io.BytesIO())

    assert replies[0]["error"] == "DeviceError"
