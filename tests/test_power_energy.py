"""Energy from readings: right where it was measured, and nothing where it was not."""

from __future__ import annotations

import pytest
from board_trees import BoardTree
from hypothesis import given
from hypothesis import strategies as st

from edgekit.runner.power.energy import Energies, Meter
from edgekit.runner.power.reading import Reading
from edgekit.runner.power.watch import watch


def power(at_ms, value, **more):
    provenance = "absent" if value is None else "measured"
    return Reading(**{"name": "p", "quantity": "power", "value": value, "provenance": provenance, "at_ms": at_ms,
                      "source": "", "covers": "board", **more})  # fmt: skip


def counter(at_ms, value, **more):
    return power(at_ms, value, quantity="energy", **more)


def metered(readings, interval_ms=100, **more):
    meter = Meter(interval_ms)
    for reading in readings:
        meter.add(reading, more.get("now_ms", reading.at_ms))
    return meter.result()


def test_trapezoid_of_a_ramp_is_exact():
    found = metered([power(t, t * 1000) for t in range(0, 1001, 100)])  # 0 to 1 W in 1 s: 0.5 J

    assert (found.energy_uj, found.covered_ms, found.gap_ms, found.provenance) == (500_000, 1000, 0, "measured")
    assert found.power_uw == 500_000


def test_a_sensor_that_fails_does_not_go_on_drawing_what_it_said_last():
    alive = [power(t, 2_000_000) for t in range(0, 1001, 100)]
    dead = [power(t, None) for t in range(1100, 60_001, 100)]
    found = metered(alive + dead)

    assert (found.energy_uj, found.covered_ms) == (2_000_000, 1000)
    assert (found.gap_ms, found.gaps) == (59_000, 1)


def test_a_sensor_that_comes_back_leaves_a_gap_that_is_told():
    samples = [power(0, 10**6), power(100, 10**6), power(200, None), power(300, 10**6), power(400, 10**6)]
    found = metered(samples)

    assert (found.energy_uj, found.covered_ms, found.gap_ms, found.gaps) == (200_000, 200, 200, 1)


def test_two_live_samples_far_apart_are_no_measurement_of_what_was_between():
    found = metered([power(0, 10**6), power(100, 10**6), power(10_000, 10**6), power(10_100, 10**6)])

    assert (found.energy_uj, found.covered_ms, found.gap_ms, found.gaps) == (200_000, 200, 9_900, 1)


def test_the_same_sample_offered_again_is_neither_energy_nor_a_gap_until_it_is_stale():
    meter = Meter(100)
    for now in (0, 100, 200):
        meter.add(power(0, 10**6), now)
    assert meter.result().gap_ms == 0
    for now in range(300, 5001, 100):
        meter.add(power(0, 10**6), now)
    found = meter.result()

    assert (found.energy_uj, found.covered_ms, found.provenance) == (None, 0, "absent")
    assert (found.gap_ms, found.gaps) == (5000, 1)


def test_a_slow_sensor_is_fresh_for_as_long_as_it_is_slow():
    samples = [power(t, 10**6, every_ms=1000) for t in (0, 1000, 2000)]

    assert metered(samples).energy_uj == 2_000_000


def test_a_clock_that_jumps_back_adds_nothing():
    found = metered([power(1000, 10**6), power(1100, 10**6), power(50, 10**6), power(150, 10**6)])

    assert found.energy_uj == 200_000
    assert found.covered_ms == 200


def test_a_counter_that_wraps_goes_on():
    found = metered(
        [counter(0, 262_143_000_000, wraps_at=262_143_328_850), counter(100, 671_150, wraps_at=262_143_328_850)]
    )

    assert found.energy_uj == 1_000_000
    assert found.covered_ms == 100


def test_a_counter_that_may_have_wrapped_twice_is_a_gap():
    found = metered([counter(0, 5, wraps_at=65_532_610_987), counter(3_600_000, 900, wraps_at=65_532_610_987)])

    assert (found.energy_uj, found.gap_ms) == (None, 3_600_000)


def test_a_counter_that_was_reset_is_a_gap_and_no_negative_energy():
    found = metered([counter(0, 10**9), counter(100, 10**9 + 500_000), counter(200, 10), counter(300, 500_010)])

    assert (found.energy_uj, found.covered_ms, found.gap_ms) == (1_000_000, 200, 100)


def test_a_counter_bridges_looks_that_were_missed():
    found = metered([counter(0, 0), counter(100, None), counter(10_000, 30_000_000), counter(20_000, 60_000_000)])

    assert (found.energy_uj, found.covered_ms, found.gap_ms) == (30_000_000, 10_000, 10_000)


def test_what_was_estimated_stays_estimated():
    samples = [power(0, 10**6), power(100, 10**6, provenance="estimated"), power(200, 10**6)]

    assert metered(samples).provenance == "estimated"


def test_a_battery_that_is_charged_now_is_no_longer_what_the_machine_draws():
    found = metered([power(0, 10**6), power(100, 10**6), power(200, 5 * 10**6, covers="battery")])

    assert (found.energy_uj, found.gap_ms) == (100_000, 100)


def test_a_sensor_that_vanishes_from_the_looks_is_a_gap():
    energies = Energies(100)
    for now in (0, 100, 200):
        energies.add([power(now, 10**6)], now)
    for now in (300, 400):
        energies.add([], now)
    (found,) = energies.results()

    assert (found.energy_uj, found.gap_ms) == (200_000, 200)


def test_a_power_is_left_out_where_a_counter_tells_the_same():
    energies = Energies(100)
    for now in (0, 100, 200):
        energies.add([counter(now, now * 1000), power(now, 10**6)], now)
    (found,) = energies.results()

    assert found.energy_uj == 200_000


SAMPLES = st.lists(
    st.tuples(st.integers(0, 400), st.one_of(st.none(), st.integers(0, 30_000_000))), min_size=2, max_size=30
)


@given(SAMPLES)
def test_time_is_covered_or_a_gap_and_energy_is_never_more_than_the_largest_power_over_it(samples):
    meter, now = Meter(100), 0
    for step, value in samples:
        now += step
        meter.add(power(now, value), now)
    found = meter.result()
    total = now - samples[0][0]
    largest = max((value for _, value in samples if value is not None), default=0)

    assert found.covered_ms + found.gap_ms == total
    assert (found.energy_uj or 0) <= largest * found.covered_ms / 1000 + 1
    assert (found.energy_uj is None) == (found.covered_ms == 0)


@given(
    st.lists(st.integers(-500, 500), max_size=20), st.lists(st.one_of(st.none(), st.integers(0, 10**7)), max_size=20)
)
def test_no_order_of_times_makes_energy_negative_or_raises(steps, values):
    meter, at = Meter(100), 5000
    for step, value in zip(steps, values, strict=False):
        at += step
        meter.add(power(at, value), at + abs(step))
    found = meter.result()

    assert found is None or (found.energy_uj or 0) >= 0
    assert found is None or (found.gap_ms >= 0 and found.covered_ms >= 0)


@given(st.lists(st.integers(0, 400_000), min_size=2, max_size=40), st.integers(0, 10**8 - 1))
def test_a_wrapping_counter_adds_up_to_what_was_really_used(used, start):
    total, meter = start, Meter(100)
    for index, step in enumerate(used):
        total += step if index else 0
        meter.add(counter(index * 100, total % 10**9, wraps_at=10**9), index * 100)

    assert meter.result().energy_uj == sum(used[1:])


# -- watching a board


def test_watching_a_pi5_integrates_its_estimate_and_says_so(tmp_path):
    pi = BoardTree("rpi5", tmp_path)

    def sleep(seconds):
        pi.clock.now_ms += round(seconds * 1000)

    found = watch(pi.board(), 2, sleep=sleep)
    energy = next(e for e in found["energies"] if e["name"] == "board")

    assert found["watched_ms"] == 2000
    assert (energy["energy_uj"], energy["provenance"]) == (pytest.approx(2 * 12_954_859), "estimated")
    assert found["main_meter"] == {"name": "board", "quantity": "power", "covers": "board"}


def test_watching_remembers_throttling_that_is_over_when_it_ends(tmp_path):
    pi = BoardTree("rpi4", tmp_path)

    def sleep(seconds):
        pi.clock.now_ms += round(seconds * 1000)
        pi.write("devices/platform/soc/soc:firmware/get_throttled", "0\n")

    found = watch(pi.board(), 1, sleep=sleep)

    assert found["throttled_meanwhile"] == ["under-voltage", "throttled"]
    assert next(r for r in found["readings"] if r["unit"] == "bits")["value"] == 0


def test_watching_a_pc_turns_its_counter_into_power(tmp_path):
    pc = BoardTree("x86-mini-pc", tmp_path)
    energy = [262_143_000_000]

    def sleep(seconds):
        pc.clock.now_ms += round(seconds * 1000)
        energy[0] = (energy[0] + round(seconds * 8_000_000)) % 262_143_328_850  # 8 W, and it wraps in the first step
        pc.write("class/powercap/intel-rapl:0/energy_uj", f"{energy[0]}\n")

    found = watch(pc.board(), 1, sleep=sleep)
    package = next(e for e in found["energies"] if e["name"] == "package-0")

    assert (package["energy_uj"], package["power_uw"]) == (8_000_000, 8_000_000)
