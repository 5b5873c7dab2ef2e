"""When a difference is one."""

import math
import statistics
import warnings

import pytest

from pipeline.reporting.differences import compare

THEIRS = {0: 0.50, 1: 0.51, 2: 0.49}


def test_a_gain_that_every_seed_has_is_a_difference_with_the_interval_of_the_paired_test() -> None:
    gains = (0.05, 0.06, 0.07)
    found = compare({seed: THEIRS[seed] + gain for seed, gain in enumerate(gains)}, THEIRS)
    assert found is not None
    assert found.is_shown
    assert found.judgement == ""
    # On paper: t of 2 degrees of freedom is 4.303 at 95 %.
    half = 4.303 * statistics.stdev(gains) / math.sqrt(3)
    assert found.mean == pytest.approx(0.06)
    assert found.interval == pytest.approx((0.06 - half, 0.06 + half), abs=1e-5)


def test_a_loss_that_every_seed_has_is_a_difference_too() -> None:
    found = compare({0: 0.44, 1: 0.46, 2: 0.43}, THEIRS)
    assert found is not None
    assert found.mean == pytest.approx(-0.17 / 3)
    assert found.is_shown


def test_gains_of_either_sign_are_none_that_the_seeds_show() -> None:
    found = compare({0: 0.56, 1: 0.48, 2: 0.53}, THEIRS)
    assert found is not None
    assert not found.is_shown
    assert found.judgement == "no difference that 3 seeds can show"


def test_a_gain_within_the_spread_is_none_however_regular_it_is() -> None:
    """0.004 a seed, almost to the digit, where the seeds themselves are 0.01 apart."""
    found = compare({0: 0.5040, 1: 0.5141, 2: 0.4940}, THEIRS)
    assert found is not None
    assert found.p is not None
    assert found.p < 0.01
    assert found.spread == pytest.approx(0.01, abs=1e-3)
    assert not found.is_shown


@pytest.mark.parametrize("sign", [1, -1])
def test_the_spread_is_that_of_the_network_whose_seeds_are_farther_apart(sign: int) -> None:
    """0.01 and 0.02; a difference of 0.015 is within the larger."""
    wide = {0: 0.485, 1: 0.505, 2: 0.465}
    found = compare(wide, THEIRS) if sign > 0 else compare(THEIRS, wide)
    assert found is not None
    assert found.mean == pytest.approx(-sign * 0.015)
    assert found.spread == pytest.approx(0.02)
    assert not found.is_shown


def test_a_large_gain_that_the_test_does_not_believe_is_none() -> None:
    """Gains of 0.04, -0.01 and 0.07: t = 1.4, where 4.3 are needed."""
    found = compare({0: 0.54, 1: 0.50, 2: 0.56}, THEIRS)
    assert found is not None
    assert found.spread is not None
    assert found.mean > found.spread
    assert not found.is_shown


def test_one_seed_shows_no_difference_however_large() -> None:
    found = compare({0: 0.9}, {0: 0.1, 1: 0.2})
    assert found is not None
    assert found.mean == pytest.approx(0.8)
    assert not found.is_shown
    assert found.judgement == "one seed has no spread and shows no difference by itself"


def test_only_seeds_that_both_have_count() -> None:
    found = compare({0: 0.6, 1: 0.7, 5: 0.0}, {0: 0.5, 1: 0.6, 9: 1.0})
    assert found is not None
    assert (found.seeds, found.mean) == (2, pytest.approx(0.1))
    assert compare({0: 0.6}, {1: 0.5}) is None


def test_pairs_that_differ_all_by_the_same_are_judged_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        same = compare(THEIRS, THEIRS)
        half = compare({seed: value + 0.5 for seed, value in THEIRS.items()}, THEIRS)
    assert same is not None
    assert half is not None
    assert not same.is_shown
    assert half.is_shown
