"""The offline optima are right: against brute force, against one another, and below every schedule that there is."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("scipy")

from edgekit.power.fluid import HeatModel, accuracy_bound, heat_bound
from edgekit.power.instance import Jobs, Points
from edgekit.power.linear import best_mix
from edgekit.power.queueing import DROPPED, energy_bound, feasible_plan, priced_cost
from edgekit.power.speed import discrete_energy, yds_energy
from edgekit.runner.power.hull import least_energy, lower_hull

numbers = st.floats(0.01, 1.0).map(lambda x: round(x, 4))


def points_of(rows):
    latency, energy, accuracy = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    return Points(latency, energy, accuracy)


@settings(deadline=None)
@given(st.lists(st.tuples(numbers, st.integers(1, 99)), min_size=1, max_size=12), st.floats(0, 1))
def test_the_hull_is_the_linear_program(rows, share):
    """Closed form = HiGHS, at any accuracy that the points can reach."""
    energies, accuracies = [e for e, _ in rows], [float(a) for _, a in rows]
    wanted = min(accuracies) + share * (max(accuracies) - min(accuracies))
    solved = best_mix(points_of([(1.0, e, a) for e, a in zip(energies, accuracies, strict=True)]), wanted)
    energy, price = least_energy(lower_hull(energies, accuracies), energies, accuracies, wanted)

    assert energy == pytest.approx(solved.value, abs=1e-7)
    assert price >= 0
    assert np.count_nonzero(solved.at > 1e-9) <= 2


def schedules(jobs, points):
    """Every schedule that meets the deadlines it takes on, as (energy, accuracy won): by hand, without a backlog grid."""
    for plan in itertools.product(range(-1, len(points)), repeat=len(jobs)):
        free, energy, won = 0.0, 0.0, 0.0
        for i, point in enumerate(plan):
            if point == DROPPED:
                continue
            free = max(free, jobs.release_s[i]) + jobs.slowdown[i] * points.latency_s[point]
            if free > jobs.deadline_s[i] + 1e-12:
                break
            energy += jobs.slowdown[i] * points.energy_j[point]
            won += points.accuracy[point]
        else:
            yield energy, won


whole = st.integers(1, 6)
small_points = st.lists(st.tuples(whole, whole, st.integers(1, 9)), min_size=1, max_size=3)
small_jobs = st.lists(st.tuples(st.integers(0, 4), st.integers(3, 12)), min_size=1, max_size=4)


@settings(max_examples=60, deadline=None)
@given(small_points, small_jobs, st.floats(0, 3))
def test_dynamic_programming_is_brute_force_where_times_fit_the_grid(rows, arrivals, price):
    release = np.cumsum([gap for gap, _ in arrivals]).astype(float)
    longest = max(d for _, d in arrivals)
    jobs = Jobs(release, release + np.array([float(d) for _, d in arrivals]), np.ones(len(arrivals)))
    points = points_of(rows)
    best = min(energy - price * won for energy, won in schedules(jobs, points))

    for round_up in (False, True):
        cost, _ = priced_cost(jobs, points, price, bins=longest, round_up=round_up)
        assert cost == pytest.approx(best, abs=1e-9)


float_points = st.lists(st.tuples(numbers, numbers, st.floats(10, 90)), min_size=1, max_size=3)
float_jobs = st.lists(st.tuples(numbers, st.floats(0.2, 2), st.floats(0.7, 1.8)), min_size=1, max_size=4)


@settings(max_examples=60, deadline=None)
@given(float_points, float_jobs, st.floats(0.05, 0.99))
def test_the_bound_is_below_every_schedule_and_the_plan_is_one(rows, arrivals, share):
    release = np.cumsum([gap for gap, _, _ in arrivals])
    jobs = Jobs(release, release + np.array([d for _, d, _ in arrivals]), np.array([x for _, _, x in arrivals]))
    points = points_of(rows)
    wanted = share * float(points.accuracy.max())
    bound = energy_bound(jobs, points, wanted, bins=50)

    for energy, won in schedules(jobs, points):
        assert bound.at(won / len(jobs)) <= energy + 1e-9
    price = bound.values[-1][0]
    _, energy, accuracy = feasible_plan(jobs, points, price, bins=50)
    assert any(abs(energy - e) < 1e-9 and abs(accuracy - w / len(jobs)) < 1e-9 for e, w in schedules(jobs, points))


@settings(max_examples=60, deadline=None)
@given(float_points, float_jobs, st.floats(0, 2))
def test_no_schedule_within_a_budget_is_more_accurate_than_its_bound(rows, arrivals, budget):
    release = np.cumsum([gap for gap, _, _ in arrivals])
    jobs = Jobs(release, release + np.array([d for _, d, _ in arrivals]), np.array([x for _, _, x in arrivals]))
    points = points_of(rows)
    bound = accuracy_bound(jobs, points, budget)

    assert all(won / len(jobs) <= bound + 1e-9 for energy, won in schedules(jobs, points) if energy <= budget)


def test_a_backlog_grid_twice_as_fine_is_nearer_from_below_and_from_above():
    rng = np.random.default_rng(0)
    release = np.cumsum(rng.exponential(0.02, 200))
    jobs = Jobs(release, release + 0.1, rng.lognormal(0, 0.1, 200))
    points = Points(np.array([0.01, 0.02, 0.03]), np.array([0.09, 0.06, 0.12]), np.array([60.0, 60.0, 80.0]))
    lows, highs = ([priced_cost(jobs, points, 0.003, bins=b, round_up=up)[0] for b in (25, 50, 100, 400)]
                   for up in (False, True))  # fmt: skip

    assert lows == sorted(lows)
    assert highs == sorted(highs, reverse=True)
    assert lows[-1] <= highs[-1]
    assert highs[-1] - lows[-1] < 0.02 * abs(lows[-1])


def test_the_heat_bound_is_above_any_schedule_that_stays_cool_and_below_the_unlimited_one():
    """Random mixes, each played through the two nodes: none that stays below the limit beats the bound."""
    heat = HeatModel(1.0, 4.0, 8.0, 60.0, 45.0)
    rng = np.random.default_rng(3)
    release = np.arange(0, 300, 0.05)
    jobs = Jobs(release, release + 0.05, rng.lognormal(0, 0.1, len(release)))
    points = Points(np.array([0.01, 0.015, 0.03]), np.array([0.02, 0.05, 0.12]), np.array([70.0, 75.0, 80.0]))
    start = heat.settled(2.5)
    bound, _ = heat_bound(jobs, points, heat, idle_w=2.5, limit_c=75.0, start=start, slot_s=5.0)
    reached = []
    for share in np.linspace(0, 1, 15):
        taken = rng.choice(3, len(release), p=[1 - share, share * 0.5, share * 0.5])
        die, board, hottest = *start, 0.0
        for k in range(0, len(release), 10):  # half a second at its mean power
            joules = float((jobs.slowdown[k : k + 10] * points.energy_j[taken[k : k + 10]]).sum())
            die, board = heat.after(die, board, 2.5 + joules / 0.5, 0.5)
            hottest = max(hottest, die)
        if hottest <= 75.0:
            reached.append(points.accuracy[taken].mean())

    assert reached
    assert max(reached) <= bound < 80.0
    assert bound - max(reached) < 5.0  # one mix for all time is not the best: the board starts cool


def test_the_heat_bound_of_a_day_that_settled_is_the_mix_that_settles():
    """After many time constants the two nodes are one resistance: the bound is the hull at the power which that allows."""
    heat = HeatModel(1.0, 4.0, 8.0, 20.0, 45.0)
    release = np.arange(0, 2000, 0.5)
    jobs = Jobs(release, release + 0.5, np.ones(len(release)))
    points = Points(np.array([0.1, 0.1]), np.array([0.2, 1.4]), np.array([60.0, 80.0]))
    bound, _ = heat_bound(jobs, points, heat, idle_w=2.0, limit_c=75.0, start=heat.settled(3.3), slot_s=10.0)
    allowed_w = (75.0 - 45.0) / 9.0 - 2.0
    share = (allowed_w * 0.5 - 0.2) / 1.2

    assert bound == pytest.approx(60 + 20 * share, abs=0.15)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 3), st.floats(0.3, 3), st.floats(0.05, 1)), min_size=1, max_size=5))
def test_few_speeds_cost_more_than_any_speed_and_tend_to_it(rows):
    release = np.array([r for r, _, _ in rows]).round(3)
    deadline = release + np.array([d for _, d, _ in rows]).round(3)
    work = np.array([w for _, _, w in rows]).round(3)
    optimum = yds_energy(release, deadline, work, 3.0)
    most = 1.01 * max(
        work[(release >= r) & (deadline <= d)].sum() / (d - r) for r in release for d in deadline if d > r
    )
    found = [discrete_energy(release, deadline, work, 3.0, np.linspace(most / n, most, n)) for n in (4, 8, 32, 128)]

    assert all(energy >= optimum * (1 - 1e-6) for energy in found)
    assert found[-1] <= optimum * 1.01 + most**3 / 128**2 * 10
    assert found[-1] <= found[0] + 1e-9


def test_yds_of_one_job_and_of_a_job_in_a_job_are_known():
    one = (np.array([0.0]), np.array([2.0]), np.array([1.0]))
    nested = (np.array([0.0, 1.0]), np.array([3.0, 2.0]), np.array([1.0, 2.0]))

    assert yds_energy(*one, 3.0) == pytest.approx(0.5**3 * 2)
    assert yds_energy(*nested, 2.0) == pytest.approx(2.0**2 * 1 + 0.5**2 * 2)
