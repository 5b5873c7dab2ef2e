"""Linear heads on another data set's features: drawn alike for all, chosen without the test."""

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from pipeline import transfer
from pipeline.transfer import STRENGTHS, drawn_rows, head_accuracy

# Pixels stand for features: float32 (1797, 64).
FEATURES, LABELS = load_digits(return_X_y=True)
FEATURES = FEATURES.astype(np.float32)
TEST, TEST_LABELS = FEATURES[1400:], LABELS[1400:]
FEATURES, LABELS = FEATURES[:1400], LABELS[:1400]


def accuracy(per_class: int | None, draw: int = 0, noise: float = 0.0) -> float:
    """Of a head on so many drawn images a class, after this much noise on every feature."""
    generator = np.random.default_rng(0)
    shown, tested = (part + noise * generator.normal(size=part.shape).astype(np.float32)
                     for part in (FEATURES, TEST))  # fmt: skip
    rows = drawn_rows(LABELS, per_class, draw)
    return head_accuracy(shown[rows], LABELS[rows], tested, TEST_LABELS)


@pytest.mark.parametrize("per_class", [1, 3, 10])
def test_a_draw_has_so_many_of_every_class_and_is_the_same_for_all(per_class: int) -> None:
    rows = drawn_rows(LABELS, per_class, 0)
    assert len(np.unique(rows)) == len(rows)
    assert np.bincount(LABELS[rows]).tolist() == [per_class] * 10
    assert np.array_equal(drawn_rows(LABELS, per_class, 0), rows)
    assert set(drawn_rows(LABELS, per_class, 1)) != set(rows)
    assert set(drawn_rows(LABELS, per_class + 1, 0)) > set(rows)


def test_without_a_number_all_are_drawn() -> None:
    assert sorted(drawn_rows(LABELS, None, 0)) == list(range(len(LABELS)))


def test_more_labels_make_a_better_head() -> None:
    accuracies = [accuracy(per_class) for per_class in (1, 2, 10, None)]
    assert accuracies == sorted(accuracies)
    assert accuracies[0] > 0.3, "ten classes, so chance is 0.1"
    assert accuracies[-1] > 0.9


def test_test_images_decide_nothing() -> None:
    """Neither what they are nor which others stand beside them changes what is answered."""
    rows = drawn_rows(LABELS, 10, 0)
    shown = FEATURES[rows], LABELS[rows]
    claims = [head_accuracy(*shown, TEST, np.full(len(TEST), label)) for label in range(10)]
    assert sum(claims) == pytest.approx(1), "each image gets the same answer whatever is claimed"
    alone = [head_accuracy(*shown, TEST[n : n + 1], TEST_LABELS[n : n + 1]) for n in range(40)]
    assert np.mean(alone) == pytest.approx(head_accuracy(*shown, TEST[:40], TEST_LABELS[:40]))


def by_hand(per_class: int, strength: float, noise: float) -> float:
    """With one strength, by scikit-learn alone."""
    generator = np.random.default_rng(0)
    shown, tested = (part + noise * generator.normal(size=part.shape).astype(np.float32)
                     for part in (FEATURES, TEST))  # fmt: skip
    rows = drawn_rows(LABELS, per_class, 0)
    mean, std = shown[rows].mean(0), shown[rows].std(0)
    std[std == 0] = 1
    model = LogisticRegression(C=strength, max_iter=1000)
    model.fit((shown[rows] - mean) / std, LABELS[rows])
    return float((model.predict((tested - mean) / std) == TEST_LABELS).mean())


@pytest.mark.parametrize("noise", [0.0, 12.0])
def test_it_is_a_logistic_regression_of_one_of_the_strengths_on_all_that_was_drawn(
    noise: float,
) -> None:
    found = accuracy(20, noise=noise)
    each = [by_hand(20, strength, noise) for strength in STRENGTHS]
    assert min(abs(found - one) for one in each) < 0.003
    assert found > max(each) - 0.03, "the choice is a good one"
    assert found > min(each) + 0.03, "not every one is"


def test_images_that_are_held_out_choose_the_strength(monkeypatch: pytest.MonkeyPatch) -> None:
    for strengths in ((1.0, 1e-6), (1e-6, 1.0)):
        monkeypatch.setattr(transfer, "STRENGTHS", strengths)
        assert accuracy(20) == pytest.approx(by_hand(20, 1.0, 0.0), abs=0.003)


def test_noise_asks_for_more_regularisation() -> None:
    """Freely fitted, such features mislead; tightly, clean ones are wasted."""
    assert accuracy(20, noise=12.0) > by_hand(20, STRENGTHS[-1], 12.0) + 0.03
    assert accuracy(20) > by_hand(20, STRENGTHS[0], 0.0) + 0.03


def test_features_in_other_units_and_dead_channels_change_nothing() -> None:
    rows = drawn_rows(LABELS, 10, 0)
    factors = np.logspace(-3, 3, 64, dtype=np.float32)

    def moved(features: np.ndarray) -> np.ndarray:
        dead = np.full((len(features), 3), 0.1, dtype=np.float32)
        return np.concatenate([features * factors, dead], axis=1)

    same = head_accuracy(moved(FEATURES[rows]), LABELS[rows], moved(TEST), TEST_LABELS)
    assert same == pytest.approx(accuracy(10), abs=0.005)
