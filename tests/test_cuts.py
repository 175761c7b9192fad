"""The judge of the power cuts: a server that is slow is not one that is lost, and the other way round."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "scripts"))

STARTING = {"ActiveState": "activating", "SubState": "start", "Result": "success", "NRestarts": "0"}


def units(runner: dict[str, str], used: str, recover: dict[str, str] | None = None) -> dict[str, dict[str, str]]:
    done = {"ActiveState": "active", "SubState": "exited", "Result": "success", "NRestarts": "0", "CPUUsageNSec": "9"}
    return {"runner": {**STARTING, "CPUUsageNSec": used, **runner}, "recover": recover or done}


def test_a_server_in_its_first_start_that_uses_the_processor_is_slow() -> None:
    from standins.cuts import is_starting

    assert is_starting(units({}, "1000"), units({}, "2000"))
    waits = {"ActiveState": "inactive", "SubState": "dead"}
    recovering = [units(waits, "[not set]", {**STARTING, "CPUUsageNSec": used}) for used in ("5", "6")]
    assert is_starting(*recovering)


def test_a_server_that_failed_hangs_or_is_started_again_is_not_slow() -> None:
    from standins.cuts import is_starting

    before = units({}, "1000")
    assert not is_starting(before, units({}, "1000"))  # hangs
    assert not is_starting(before, units({"ActiveState": "failed", "Result": "exit-code"}, "2000"))
    assert not is_starting(before, units({"NRestarts": "1"}, "2000"))
    assert not is_starting(before, units({"ActiveState": "active"}, "2000"))  # says ready, and does not answer
    assert not is_starting(before, units({"ActiveState": "inactive"}, "[not set]"))
    assert not is_starting(before, {})  # its systemd says nothing


def test_where_the_power_was_cut_is_what_the_deployment_told_last() -> None:
    from standins.cuts import last_event

    assert last_event('{"event": "connect"}\n{"event": "trial"}\nedgekit: gone\n') == "trial"
    assert last_event('{"event": "connect"}\n{"event": "se') == "connect"
    assert last_event("") is None
