"""The linear head on a teacher's features: good, calibrated as scikit-learn's, chosen fairly."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from pipeline.heads import (
    SURE,
    LinearHead,
    choose_head,
    common_scale,
    fit_heads,
    self_train,
    surest,
)
from pipeline.metrics import score


@dataclass(frozen=True)
class Task:
    """64 features an image, standardised by mean and std; 20 a class to fit."""

    features: np.ndarray
    labels: np.ndarray
    validation: np.ndarray
    validation_labels: np.ndarray
    test: np.ndarray
    test_labels: np.ndarray
    mean: np.ndarray
    std: np.ndarray

    def fit(self, *strengths: float, validation_labels: np.ndarray | None = None) -> LinearHead:
        if validation_labels is None:
            validation_labels = self.validation_labels
        heads = fit_heads(self.features, self.labels, self.mean, self.std, strengths)
        chosen = choose_head(heads, self.validation, validation_labels)
        assert isinstance(chosen, LinearHead)
        return chosen


def digits(classes: int, dtype: str = "f2", noise: float = 0) -> Task:
    """Scikit-learn's digits; their pixels stand for features, in a cache's precision."""
    images, labels = load_digits(n_class=classes, return_X_y=True)
    generator = np.random.default_rng(0)
    order = generator.permutation(len(labels))
    images = images[order] + noise * generator.normal(size=images.shape)
    features, labels = images.astype(dtype), labels[order]
    parts = [slice(0, 100 * classes // 5), slice(-150, -75), slice(-75, None)]
    split = [array[part] for part in parts for array in (features, labels)]
    mean, std = split[0].mean(0, dtype="f4"), split[0].std(0, dtype="f4")
    std[std < 1e-4] = 1
    return Task(*split, mean, std)


def test_a_head_tells_digits_apart_far_better_than_chance() -> None:
    task = digits(10)
    head = task.fit(0.001, 0.01, 0.1)
    logits = head.logits(task.test)
    assert (logits.dtype, logits.shape) == ("f4", (len(task.test), 10))
    assert head.weight.shape == (10, 64)
    assert score(logits, task.test_labels)["accuracy"] > 0.85, "ten classes, so chance is 0.1"


def test_one_scale_for_all_channels_is_the_root_of_their_mean_variance() -> None:
    assert common_scale(np.array([3.0, 4.0, 0.0], "f4")).tolist() == pytest.approx(
        [math.sqrt(25 / 3)] * 3
    )


def test_with_one_label_a_class_one_scale_serves_better_than_one_a_channel() -> None:
    """Pixels at the edge, which few of ten digits touch, would outweigh all others."""
    task = digits(10)
    one = np.array([np.flatnonzero(task.labels == digit)[0] for digit in range(10)])
    features, labels = task.features[one], task.labels[one]
    mean, std = features.mean(0, dtype="f4"), features.std(0, dtype="f4")
    own = np.where(std < 1e-4, 1, std)
    apart, together = (
        score(
            fit_heads(features, labels, mean, scale, [0.1])[0].logits(task.test), task.test_labels
        )
        for scale in (own, common_scale(std))
    )
    assert together["accuracy"] > apart["accuracy"] + 0.05


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_its_softmax_is_what_scikit_learn_predicts(classes: int) -> None:
    task = digits(classes)
    head = task.fit(0.01)
    inputs = (task.features.astype("f4") - task.mean) / task.std
    model = LogisticRegression(C=0.01, max_iter=1000).fit(inputs, task.labels)
    expected = model.predict_proba((task.test.astype("f4") - task.mean) / task.std)
    assert expected.std() > 0.1
    logits = head.logits(task.test)
    assert logits.shape == (len(task.test), classes)
    np.testing.assert_allclose(softmax(logits, axis=1), expected, atol=1e-5)


def test_validation_chooses_the_strength() -> None:
    """The same images to fit, the same images to validate: only the labels of these change."""
    task = digits(10)
    strengths = (0.00001, 0.001, 0.1)
    assert task.fit(*strengths).inverse_regularisation > 0.00001
    # Labels that are never what a picture shows: the more a head believes, the more it is wrong.
    misled = task.fit(*strengths, validation_labels=(task.validation_labels + 1) % 10)
    assert misled.inverse_regularisation == 0.00001


def test_the_chosen_strength_is_the_one_with_the_best_likelihood() -> None:
    task = digits(10, noise=6)  # of pixels 0 to 16, so that a free head learns the noise
    strengths = (0.00001, 0.0003, 0.01, 1.0, 100.0)
    alone = {strength: task.fit(strength) for strength in strengths}
    nll = {
        strength: score(head.logits(task.validation), task.validation_labels)["nll"]
        for strength, head in alone.items()
    }
    best = min(nll, key=nll.__getitem__)
    assert len(set(nll.values())) == len(strengths)
    assert best not in (strengths[0], strengths[-1]), "neither the tightest nor the freest"
    chosen = task.fit(*reversed(strengths))
    assert chosen.inverse_regularisation == best
    np.testing.assert_array_equal(chosen.weight, alone[best].weight)


def test_a_head_standardises_what_it_reads() -> None:
    """Features in other units make the same head, where their statistics are told with them."""
    task = digits(3, dtype="f4")
    other = Task(
        task.features * 8 + 64, task.labels, task.validation * 8 + 64, task.validation_labels,
        task.test * 8 + 64, task.test_labels, task.mean * 8 + 64, task.std * 8,
    )  # fmt: skip
    dead = task.features.std(0) == 0
    other.std[dead] = 1
    np.testing.assert_allclose(
        other.fit(0.01).logits(other.test), task.fit(0.01).logits(task.test), atol=1e-3
    )


def test_a_channel_that_never_moves_has_no_say() -> None:
    task = digits(10)
    dead = np.flatnonzero(task.features.std(0) == 0)
    assert len(dead) > 0
    np.testing.assert_allclose(task.fit(0.01).weight[:, dead], 0, atol=1e-6)


# A head that learns its own answers


STRENGTHS = (0.01, 0.1, 1.0, 10.0)


def with_few_labels(task: Task, count: int) -> tuple[list[LinearHead], np.ndarray]:
    """Heads of so many labels a class, and which rows of the task these are."""
    rows = np.concatenate([np.flatnonzero(task.labels == digit)[:count] for digit in range(10)])
    scale = common_scale(task.std)
    return fit_heads(task.features[rows], task.labels[rows], task.mean, scale, STRENGTHS), rows


def test_a_head_that_learns_its_own_surest_answers_knows_more() -> None:
    task = digits(10)
    heads, rows = with_few_labels(task, 1)
    features, labels = task.features[rows], task.labels[rows]
    others = np.delete(task.features, rows, axis=0)
    taught, seen, told = self_train(
        heads, features, labels, others, 10, task.validation, task.validation_labels
    )
    before, after = (
        score(choose_head(some, task.validation, task.validation_labels).logits(task.test),
              task.test_labels)["accuracy"]
        for some in (heads, taught)
    )  # fmt: skip
    assert after > before + 0.05
    (rounds,) = {head.self_training for head in taught}
    assert 1 <= rounds <= 10
    assert taught[0].describe()["self_training"] == rounds
    assert len(seen) == len(told) > len(rows)
    assert np.array_equal(seen[: len(rows)], features) and np.array_equal(told[:10], labels)
    assert {tuple(row) for row in seen[len(rows) :].tolist()} <= {
        tuple(row) for row in others.tolist()
    }
    again = fit_heads(seen, told, task.mean, common_scale(task.std), STRENGTHS)
    assert all(
        np.array_equal(one.weight, other.weight) for one, other in zip(taught, again, strict=True)
    )


def test_the_surest_answers_are_taken_and_of_no_class_too_many() -> None:
    task = digits(10)
    (head, *_), _ = with_few_labels(task, 1)
    rows, answers = surest(head, task.features)
    shares = softmax(head.logits(task.features), axis=1)
    assert np.array_equal(answers, shares.argmax(1)[rows])
    assert len(set(rows)) == len(rows)
    most = int(SURE * len(task.features) / 10)
    for digit in range(10):
        own = np.flatnonzero(shares.argmax(1) == digit)
        taken = rows[answers == digit]
        assert len(taken) == min(most, len(own))
        left = np.setdiff1d(own, taken)
        assert shares[taken].max(1).min() >= (shares[left].max(1).max() if len(left) else 0)


def test_a_round_that_makes_validation_no_likelier_is_not_kept() -> None:
    """What is sure of noise learns nothing of digits from it."""
    task = digits(10)
    heads, rows = with_few_labels(task, 10)
    noise = np.random.default_rng(0).uniform(0, 16, (500, 64)).astype("f2")
    kept, features, labels = self_train(
        heads, task.features[rows], task.labels[rows], noise, 3, task.validation,
        task.validation_labels,
    )  # fmt: skip
    assert kept is heads
    assert np.array_equal(features, task.features[rows])
    assert np.array_equal(labels, task.labels[rows])
    assert {head.self_training for head in kept} == {0}
