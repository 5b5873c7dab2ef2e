"""Weights that move over training: linear between knots, constant outside them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.mentoring.schedules import value_at

ADAMANT = [(0.0, 4.0), (0.33, 0.7), (0.34, 1.0)]

times = st.floats(0, 1)
knot_lists = st.lists(st.tuples(times, st.floats(0, 100)), min_size=1, unique_by=lambda k: k[0])


@pytest.mark.parametrize(
    ("t", "value"),
    [(0, 4.0), (0.165, 2.35), (0.33, 0.7), (0.335, 0.85), (0.34, 1.0), (0.5, 1.0), (1, 1.0)],
)
def test_a_weight_follows_its_knots(t: float, value: float) -> None:
    assert value_at(ADAMANT, t) == pytest.approx(value)


def test_a_weight_is_constant_before_its_first_knot() -> None:
    late = [(0.5, 2.0), (0.75, 4.0)]
    assert [value_at(late, t) for t in (0, 0.25, 0.5, 0.625)] == [2, 2, 2, 3]


@given(st.floats(0, 100), times, times)
def test_one_knot_is_a_constant(value: float, time: float, t: float) -> None:
    assert value_at([(time, value)], t) == value


@given(knot_lists)
def test_a_weight_meets_every_knot(knots: list[tuple[float, float]]) -> None:
    knots.sort()
    for time, value in knots:
        assert value_at(knots, time) == pytest.approx(value)


@given(knot_lists, times)
def test_a_weight_stays_between_its_smallest_and_largest_value(
    knots: list[tuple[float, float]], t: float
) -> None:
    values = [value for _, value in knots]
    rounding = 1e-12
    assert min(values) - rounding <= value_at(sorted(knots), t) <= max(values) + rounding


@given(times)
def test_a_weight_that_falls_never_rises(t: float) -> None:
    falling = [(0.0, 4.0), (0.5, 0.5), (0.9, 0.25)]
    assert value_at(falling, t) >= value_at(falling, min(t + 0.01, 1.0))
