"""Goals as text and as values, whether they can be reached, and the table that says so."""

from __future__ import annotations

import contextlib
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.errors import InputError
from edgekit.runner.power.actuators import OperatingPoint
from edgekit.runner.power.feasible import check_goal
from edgekit.runner.power.goal import Goal, goal_text, parse_goal
from edgekit.runner.power.points import Heat, PointCost, Table, read_table, write_table


def row(variant, threads, latency_ms, watts, accuracy):
    return PointCost(
        OperatingPoint(variant, threads), round(latency_ms * 1e3), 50_000, round(watts * 1e6), round(accuracy * 1e4),
        "measured", 100,
    )  # fmt: skip


TABLE = Table(
    "board", "", "", 2_000_000, "measured", "meter",
    (row("small", 1, 20, 3.0, 70), row("small", 4, 8, 5.0, 70), row("large", 1, 60, 3.0, 80), row("large", 4, 24, 5.0, 80)),
    Heat(1000, 4000, 7000, 200_000, "estimated"),
)  # fmt: skip


def test_the_goals_of_the_manual_are_read():
    assert parse_goal("min_energy(accuracy>=76.5, deadline=50ms)") == Goal("min_energy", 0.05, accuracy=76.5)
    assert parse_goal(" max_accuracy( lifetime=24h, battery=40Wh,deadline=0.1s )") == Goal(
        "max_accuracy", 0.1, lifetime_s=86400.0, battery_j=144_000.0
    )
    assert parse_goal("max_accuracy(watts=3.6, window=10s, temp<=80°C, deadline=50ms)") == Goal(
        "max_accuracy", 0.05, watts=3.6, window_s=10.0, temp_c=80.0
    )


positive = st.floats(0.001, 1e5).map(lambda x: round(x, 6))
some = st.none() | positive


@given(
    st.sampled_from(["min_energy", "max_accuracy"]), positive, st.floats(1, 100).map(lambda x: round(x, 4)), some, some,
    some, some, st.none() | st.floats(20, 120).map(lambda x: round(x, 3)),
)  # fmt: skip
def test_a_goal_written_is_the_goal_read(objective, deadline, accuracy, lifetime, battery, watts, window, temp):
    goal = Goal(
        objective, deadline, accuracy if objective == "min_energy" else None, lifetime,
        battery if lifetime else None, watts, window if watts else None, temp,
    )  # fmt: skip
    again = parse_goal(goal_text(goal))

    for field, value in vars(goal).items():
        assert getattr(again, field) == (value if not isinstance(value, float) else pytest.approx(value, rel=1e-6))


@given(
    st.text(max_size=60) | st.from_regex(r"(min_energy|max_accuracy)\([a-z]{0,9}(>=|<=|=)[0-9.]{0,5}[a-zA-Z°%]{0,3}\)")
)
def test_any_text_is_a_goal_or_an_error_of_ours(text):
    with contextlib.suppress(InputError):  # anything else fails
        assert parse_goal(text).deadline_s > 0


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("save energy", "is not a goal"),
        ("min_energy(deadline=50ms)", "worst variant"),
        ("max_accuracy(accuracy>=70, deadline=50ms)", "takes no accuracy"),
        ("max_accuracy(temp<=80)", "needs deadline"),
        ("max_accuracy(temp>=80, deadline=50ms)", "compared with <="),
        ("max_accuracy(temp<=80F, deadline=50ms)", "no unit 'F'"),
        ("max_accuracy(deadline=50ms, deadline=60ms)", "twice"),
        ("max_accuracy(window=10s, deadline=50ms)", "over how long"),
        ("max_accuracy(battery=10Wh, deadline=50ms)", "to live on"),
        ("max_accuracy(latency=10s)", "no part of a goal"),
        ("min_energy(accuracy>=101, deadline=50ms)", "cannot be"),
        ("max_accuracy(temp<=800, deadline=50ms)", "makes no sense"),
        ("max_accuracy(watts=0, deadline=50ms)", "makes no sense"),
    ],
)
def test_a_goal_that_makes_no_sense_is_told_by_its_part(text, what):
    with pytest.raises(InputError, match=re.escape(what)) as caught:
        parse_goal(text)

    assert caught.value.hint


IMPOSSIBLE = [
    ("min_energy(accuracy>=70, deadline=5ms)", None, "within 5 ms"),
    ("min_energy(accuracy>=85, deadline=50ms)", None, "reaches 85 %"),
    ("min_energy(accuracy>=80, deadline=10ms)", None, "reaches 80 %"),
    ("min_energy(accuracy>=79, deadline=100ms)", 60.0, "more time than there is"),
    ("max_accuracy(watts=1.5, deadline=50ms)", None, "too few"),
    ("min_energy(accuracy>=75, watts=2.1, deadline=50ms)", 10.0, "too few"),
    ("max_accuracy(lifetime=10h, battery=1Wh, deadline=50ms)", None, "does not last"),
    ("max_accuracy(temp<=50, deadline=50ms)", 10.0, "settles at"),
]


@pytest.mark.parametrize(("text", "rate", "why"), IMPOSSIBLE)
def test_an_impossible_goal_is_named_and_every_nearest_one_is_possible(text, rate, why):
    with pytest.raises(InputError, match="the goal is impossible") as caught:
        check_goal(parse_goal(text), TABLE, rate_hz=rate, ambient_c=40.0)

    assert why in str(caught.value)
    nearest = caught.value.hint.removeprefix("nearest possible: ").split(" or ")
    assert nearest
    for goal in nearest:
        check_goal(parse_goal(goal), TABLE, rate_hz=rate, ambient_c=40.0)


def test_a_possible_goal_is_let_through():
    check_goal(
        parse_goal("min_energy(accuracy>=76, deadline=50ms, temp<=80, watts=3)"), TABLE, rate_hz=10.0, ambient_c=25.0
    )


def test_a_rate_that_no_point_can_serve_is_told_with_the_one_it_can():
    with pytest.raises(InputError, match="more than this board answers") as caught:
        check_goal(parse_goal("max_accuracy(deadline=50ms)"), TABLE, rate_hz=500.0)

    assert "125" in caught.value.hint


def test_a_table_written_is_the_table_read():
    assert read_table(write_table(TABLE)) == TABLE
    assert write_table(read_table(write_table(TABLE))) == write_table(TABLE)


@given(st.data())
def test_a_damaged_table_is_an_error_of_ours(data):
    fields = json.loads(write_table(TABLE))
    place = data.draw(st.sampled_from([fields, fields["rows"][0], fields["rows"][0]["point"], fields["heat"]]))
    key = data.draw(st.sampled_from(sorted(place)))
    if data.draw(st.booleans()):
        del place[key]
    else:
        place[key] = data.draw(
            st.none() | st.booleans() | st.integers(-5, 5) | st.floats() | st.text(max_size=3) | st.just([])
        )
    with contextlib.suppress(InputError):  # anything else fails; some values may be there as well
        assert read_table(json.dumps(fields)).rows


@pytest.mark.parametrize(
    "text", ["", "[]", "3", "{}", '{"edgekit_points": 1}', '{"edgekit_points": true}', "[" * 10_000]
)
def test_something_else_is_no_table(text):
    with pytest.raises(InputError):
        read_table(text)
