"""Sensors of every board we know, on its /sys as recorded or documented; each known trap is a test."""

from __future__ import annotations

import ctypes
import fcntl
import json
import math
import os
import re
import struct
from types import SimpleNamespace

import pytest
from board_trees import BOARDS, NAMES, BoardTree, read_tree
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgekit.runner.power import vcio
from edgekit.runner.power.board import main_meter
from edgekit.runner.power.clock import parse_time_in_state, time_between
from edgekit.runner.power.nvml import load_nvml, read_gpus
from edgekit.runner.power.raspberrypi import (
    FIT_OFFSET_W,
    FIT_SLOPE,
    parse_rails,
    parse_throttled,
    seen_bits,
    throttle_text,
)
from edgekit.runner.power.reading import UNITS, Reading, parse_int
from edgekit.runner.power.thermal import hottest_mc
from edgekit.runner.power.watch import watch


@pytest.fixture
def tree(tmp_path):
    return lambda name: BoardTree(name, tmp_path)


# -- all boards

EXPECTED = {  # main meter (name, quantity, uW or uJ, provenance), hottest m°C
    "coral-dev-board": (None, 52000),
    "jetson-agx-orin-jp6": (("all rails", "power", 7821696, "estimated"), 45000),
    "jetson-nano-jp4": (("POM_5V_IN", "power", 2099000, "measured"), 41500),
    "jetson-orin-nano-jp6": (("VDD_IN", "power", 5072 * 904, "measured"), 47400),
    "jetson-orin-nx-jp5": (("VDD_IN", "power", 4984 * 936, "measured"), 48000),
    "jetson-thor-jp7": (("VIN", "power", 34142000, "measured"), 42000),
    "laptop": (("BAT0", "power", 9581600, "measured"), None),
    "rpi-zero2w": (None, 44008),
    "rpi3": (None, 61224),
    "rpi4": (None, 49925),
    "rpi4-ina219": (("ina219", "power", 4060000, "measured"), 51121),
    "rpi5": (("board", "power", 12954859, "estimated"), 58950),
    "x86-mini-pc": (("package-0", "energy", 262143000000, "measured"), 46000),
}


@pytest.mark.parametrize("name", NAMES)
def test_every_board_tells_its_power_and_heat(tree, name):
    readings = tree(name).board().look()
    meter = main_meter(readings)
    found = meter and (meter.name, meter.quantity, meter.value, meter.provenance)

    assert (found, hottest_mc(readings)) == EXPECTED[name]


@pytest.mark.parametrize("name", NAMES)
def test_a_tree_says_where_it_comes_from(name):
    assert (BOARDS / f"{name}.tree").read_text().startswith(("# documented: ", "# recorded: "))


@pytest.mark.parametrize("name", NAMES)
def test_a_reading_has_a_unit_an_age_and_a_provenance_and_none_where_it_is_absent(tree, name):
    board = tree(name)
    readings = board.board().look()

    assert readings
    for reading in readings:
        assert (reading.value is None) == (reading.provenance == "absent"), reading
        assert reading.note or reading.value is not None, reading
        assert reading.unit == UNITS[reading.quantity]
        assert reading.age_ms(board.clock() + 7) == 7


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
@pytest.mark.parametrize("name", NAMES)
def test_odd_content_of_any_file_never_raises(tmp_path_factory, name, data):
    board = BoardTree(name, tmp_path_factory.mktemp("odd"))
    files, _, answers = read_tree(name)
    odd = st.sampled_from(
        [b"", b"\0", b"-1", b"nan", b"1e9", b"9" * 5000, b"\xff\xfe", "٣".encode(), b"-256000", b"0", b"12 ma", b"\n\n"]
    ) | st.binary(max_size=40)
    for path in data.draw(st.lists(st.sampled_from(sorted(files)), max_size=6)):
        board.write(path, data.draw(odd))
    for command in answers:
        if data.draw(st.booleans()):
            board.firmware.answers[command] = data.draw(st.text(max_size=60) | st.just('error=1 error_msg="no"'))
    found = watch(board.board(), 0)

    json.dumps(found, allow_nan=False)
    for reading in found["readings"]:
        assert (reading["value"] is None) == (reading["provenance"] == "absent"), reading
        assert reading["value"] is None or isinstance(reading["value"], int)


def test_a_machine_without_any_sensor_has_no_readings(tmp_path):
    (tmp_path / "empty").mkdir()
    from edgekit.runner.power.board import Board

    board = Board(str(tmp_path / "empty"), ask=lambda _: (None, "not there"), nvml=lambda: None)

    assert board.look() == []
    assert main_meter(board.look()) is None


# -- Raspberry Pi


def test_pi5_rails_are_paired_by_name_and_their_sum_is_fitted_and_called_estimated(tree):
    found = tree("rpi5").readings()
    rails = {name: r for (name, q), r in found.items() if q == "power" and r.covers == "part"}

    assert len(rails) == 12
    assert rails["VDD_CORE"].value == round(10.87674 * 0.8974594 * 1e6)
    assert found["board", "power"].provenance == "estimated"
    assert "USB" in found["board", "power"].note
    assert ("BATT", "power") not in found and ("BATT", "voltage") not in found  # no current; the clock's battery
    assert found["EXT5V", "voltage"].value == 5067880


def test_pi5_fit_agrees_with_another_one_made_by_somebody_else():
    # github.com/jfikar/RPi5-power: 1.1327 * sum + 0.6444 W, against a USB-C meter
    differences = [
        (FIT_SLOPE * watts + FIT_OFFSET_W) / (1.1327 * watts + 0.6444) - 1 for watts in (2.0, 4.0, 6.0, 8.0, 11.0)
    ]

    assert max(map(abs, differences)) < 0.02


def test_pi5_whose_pmic_fails_has_no_power_and_not_the_last_one(tree):
    pi = tree("rpi5")
    board = pi.board()
    first = main_meter(board.look())
    del pi.firmware.answers["pmic_read_adc"]
    pi.clock.now_ms += 100
    second = {(r.name, r.quantity): r for r in board.look()}["board", "power"]

    assert first.value == 12954859
    assert (second.value, second.provenance) == (None, "absent")


def test_pi5_whose_rails_all_say_nothing_has_a_dead_pmic(tree):
    pi = tree("rpi5")
    answer = pi.firmware.answers["pmic_read_adc"]
    pi.firmware.answers["pmic_read_adc"] = re.sub(r"=[0-9.]+A", "=0.00000000A", answer)
    power = pi.readings()["board", "power"]

    assert (power.value, power.provenance, power.note) == (None, "absent", "0 W cannot be: the sensor is dead")


def test_pi4_says_that_it_has_no_meter(tree):
    power = tree("rpi4").readings()["board", "power"]

    assert (power.value, power.provenance) == (None, "absent")
    assert "no current sensor" in power.note


def test_pi5_firmware_runs_1500_mhz_where_cpufreq_believes_1000(tree):
    found = tree("rpi5").readings()

    assert (found["cpu policy0", "clock"].value, found["cpu policy0", "clock"].provenance) == (
        1_000_000_000,
        "estimated",
    )
    assert (found["arm", "clock"].value, found["arm", "clock"].provenance) == (1_500_019_456, "measured")


def test_firmware_is_never_told_to_clear_the_sticky_bits(tree):
    for name in ("rpi5", "rpi4", "rpi3", "rpi-zero2w"):
        pi = tree(name)
        pi.board().look()

        assert set(pi.firmware.asked) <= {"get_throttled", "measure_clock arm", "pmic_read_adc"}


def test_throttle_word_of_sysfs_and_of_firmware_are_the_same(tree):
    pi = tree("rpi4")
    by_sysfs = pi.readings()["throttle word", "throttle"]
    for path in pi.sys.glob("devices/platform/soc/*/get_throttled"):
        path.unlink()
    by_firmware = pi.readings()["throttle word", "throttle"]

    assert by_sysfs.value == by_firmware.value == 0x50005
    assert by_sysfs.source.endswith("get_throttled") and by_firmware.source == "get_throttled"
    assert by_sysfs.note == "under-voltage, throttled"


def test_throttle_word_for_a_person():
    assert throttle_text(0) == "never"
    assert throttle_text(0x80008) == "soft temperature limit"
    assert throttle_text(0x50000) == "under-voltage, throttled earlier"
    assert throttle_text(0x20005) == "under-voltage, throttled; clock capped earlier"
    assert throttle_text(None) == ""


def test_own_latch_keeps_what_the_kernel_driver_clears():
    words = [0x0, 0x10001, 0x0, 0x4]  # the sticky bit 16 is gone again
    readings = [Reading("throttle word", "throttle", word, "measured", 0, "") for word in words]

    assert seen_bits(readings) == 0x5
    assert seen_bits([*readings, Reading("throttle word", "throttle", None, "absent", 0, "")]) == 0x5


def test_under_voltage_is_the_critical_alarm_and_no_other_one(tree):
    pi = tree("rpi5")
    pi.write("class/hwmon/hwmon3/in0_max_alarm", "1\n")
    pi.write("class/hwmon/hwmon2/fan1_alarm", "1\n")
    alarms = {name: r.value for (name, q), r in pi.readings().items() if q == "alarm"}

    assert alarms == {"under-voltage": 0}
    assert tree("rpi4").readings()["under-voltage", "alarm"].value == 1


def test_zero_2_has_no_under_voltage_detector_and_shows_none(tree):
    assert [key for key in tree("rpi-zero2w").readings() if key[1] == "alarm"] == []


def test_without_firmware_throttling_is_absent_and_not_never(tree):
    found = tree("rpi4-ina219").readings()["throttle word", "throttle"]

    assert (found.value, found.provenance) == (None, "absent")
    assert found.note == "the firmware does not know this command"


def test_pi5_fan_and_its_supply(tree):
    found = tree("rpi5").readings()

    assert found["fan", "fan"].value == 2963
    assert found["rp1 in1", "voltage"].value == 1_467_000


class Vcio:
    """The kernel's side of the mailbox ioctl, for a firmware that knows one command; written from the interface's wiki."""

    def __init__(self, command: bytes, answer: bytes, *, code: int = 0x80000000, error: int = 0) -> None:
        self.command, self.answer, self.code, self.error = command, answer, code, error

    def __call__(self, handle: int, request: int, message: bytearray) -> int:
        size = struct.unpack_from("=I", message)[0]
        tag, room = struct.unpack_from("=II", message, 8)
        assert request == (0xC0086400 if struct.calcsize("P") == 8 else 0xC0046400)  # _IOWR(100, 0, char *)
        assert (size, tag, room) == (len(message), 0x00030080, len(message) - 28)
        assert bytes(message[4:8]) == bytes(4)  # a request
        assert message[-4:] == bytes(4)  # the end tag
        asked = bytes(message[24:-4]).split(b"\0", 1)[0]
        struct.pack_into("=I", message, 4, self.code)
        struct.pack_into("=I", message, 20, self.error)
        text = self.answer if asked == self.command else b'error=1 error_msg="Command not registered"'
        message[24 : 24 + len(text) + 1] = text + b"\0"
        return 0


def test_firmware_is_asked_as_vcgencmd_asks(tmp_path):
    node = tmp_path / "vcio"
    node.touch()
    answer = "\n".join(f"line {index} of a long answer" for index in range(80)).encode()
    vcio_node = Vcio(b"pmic_read_adc", answer)
    devices = (str(tmp_path / "vcio_gencmd"), str(node))

    assert vcio.ask_firmware("pmic_read_adc", devices=devices, ioctl=vcio_node) == (answer.decode(), "")
    assert vcio.ask_firmware("nonsense", devices=devices, ioctl=vcio_node)[0] is None
    refused = Vcio(b"x", b"y", code=0x80000001)
    assert vcio.ask_firmware("x", devices=devices, ioctl=refused) == (None, "the firmware does not know this command")
    assert vcio.ask_firmware("x", devices=devices, ioctl=Vcio(b"x", b"y", error=1))[0] is None


def test_firmware_that_is_not_there_or_no_mailbox_is_absent(tmp_path):
    (tmp_path / "vcio").touch()

    assert vcio.ask_firmware("x", devices=(str(tmp_path / "none"),)) == (None, "not there")
    found, why = vcio.ask_firmware("x", devices=(str(tmp_path / "vcio"),), ioctl=fcntl.ioctl)  # a file: ENOTTY
    assert found is None
    assert "does not answer" in why


def test_firmware_leaves_no_file_open(tmp_path):
    (tmp_path / "vcio").touch()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        vcio.ask_firmware("x", devices=(str(tmp_path / "vcio"),))

    assert len(os.listdir("/proc/self/fd")) == before


# -- Jetson


def test_jetpack_4_reads_milliwatts_and_its_totals_are_not_added_up(tree):
    found = tree("jetson-nano-jp4").readings()

    assert found["POM_5V_IN", "power"].covers == "board"
    assert found["POM_5V_CPU", "power"].value == 403_000
    assert ("all rails", "power") not in found


def test_a_rail_may_be_off_but_what_feeds_the_board_may_not(tree):
    nano = tree("jetson-nano-jp4")
    nano.write("bus/i2c/drivers/ina3221x/6-0040/iio:device0/in_power0_input", "0\n")
    found = nano.readings()

    assert (found["POM_5V_GPU", "power"].value, found["POM_5V_GPU", "power"].provenance) == (0, "measured")
    assert (found["POM_5V_IN", "power"].value, found["POM_5V_IN", "power"].provenance) == (None, "absent")
    assert "dead" in found["POM_5V_IN", "power"].note


def test_jetpack_4_without_a_power_file_multiplies(tree):
    nano = tree("jetson-nano-jp4")
    (nano.sys / "bus/i2c/drivers/ina3221x/6-0040/iio:device0/in_power0_input").unlink()

    assert nano.readings()["POM_5V_IN", "power"].value == 5048 * 416


def test_limits_that_end_in_ma_are_numbers():
    assert parse_int("32760 ma") == 32760
    assert parse_int("32760 mA\n") == 32760


def test_shunt_sum_and_unconnected_channels_are_no_rails(tree):
    nx = [name for name, quantity in tree("jetson-orin-nx-jp5").readings() if quantity == "power"]
    agx = [name for name, quantity in tree("jetson-agx-orin-jp6").readings() if quantity == "power"]

    assert nx == ["VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC"]
    assert agx == ["VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0", "VDDQ_VDD2_1V8AO", "all rails"]


def test_a_sum_of_rails_lacks_when_one_of_them_does(tree):
    agx = tree("jetson-agx-orin-jp6")
    (agx.sys / "bus/i2c/drivers/ina3221/1-0041/hwmon/hwmon2/curr2_input").unlink()
    total = agx.readings()["all rails", "power"]

    assert (total.value, total.note) == (None, "VDDQ_VDD2_1V8AO is missing")


def test_jetpack_7_reads_microwatts_and_no_usb_contract(tree):
    found = tree("jetson-thor-jp7").readings()

    assert (found["VIN", "power"].value, found["VIN", "power"].unit) == (34_142_000, "uW")
    assert [name for name, _ in found if "ucsi" in name] == []
    assert ("all rails", "power") not in found


def test_zones_that_are_off_or_fail_are_absent_and_the_pmic_is_no_temperature(tree):
    nx, nano, orin = (tree(n).readings() for n in ("jetson-orin-nx-jp5", "jetson-nano-jp4", "jetson-orin-nano-jp6"))

    assert (nx["GPU-therm", "temperature"].value, nx["GPU-therm", "temperature"].provenance) == (None, "absent")
    assert "-256000" in nx["GPU-therm", "temperature"].note
    assert ("PMIC-Die", "temperature") not in nano
    assert nano["thermal-fan-est", "temperature"].provenance == "estimated"
    assert orin["cv0-thermal", "temperature"].note == "does not answer (EIO)"


@pytest.mark.parametrize(
    ("name", "gpu", "hz", "load"),
    [
        ("jetson-nano-jp4", "57000000.gpu", 76_800_000, 0),
        ("jetson-orin-nx-jp5", "17000000.ga10b", 306_000_000, 15),
        ("jetson-orin-nano-jp6", "17000000.gpu", 306_000_000, 1000),
        ("jetson-thor-jp7", "gpu-gpc-0", 315_000_000, None),
    ],
)
def test_gpu_clock_is_found_where_each_jetpack_keeps_it(tree, name, gpu, hz, load):
    found = tree(name).readings()
    gpus = [key for key in found if key[1] == "clock" and not key[0].startswith("cpu")]

    assert gpus == [(gpu, "clock")]  # not the memory's bwmgr
    assert found[gpu, "clock"].value == hz
    assert (found[gpu, "load"].value if (gpu, "load") in found else None) == load


def test_nvml_is_not_even_started_on_a_jetson(tree):
    def started():
        raise AssertionError("NVML logs zero joules on a Tegra")

    from edgekit.runner.power.board import Board

    jetson = tree("jetson-orin-nano-jp6")

    assert Board(str(jetson.sys), clock=jetson.clock, ask=jetson.firmware, nvml=started).look()


# -- PCs, batteries, HATs


def test_rapl_is_the_processor_without_its_mmio_twin_and_psys(tree):
    found = tree("x86-mini-pc").readings()
    zones = {name: r.covers for (name, q), r in found.items() if q == "energy"}

    assert zones == {"package-0": "processor", "package-0 core": "part", "package-0 uncore": "part", "psys": "part"}
    assert found["package-0", "energy"].wraps_at == 262_143_328_850


def test_rapl_that_only_root_may_read_says_what_to_do(tree):
    denied = tree("x86-mini-pc").readings()["package-0 uncore", "energy"]

    assert (denied.value, denied.provenance) == (None, "absent")
    assert "CAP_DAC_READ_SEARCH" in denied.note


def test_coral_on_pcie_tells_its_temperature(tree):
    assert tree("x86-mini-pc").readings()["apex_0", "temperature"].value == 44300


def test_an_amd_processor_without_a_zone_is_read_from_its_hwmon(tree):
    pc = tree("x86-mini-pc")
    pc.write("class/hwmon/hwmon0/name", "k10temp\n")
    pc.write("class/hwmon/hwmon0/temp1_input", "61375\n")

    assert pc.readings()["k10temp", "temperature"].value == 61375


def test_battery_power_has_no_sign_and_is_the_machine_only_while_it_discharges(tree):
    found = tree("laptop").readings()

    assert (found["BAT0", "power"].value, found["BAT0", "power"].covers) == (9_581_600, "board")
    assert (found["BAT1", "power"].value, found["BAT1", "power"].covers) == (0, "battery")
    assert (found["BAT0", "stored"].value, found["BAT0", "stored"].provenance) == (127_949_760_000, "estimated")
    assert (found["BAT1", "stored"].value, found["BAT1", "stored"].provenance) == (21_500_000 * 3600, "measured")
    assert found["BAT1", "capacity"].value is None


def test_mice_and_usb_contracts_are_no_batteries(tree):
    assert {name for name, _ in tree("laptop").readings()} == {"BAT0", "BAT1"}


def test_gauges_that_lost_their_count_are_absent(tree):
    laptop = tree("laptop")
    laptop.write("class/power_supply/BAT1/energy_now", "-7\n")
    laptop.write("class/power_supply/BAT0/voltage_now", "0\n")
    found = laptop.readings()

    assert (found["BAT1", "stored"].value, found["BAT1", "stored"].note) == (None, "negative: the gauge is wrong")
    assert found["BAT0", "power"].note == "0 V cannot be: the sensor is dead"


def test_battery_that_discharges_at_nothing_is_a_dead_gauge(tree):
    laptop = tree("laptop")
    laptop.write("class/power_supply/BAT0/current_now", "0\n")

    assert laptop.readings()["BAT0", "power"].provenance == "absent"


def test_ina219_is_asked_five_times_a_second_and_tells_its_shunt(tree):
    hat = tree("rpi4-ina219")
    board = hat.board()
    values = []
    for step in range(5):
        hat.write("class/hwmon/hwmon1/power1_input", f"{4_000_000 + step}\n")
        values.append(next(r for r in board.look() if r.name == "ina219" and r.quantity == "power"))
        hat.clock.now_ms += 100

    assert [r.value for r in values] == [4_000_000, 4_000_000, 4_000_002, 4_000_002, 4_000_004]
    assert [r.at_ms for r in values] == [5000, 5000, 5200, 5200, 5400]
    assert "shunt 10000 uOhm" in values[0].note


def test_a_clock_that_jumps_back_asks_the_sensors_again(tree):
    hat = tree("rpi4-ina219")
    board = hat.board()
    board.look()
    hat.clock.now_ms -= 3000
    hat.write("class/hwmon/hwmon1/power1_input", "4100000\n")

    assert next(r for r in board.look() if r.name == "ina219").value == 4_100_000


def test_a_hat_is_believed_before_the_estimate_of_the_pmic(tree):
    pi = tree("rpi5")
    pi.write("class/hwmon/hwmon9/name", "ina219\n")
    pi.write("class/hwmon/hwmon9/in1_input", "5100\n")
    pi.write("class/hwmon/hwmon9/curr1_input", "2600\n")  # no power file: mV * mA
    meter = main_meter(pi.board().look())

    assert (meter.name, meter.value, meter.provenance) == ("ina219", 13_260_000, "measured")


def test_two_meters_of_a_kind_keep_their_names_apart(tree):
    pi = tree("rpi4-ina219")
    pi.write("class/hwmon/hwmon2/name", "ina219\n")
    pi.write("class/hwmon/hwmon2/power1_input", "900000\n")
    found = pi.readings()

    assert found["ina219", "power"].value == 4_060_000
    assert found["ina219 hwmon2", "power"].value == 900_000


def test_a_right_to_ask_that_is_missing_is_said_and_is_no_missing_meter(tree):
    pi = tree("rpi5")
    from edgekit.runner.power.board import Board

    board = Board(str(pi.sys), clock=pi.clock, ask=lambda _: (None, "permission denied: the group video may ask"))
    power = next(r for r in board.look() if (r.name, r.quantity) == ("board", "power"))

    assert (power.value, power.note) == (None, "permission denied: the group video may ask")


# -- NVML


def fake_nvml(*, supported: bool = True):
    """NVML's functions in C's calling convention, for one card."""
    values = {
        "nvmlDeviceGetTotalEnergyConsumption": (ctypes.c_ulonglong, 0, 123_456_789),
        "nvmlDeviceGetPowerUsage": (ctypes.c_uint, 0, 71_250),
        "nvmlDeviceGetTemperature": (ctypes.c_uint, 1, 44),
        "nvmlDeviceGetClockInfo": (ctypes.c_uint, 1, 1755),
    }
    functions = {}

    def count(out):
        out[0] = 1
        return 0

    def handle_of(index, out):
        out[0] = 0xBEEF
        return 0

    functions["nvmlDeviceGetCount_v2"] = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_uint))(count)
    functions["nvmlDeviceGetHandleByIndex_v2"] = ctypes.CFUNCTYPE(
        ctypes.c_int, ctypes.c_uint, ctypes.POINTER(ctypes.c_void_p)
    )(handle_of)
    for name, (kind, extra, value) in values.items():

        def answer(handle, *rest, value=value):
            assert handle == 0xBEEF
            rest[-1][0] = value
            return 0 if supported else 3

        prototype = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, *[ctypes.c_uint] * extra, ctypes.POINTER(kind))
        functions[name] = prototype(answer)
    return SimpleNamespace(**functions)


def test_nvml_gives_energy_power_heat_and_clock_in_our_units():
    found = {r.quantity: r for r in read_gpus(fake_nvml(), 0)}

    assert {q: r.value for q, r in found.items()} == {
        "energy": 123_456_789_000,
        "power": 71_250_000,
        "temperature": 44_000,
        "clock": 1_755_000_000,
    }
    assert main_meter(list(found.values())).quantity == "energy"


def test_nvml_that_supports_nothing_is_absent_and_not_zero():
    found = read_gpus(fake_nvml(supported=False), 0)

    assert {(r.value, r.provenance, r.note) for r in found} == {(None, "absent", "not supported")}


def test_an_old_driver_without_the_energy_counter_still_tells_power():
    library = fake_nvml()
    del library.nvmlDeviceGetTotalEnergyConsumption
    found = {r.quantity: r for r in read_gpus(library, 0)}

    assert found["energy"].note == "not in this driver"
    assert found["power"].value == 71_250_000


def test_a_card_that_does_not_open_is_left_out():
    library = fake_nvml()
    handle_of = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_uint, ctypes.POINTER(ctypes.c_void_p))
    library.nvmlDeviceGetHandleByIndex_v2 = handle_of(lambda index, out: 15)  # it fell off the bus

    assert read_gpus(library, 0) == []


def test_no_driver_no_gpu():
    assert load_nvml("libnvidia-ml-that-is-not-there.so.1") is None
    assert load_nvml("libc.so.6") is None  # a library, but not this one
    assert read_gpus(None, 0) == []


# -- parsers


@given(st.text())
def test_parse_int_takes_plain_numbers_only(text):
    found = parse_int(text)

    assert found is None or text.strip().isascii()
    assert found is None or int(text.strip().rstrip("mMaAvVwW ")) == found


@given(st.integers(-(10**18), 10**18))
def test_parse_int_reads_what_the_kernel_writes(value):
    assert parse_int(f"{value}\n") == value


@given(st.integers(0, 0xFFFFF))
def test_both_forms_of_the_throttle_word_are_read(word):
    assert parse_throttled(f"throttled=0x{word:x}\n") == parse_throttled(f"{word:x}\n") == word


@given(st.text())
def test_no_text_breaks_a_parser(text):
    rails = parse_rails(text)
    states = parse_time_in_state(text)
    word = parse_throttled(text)

    assert all(math.isfinite(v) and v >= 0 for rail in rails.values() for v in rail.values())
    assert all(hz > 0 and ms >= 0 for hz, ms in states.items())
    assert word is None or word >= 0


@given(st.binary(max_size=200))
def test_no_answer_of_the_firmware_breaks_us(message):
    text, why = vcio.unpack_answer(message)

    assert (text is None) == bool(why)


NAMES_OF_RAILS = st.from_regex(r"[A-Z0-9]{1,8}(_[A-Z0-9]{1,4})?", fullmatch=True)


@given(st.dictionaries(NAMES_OF_RAILS, st.tuples(st.floats(0, 9), st.floats(0, 9)), max_size=6), st.randoms())
def test_rails_are_read_in_any_order_and_numbering(rails, random):
    lines = []
    for name, (ampere, volt) in rails.items():
        lines += [f"  {name}_A current({random.randrange(30)})={ampere:.8f}A", f"{name}_V volt(1)={volt:.8f}V", "junk"]
    random.shuffle(lines)
    found = parse_rails("\n".join(lines))

    assert found == {n: {"A": float(f"{a:.8f}"), "V": float(f"{v:.8f}")} for n, (a, v) in rails.items()}


def test_time_in_state_between_two_looks(tree):
    pi = tree("rpi5")
    board = pi.board()
    before = board.time_in_state()
    pi.write("devices/system/cpu/cpufreq/policy0/stats/time_in_state", "1500000 4150\n1600000 20\n2400000 1050\n")

    assert before == {"policy0": {1_500_000_000: 41_000, 1_600_000_000: 200, 2_400_000_000: 9_000}}
    assert time_between(before, board.time_in_state()) == {"policy0": {1_500_000_000: 500, 2_400_000_000: 1500}}
    assert time_between(board.time_in_state(), before) == {}  # counted backwards: stats were reset
