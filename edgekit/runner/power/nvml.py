"""NVIDIA graphics cards, through the driver's own library with ctypes: nothing to install.

Not for Jetsons: there NVML starts and then supports nothing (`jetson.is_jetson` is asked first).
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

from edgekit.runner.power.reading import Reading, alive, measured, scaled

LIBRARY = "libnvidia-ml.so.1"
COUNTER_MS = 100  # the energy counter moves that often
POWER_MS = 1000  # what power says is a mean over a second, from Ampere on
SM_CLOCK, GPU_TEMPERATURE = 1, 0
_SAYS = {1: "not started", 3: "not supported", 4: "permission denied", 15: "the GPU is lost", 999: "an unknown error"}


def load_nvml(name: str = LIBRARY) -> Any:
    """The library, started; None where there is no such driver."""
    try:
        library = ctypes.CDLL(name)
        return library if library.nvmlInit_v2() == 0 else None
    except (OSError, AttributeError):
        return None


def read_gpus(library: Any, at_ms: int) -> list[Reading]:
    """Energy since the driver was loaded, power, temperature and clock of each card."""
    count = ctypes.c_uint()
    if library is None or library.nvmlDeviceGetCount_v2(ctypes.byref(count)) != 0:
        return []
    readings = []
    for index in range(min(count.value, 64)):
        handle = ctypes.c_void_p()
        if library.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(index), ctypes.byref(handle)) != 0:
            continue
        name = f"gpu {index}"

        def ask(function: str, kind: Any, *extra: int, handle: Any = handle) -> tuple[int | None, str]:
            return _asked(getattr(library, function, None), handle, kind, *extra)

        energy = scaled(ask("nvmlDeviceGetTotalEnergyConsumption", ctypes.c_ulonglong), 1000)  # mJ, from Volta on
        power = alive(scaled(ask("nvmlDeviceGetPowerUsage", ctypes.c_uint), 1000))
        temperature = scaled(ask("nvmlDeviceGetTemperature", ctypes.c_uint, GPU_TEMPERATURE), 1000)
        clock = scaled(ask("nvmlDeviceGetClockInfo", ctypes.c_uint, SM_CLOCK), 1_000_000)
        readings += [
            measured(name, "energy", energy, at_ms, "NVML", covers="gpu", every_ms=COUNTER_MS),
            measured(name, "power", power, at_ms, "NVML", covers="gpu", every_ms=POWER_MS, note="mean over 1 s"),
            measured(name, "temperature", temperature, at_ms, "NVML", every_ms=COUNTER_MS),
            measured(name, "clock", clock, at_ms, "NVML"),
        ]
    return readings


def _asked(function: Callable[..., int] | None, handle: Any, kind: Any, *extra: int) -> tuple[int | None, str]:
    if function is None:
        return None, "not in this driver"
    answer = kind()
    code = function(handle, *(ctypes.c_uint(value) for value in extra), ctypes.byref(answer))
    return (int(answer.value), "") if code == 0 else (None, _SAYS.get(code, f"error {code}"))
