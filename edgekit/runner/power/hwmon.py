"""Sensors behind /sys/class/hwmon: meters on a HAT (INA219 and its family), the Pi's supply, its ADC and its fan."""

from __future__ import annotations

import os

from edgekit.runner.power.reading import Reading, alive, matches, measured, product, read_int, read_text, scaled

# power in uW by the ina2xx and ina238 drivers; the INA3221, which has several rails, is in jetson.py
METERS = ("ina209", "ina219", "ina220", "ina226", "ina230", "ina231", "ina237", "ina238", "ina260")
SLOW_MS = 200  # an INA219 says the old value again until a conversion ends, and asking costs the Pi current: 5 Hz


def chips(sys: str, *names: str) -> list[str]:
    """The hwmon folders whose driver has one of these names."""
    return [path for path in matches(sys, "class/hwmon/hwmon*") if read_text(os.path.join(path, "name"))[0] in names]


def read_meters(sys: str, at_ms: int, *, is_jetson: bool) -> list[Reading]:
    """Power of each single-channel meter; on a Jetson (INA238 of JetPack 7) that of its supply."""
    readings: list[Reading] = []
    for chip in chips(sys, *METERS):
        name = _label(chip) or ("VIN" if is_jetson else read_text(os.path.join(chip, "name"))[0] or "meter")
        if any(reading.name == name for reading in readings):  # a second one of its kind
            name = f"{name} {os.path.basename(chip)}"
        path = os.path.join(chip, "power1_input")
        found = read_int(path)
        if found[1] == "not there":  # mV * mA
            found = product(read_int(os.path.join(chip, "in1_input")), read_int(os.path.join(chip, "curr1_input")))
        shunt = read_int(os.path.join(chip, "shunt_resistor"))[0]
        note = "" if is_jetson else "of whatever it is wired to" + (f"; shunt {shunt} uOhm" if shunt else "")
        more = {"covers": "board", "every_ms": SLOW_MS, "note": note}
        readings.append(measured(name, "power", alive(found), at_ms, path, **more))
        readings.append(_voltage(f"{name} voltage", os.path.join(chip, "in1_input"), at_ms))
    return readings


def read_supply(sys: str, at_ms: int) -> list[Reading]:
    """A Pi's under-voltage alarm, its 5 V ADC and its fan.

    The alarm is in*_lcrit_alarm and nothing else: other *_alarm files belong to other limits. rpi_volt has no
    in0_input, so its voltage is not asked for.
    """
    readings = []
    for chip in chips(sys, "rpi_volt"):
        path = os.path.join(chip, "in0_lcrit_alarm")
        value, why = read_int(path)
        found = (value, why) if value in (0, 1, None) else (None, "neither 0 nor 1")
        readings.append(measured("under-voltage", "alarm", found, at_ms, path, every_ms=2000))
    for chip in chips(sys, "rp1_adc"):
        for path in matches(chip, "in[0-9]*_input"):
            readings.append(_voltage(f"rp1 {os.path.basename(path)[: -len('_input')]}", path, at_ms))
    for path in matches(sys, "class/hwmon/hwmon*/fan1_input"):
        if read_text(os.path.join(os.path.dirname(path), "name"))[0] in ("pwmfan", "pwm_fan", "pwm_tach"):
            readings.append(measured("fan", "fan", read_int(path), at_ms, path))
    return readings


def _label(chip: str) -> str | None:
    labels = (read_text(os.path.join(chip, f"{channel}_label"))[0] for channel in ("power1", "in1", "in0"))
    return next((label for label in labels if label), None)


def _voltage(name: str, path: str, at_ms: int) -> Reading:
    return measured(name, "voltage", scaled(read_int(path), 1000), at_ms, path, every_ms=SLOW_MS)
