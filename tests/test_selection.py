"""Which samples are used, and after how many their ranges have settled."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edgekit.convert.selection import balanced, convergence, enough, first_of_each, in_order, pick, same_shape


def test_copies_count_once_and_the_first_stays():
    x = np.array([[1, 2], [3, 4], [1, 2], [3, 4], [5, 6]], np.float32)

    assert first_of_each({"x": x}).tolist() == [0, 1, 4]
    assert first_of_each({"x": x, "side": np.arange(5)}).tolist() == [0, 1, 2, 3, 4]


def test_every_class_gets_as_many_as_any_other_and_what_is_missing_comes_from_the_large_ones():
    names = ["many"] * 90 + ["few"] * 4 + ["some"] * 20

    chosen = balanced(names, 30)

    assert {name: sum(names[i] == name for i in chosen) for name in set(names)} == {"few": 4, "some": 13, "many": 13}
    assert chosen.tolist() == balanced(names, 30).tolist()


@given(st.lists(st.integers(0, 5), min_size=1, max_size=60), st.integers(1, 80))
def test_a_pick_has_the_wanted_size_no_sample_twice_and_no_class_more_than_one_ahead(labels, wanted):
    chosen = balanced(labels, wanted)

    assert len(chosen) == len(set(chosen.tolist())) == min(wanted, len(labels))
    counts = {c: sum(labels[i] == c for i in chosen) for c in set(labels)}
    unused = {c for c in counts if counts[c] < labels.count(c)}
    assert all(counts[c] + 1 >= max(counts.values()) for c in unused)


def test_without_class_numbers_samples_are_spread_over_all_there_are():
    x = np.arange(10.0)[:, None]

    assert pick({"x": x}, None, 4).tolist() == [0, 3, 6, 9]
    assert pick({"x": x}, np.linspace(0, 1, 10)[:, None], 4).tolist() == [0, 3, 6, 9]
    assert pick({"x": x}, np.array([0] * 8 + [1] * 2), 4).tolist() == [0, 7, 8, 9]


@given(st.lists(st.integers(0, 4), min_size=1, max_size=80), st.integers(1, 80))
def test_the_first_of_any_number_are_as_balanced_as_the_classes_allow(labels, wanted):
    order = in_order(np.array(labels), len(labels))
    first = [labels[i] for i in order[:wanted]]

    assert sorted(order) == list(range(len(labels)))
    unused = {c for c in labels if first.count(c) < labels.count(c)}
    assert all(first.count(c) + 1 >= max(map(first.count, set(first))) for c in unused)


def test_samples_are_used_from_all_over_a_recording():
    assert in_order(None, 9)[:4].tolist() == [0, 8, 4, 2]
    assert in_order(np.linspace(0, 1, 9), 9)[:4].tolist() == [0, 8, 4, 2]
    assert np.diff(np.sort(in_order(None, 1000)[:100])).max() <= 16


def test_the_commonest_shape_is_found_among_mixed_ones():
    mixed = np.empty(4, object)
    mixed[:] = [np.zeros((2, 2)), np.zeros((3, 2)), np.zeros((2, 2)), np.zeros(1)]

    assert same_shape({"x": mixed}).tolist() == [0, 2]
    assert same_shape({"x": np.zeros((3, 2))}).tolist() == [0, 1, 2]


def test_the_curve_says_how_wide_the_ranges_are_after_so_many_samples():
    low, high = np.zeros((6, 2)), np.array([[1, 5], [2, 5], [2, 5], [4, 5], [4, 5], [4, 5]])

    curve = convergence(low, high)

    assert curve == [(1, (1 / 4 + 1) / 2), (2, (2 / 4 + 1) / 2), (4, 1.0), (6, 1.0)]
    assert enough(curve) == 4
    assert enough(curve, share=0.5) == 1


def test_ranges_that_still_grow_at_the_end_have_not_settled():
    assert enough(convergence(np.zeros(8), np.arange(1.0, 9.0))) is None
    assert enough([]) is None


@given(st.lists(st.lists(st.floats(-1e6, 1e6), min_size=3, max_size=3), min_size=1, max_size=40))
def test_a_curve_never_falls_and_ends_at_one(rows):
    high = np.array(rows)
    curve = convergence(np.minimum(high, 0), np.maximum(high, 0))

    shares = [share for _, share in curve]
    assert shares == sorted(shares)
    assert (curve[-1][0], shares[-1]) == (len(rows), 1.0)
