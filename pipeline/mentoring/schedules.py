"""Weights that move over training."""

from collections.abc import Sequence

Knots = Sequence[tuple[float, float]]  # (time, value); times increase


def value_at(knots: Knots, t: float) -> float:
    """Piecewise linear through `knots` (time, value), constant before the first and after the last.

    `t` runs from 0 at the first step to 1 at the last; times increase.
    """
    before = knots[0]
    for after in knots:
        if t <= after[0]:
            if after[0] == before[0]:
                return after[1]
            share = (t - before[0]) / (after[0] - before[0])
            return before[1] + share * (after[1] - before[1])
        before = after
    return before[1]
