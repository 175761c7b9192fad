"""What is set without any right: really set, and as before afterwards."""

from __future__ import annotations

import os
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.errors import InputError
from edgekit.runner.power.actuators import DutyCycle, OperatingPoint, on_cpus


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


@pytest.mark.parametrize(
    "fields", [{"threads": 0}, {"duty": 0.0}, {"duty": 1.5}, {"cpus": (-1,)}, {"duty": float("nan")}]
)
def test_an_operating_point_that_cannot_be_is_refused(fields):
    with pytest.raises(InputError, match="no operating point"):
        OperatingPoint(**{"variant": "int8", "threads": 1, **fields})


class World:
    """Time that passes only by working and resting."""

    def __init__(self):
        self.now = self.rested = 0.0

    def sleep(self, seconds):
        assert seconds > 0
        self.now += seconds
        self.rested += seconds


@given(st.floats(0.05, 1.0), st.lists(st.floats(0.0, 0.5), min_size=1, max_size=30))
def test_work_never_fills_more_than_its_share(share, pieces):
    world = World()
    duty = DutyCycle(share, clock=lambda: world.now, sleep=world.sleep)
    for piece in pieces:
        with duty.work():
            world.now += piece

    assert sum(pieces) <= share * world.now + 1e-6


def test_a_pause_that_was_there_anyway_counts_as_rest():
    world = World()
    duty = DutyCycle(0.5, clock=lambda: world.now, sleep=world.sleep)
    for _ in range(10):
        with duty.work():
            world.now += 0.1
        world.now += 0.2  # between requests: more than enough

    assert world.rested == pytest.approx(0.1)  # once, before the first pause was known


def test_rest_that_was_saved_up_is_bounded():
    world = World()
    duty = DutyCycle(0.5, credit_s=1.0, clock=lambda: world.now, sleep=world.sleep)
    world.now += 3600
    with duty.work():
        world.now += 5

    assert world.rested == pytest.approx(4)


def test_full_duty_never_rests():
    world = World()
    duty = DutyCycle(1.0, clock=lambda: world.now, sleep=world.sleep)
    with duty.work():
        world.now += 5

    assert world.rested == 0


def test_duty_cycle_holds_on_a_real_clock():
    duty = DutyCycle(0.25)
    started, worked = time.monotonic(), 0.0
    for _ in range(10):
        with duty.work():
            begun = time.monotonic()
            while time.monotonic() < begun + 0.005:
                pass
            worked += time.monotonic() - begun

    assert worked / (time.monotonic() - started) < 0.27


@pytest.mark.parametrize("share", [0, -1, 1.01, float("nan")])
def test_a_share_that_makes_no_sense_is_refused(share):
    with pytest.raises(InputError, match="makes no sense"):
        DutyCycle(share)
