"""What is set without any right: really set, and as before afterwards."""

from __future__ import annotations

import os

import pytest

from edgekit.errors import InputError
from edgekit.runner.power.actuators import OperatingPoint, on_cpus


def test_a_thread_runs_on_the_cores_it_was_given_and_afterwards_on_all_again():
    before = os.sched_getaffinity(0)
    one = min(before)
    with on_cpus((one,)):
        inside = os.sched_getaffinity(0)

    assert inside == {one}
    assert os.sched_getaffinity(0) == before


def test_cores_come_back_after_an_error():
    before = os.sched_getaffinity(0)
    with pytest.raises(ZeroDivisionError), on_cpus((min(before),)):
        raise ZeroDivisionError

    assert os.sched_getaffinity(0) == before


def test_a_core_that_is_not_ours_is_named_and_nothing_changes():
    before = os.sched_getaffinity(0)
    with pytest.raises(InputError, match="may not use CPU 4095") as caught, on_cpus((min(before), 4095)):
        pass

    assert caught.value.hint
    assert os.sched_getaffinity(0) == before


def test_no_cores_means_as_they_are():
    with on_cpus(()):
        assert os.sched_getaffinity(0)


@pytest.mark.parametrize("fields", [{"threads": 0}, {"clock_khz": 0}, {"cpus": (-1,)}])
def test_an_operating_point_that_cannot_be_is_refused(fields):
    with pytest.raises(InputError, match="no operating point"):
        OperatingPoint(**{"variant": "int8", "threads": 1, **fields})
