"""Accuracy, likelihood and calibration against numbers on paper."""

import math

import numpy as np
import pytest

from pipeline.metrics import CALIBRATION_BINS, calibration_error, reliability, score


def logits_of(probabilities: list[list[float]]) -> np.ndarray:
    return np.log(np.array(probabilities))


def test_accuracy_is_the_share_of_right_answers() -> None:
    answers = logits_of([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.2, 0.3, 0.5], [0.4, 0.3, 0.3]])
    assert score(answers, np.array([0, 1, 2, 1]))["accuracy"] == 0.75
    assert score(answers, np.array([2, 2, 0, 1]))["accuracy"] == 0.0


def test_nll_is_the_mean_of_minus_the_logs_of_the_true_classes_probabilities() -> None:
    answers = logits_of([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3]])
    by_hand = -(math.log(0.7) + math.log(0.3)) / 2
    assert score(answers, np.array([0, 2]))["nll"] == pytest.approx(by_hand)


def test_logits_need_not_be_normalised() -> None:
    labels = np.array([0, 2])
    answers = logits_of([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3]])
    assert score(answers + 50.0, labels) == pytest.approx(score(answers, labels))


def test_ece_weighs_the_gap_of_every_bin_by_its_samples() -> None:
    # Two bins: at 0.9 confidence 1 of 2 is right, at 0.6 two of two.
    answers = logits_of([[0.9, 0.1], [0.1, 0.9], [0.6, 0.4], [0.4, 0.6]])
    by_hand = 2 / 4 * abs(1 / 2 - 0.9) + 2 / 4 * abs(1 - 0.6)
    assert score(answers, np.array([0, 0, 0, 1]))["ece"] == pytest.approx(by_hand)


def test_gaps_of_one_bin_cancel_and_gaps_of_two_do_not() -> None:
    confidence = np.array([0.75, 0.75, 0.75, 0.75])
    assert calibration_error(confidence, np.array([1, 1, 1, 0])) == pytest.approx(0)
    apart = np.array([0.75, 0.75, 0.95, 0.95])
    by_hand = 2 / 4 * (1 - 0.75) + 2 / 4 * abs(1 / 2 - 0.95)
    assert calibration_error(apart, np.array([1, 1, 1, 0])) == pytest.approx(by_hand)


def test_the_bins_are_fifteen_and_of_equal_width() -> None:
    """Two confidences of one bin share their accuracy, two of neighbouring bins do not."""
    assert CALIBRATION_BINS == 15
    right = np.array([1, 0])
    one_bin = np.array([10.1, 10.9]) / 15
    assert calibration_error(one_bin, right) == pytest.approx(abs(0.5 - 10.5 / 15))
    two_bins = np.array([10.9, 11.1]) / 15
    by_hand = (1 - 10.9 / 15) / 2 + (11.1 / 15) / 2
    assert calibration_error(two_bins, right) == pytest.approx(by_hand)


def test_answers_that_are_as_often_right_as_they_are_sure_have_no_calibration_error() -> None:
    """At 0.75 three of four are right, at 0.9 nine of ten, at 1 all."""
    answers = logits_of([[0.75, 0.25]] * 4 + [[0.9, 0.1]] * 10 + [[1 - 1e-12, 1e-12]] * 5)
    labels = np.array([0, 0, 0, 1] + [0] * 9 + [1] + [0] * 5)
    assert score(answers, labels)["ece"] == pytest.approx(0, abs=1e-9)


def test_answers_that_are_sure_and_wrong_have_the_whole_calibration_error() -> None:
    assert score(np.array([[100.0, 0.0]] * 3), np.array([1, 1, 1]))["ece"] == pytest.approx(1)


@pytest.mark.parametrize("kind", [np.float16, np.float32])
def test_extreme_logits_give_finite_scores(kind: type) -> None:
    answers = np.array([[6e4, -6e4, 0], [0, 0, 0], [-6e4, -6e4, -6e4]], dtype=kind)
    scores = score(answers, np.array([1, 2, 0]))
    assert all(math.isfinite(value) for value in scores.values())
    gap = float(answers[0, 0]) - float(answers[0, 1])
    assert scores["nll"] == pytest.approx((gap + 2 * math.log(3)) / 3)


def test_brier_is_the_squared_distance_from_the_true_classes_probability_1() -> None:
    answers = logits_of([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3]])
    by_hand = (0.3**2 + 0.2**2 + 0.1**2 + 0.1**2 + 0.6**2 + 0.7**2) / 2
    assert score(answers, np.array([0, 2]))["brier"] == pytest.approx(by_hand)


def test_reliability_tells_each_bins_confidence_and_accuracy_and_none_of_empty_ones() -> None:
    told = reliability(np.array([0.95, 0.97, 0.5, 1.0]), np.array([True, False, True, True]))
    assert told["count"] == [0] * 7 + [1] + [0] * 6 + [3]
    assert told["accuracy"] == [None] * 7 + [1.0] + [None] * 6 + [pytest.approx(2 / 3)]
    assert told["confidence"][14] == pytest.approx((0.95 + 0.97 + 1.0) / 3)
    assert told["confidence"][:7] == [None] * 7


def test_a_bin_owns_its_upper_edge() -> None:
    told = reliability(np.array([1 / 3, 0.2, 1.0]), np.ones(3, dtype=bool))
    assert np.flatnonzero(told["count"]).tolist() == [2, 4, 14]


def test_answers_of_a_network_that_diverged_have_no_likelihood_and_do_no_harm() -> None:
    scores = score(np.full((4, 3), np.nan), np.array([0, 1, 2, 0]))
    assert scores["accuracy"] == 0.5, "argmax takes the first"
    assert all(math.isnan(scores[name]) for name in ("nll", "brier", "ece"))
    told = reliability(np.full(4, np.nan), np.zeros(4, dtype=bool))
    assert told["count"] == [4] + [0] * 14
