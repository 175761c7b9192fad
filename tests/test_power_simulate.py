"""The simulator and what is made of it: bounds below every policy, scores, the short day of each kind, the picture."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

pytest.importorskip("scipy")

from edgekit.power.baselines import Alert, Fixed, Ondemand, Poet, Schedutil
from edgekit.power.device import BARE, Device, pi5
from edgekit.power.fluid import HeatModel, accuracy_bound
from edgekit.power.instance import Jobs, Points
from edgekit.power.picture import Panel, draw
from edgekit.power.queueing import energy_bound
from edgekit.power.scenario import scenarios
from edgekit.power.score import window_powers
from edgekit.power.simulate import DROPPED, play
from edgekit.runner.power.goal import parse_goal
from edgekit.runner.power.policy import Policy


def small_device(rng):
    """A random board of 2 variants, 2 thread counts and 2 clocks."""
    names, rows = [], []
    for v, accuracy in enumerate((70.0, 80.0)):
        for threads in (1, 4):
            for mhz in (1000, 2000):
                latency = (v + 1) * rng.uniform(0.01, 0.05) / threads**0.7 / (mhz / 1000) ** 0.8
                watts = rng.uniform(0.5, 1.5) * threads * (mhz / 1000) ** 1.5
                names.append(("lite2" if v else "small", threads, mhz))
                rows.append((latency, watts * latency, accuracy, 2.0 + watts))
    columns = np.array(rows)
    points = Points(columns[:, 0], columns[:, 1], columns[:, 2])
    return Device(tuple(names), points, columns[:, 3], 2.0, 0.2, HeatModel(1.0, 4.0, 1.0, 100.0, 20.0))


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.02, 0.2), st.floats(0.03, 0.3))
def test_no_policy_on_any_board_uses_less_than_the_bound_at_what_it_delivered(seed, gap, deadline):
    rng = np.random.default_rng(seed)
    device = small_device(rng)
    release = np.cumsum(rng.exponential(gap, 60)) + 1e-6
    jobs = Jobs(release, release + deadline, rng.lognormal(0, 0.2, 60))
    table = device.table(latency_error=0.05, power_error=0.05, seed=seed)
    goal = parse_goal(f"min_energy(accuracy>=75, deadline={deadline:.9f}s)")
    bound = energy_bound(jobs, device.points, 60.0, bins=60, evaluations=6)
    rows = [i for i, name in enumerate(device.names) if name[0] == "lite2"]
    for policy in (
        Policy(goal, table), Fixed(0), Fixed(7), Ondemand(device, "lite2", 4), Schedutil(device, "lite2", 4),
        Alert(goal, table), Poet(table, rows, goal),
    ):  # fmt: skip
        played = play(device, jobs, policy, horizon_s=float(release[-1]) + 1, seed=seed)
        won = float(np.where(played.on_time, device.points.accuracy[played.point], 0.0).mean())
        energy = float(played.energy_j.sum())

        assert bound.at(won) <= energy + 1e-9
        assert won <= accuracy_bound(jobs, device.points, energy + 1e-9) + 1e-9


def test_energy_and_heat_of_a_played_day_are_those_of_its_powers():
    device = pi5(BARE)
    jobs = Jobs(np.array([1.0, 2.0]), np.array([1.5, 2.5]), np.ones(2))
    played = play(device, jobs, Fixed(20), horizon_s=4.0)
    busy = 2 * float(device.points.latency_s[20])
    used = (4.0 - busy) * device.idle_w + busy * float(device.power_w[20])

    assert played.used_j[-1] == pytest.approx(used)
    assert played.energy_j.sum() == pytest.approx(used - 4.0 * device.idle_w)
    assert played.celsius[0] == pytest.approx(device.heat.settled(device.idle_w)[0])


def test_jobs_that_are_late_before_they_begin_are_left_out_and_a_dead_battery_ends_the_day():
    device = pi5()
    release = np.full(50, 1.0)
    jobs = Jobs(release, release + 0.1, np.ones(50))
    crowded = play(device, jobs, Fixed(device.named("lite4", 1, 1500)), horizon_s=3.0)
    dead = play(device, jobs, Fixed(0), horizon_s=3.0, battery_j=device.idle_w * 0.5)

    assert (crowded.point == DROPPED).sum() == 49  # one begins, the others wait for longer than they may
    assert dead.died_s == pytest.approx(0.5)
    assert (dead.point == DROPPED).all()


def test_two_nodes_settle_where_their_resistances_say():
    assert BARE.after(45.0, 45.0, 3.0, 5000.0) == pytest.approx(BARE.settled(3.0), abs=0.01)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.floats(0.01, 2), st.floats(0, 10)), min_size=2, max_size=20), st.floats(0.1, 3))
@example([(1.7648499089799488, 0.0), (0.011750336086416485, 0.0), (1.0, 0.0), (1.0, 1.0)], 1.7243040300881993)
def test_the_worst_window_is_at_least_that_of_any_window(steps, window):
    edges = np.cumsum([0.0, *(t for t, _ in steps)])
    used = np.cumsum([0.0, *(t * w for t, w in steps)])
    worst = window_powers(edges, used, window).max()
    for begin in np.linspace(0, max(edges[-1] - window, 0), 40):
        if begin + window <= edges[-1]:
            assert (np.interp(begin + window, edges, used) - np.interp(begin, edges, used)) / window <= worst + 1e-9


@pytest.mark.parametrize(
    "name", ["bursty", "power cap", *(pytest.param(n, marks=pytest.mark.slow) for n in ("steady", "hot box"))]
)
def test_a_short_day_keeps_its_goal_near_the_bound(name):
    """The real policy; figures of whole days are scripts/bench power's."""
    (day,) = scenarios(0, short=True, names=(name,))
    _, found = day.run(day.policy(0))

    assert found.missed <= 0.001
    if day.bound is not None:
        assert 1.0 <= found.above_idle_ratio <= 1.08
        assert found.accuracy >= 76.45
    else:
        assert found.accuracy <= found.accuracy_bound
        assert found.accuracy >= found.accuracy_bound - 1.6
    assert not found.windows_over
    assert day.goal.temp_c is None or found.hottest_c <= day.goal.temp_c


def test_a_picture_is_a_png_with_every_panel():
    from PIL import Image

    times = np.linspace(0, 10, 500)
    picture = draw(
        [
            Panel("W", [("a", times, np.sin(times)), ("b", times, np.cos(times))], limit=2.0),
            Panel("point", points=[("", times, (times > 5).astype(float))], names=["one", "two"]),
            Panel("empty"),
        ],
        "a day",
    )
    image = Image.open(io.BytesIO(picture))

    assert image.format == "PNG"
    assert len(set(image.convert("RGB").resize((60, 40)).get_flattened_data())) > 5  # something is drawn
