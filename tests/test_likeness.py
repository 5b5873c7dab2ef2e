"""Likeness of answers and of features, against numbers on paper and an independent value."""

import math
from itertools import permutations

import numpy as np
import pytest
import torch

from pipeline.likeness import agreement, cka, divergence, gram, independence
from pipeline.mentoring.distances import DISTANCES


def test_agreement_is_the_share_of_equal_answers_right_or_wrong() -> None:
    student = np.array([[2.0, 1.0], [0.0, 1.0], [3.0, 0.0], [0.0, 1.0]])
    teacher = np.array([[0.2, 0.1], [1.0, 0.0], [1.0, 0.5], [0.0, 9.0]])
    assert agreement(student, teacher) == 0.75


def test_divergence_weighs_by_what_the_teacher_says() -> None:
    student, teacher = np.log([[0.5, 0.5]]), np.log([[0.8, 0.2]])
    by_hand = 0.8 * math.log(0.8 / 0.5) + 0.2 * math.log(0.2 / 0.5)
    assert divergence(student, teacher) == pytest.approx(by_hand)
    assert divergence(student + 7, teacher) == pytest.approx(by_hand)
    assert divergence(teacher, teacher) == pytest.approx(0)


def samples(count: int, features: int, seed: int) -> torch.Tensor:
    return torch.randn(count, features, generator=torch.Generator().manual_seed(seed))


def test_features_that_are_rotated_scaled_and_shifted_are_as_like_as_can_be() -> None:
    first = samples(60, 8, 0)
    rotation, _ = torch.linalg.qr(samples(8, 8, 1))
    assert cka(gram(first), gram(3 * first @ rotation + 5)) == pytest.approx(1)
    assert cka(gram(first), gram(first * torch.arange(1, 9))) < 0.95


def test_features_that_have_nothing_in_common_are_unlike_however_many_they_are() -> None:
    """The plain estimate, which the probe's distance is, takes 300 of each for half alike."""
    first, second = samples(300, 300, 0), samples(300, 300, 1)
    assert abs(cka(gram(first), gram(second))) < 0.02
    assert 1 - float(DISTANCES["cka"].measure(first, second)) > 0.4


def test_its_parts_are_means_over_all_four_different_samples() -> None:
    """As the criterion is defined, which the quick formula must equal: Song et al., 2012."""
    one, other = gram(samples(6, 2, 0)), gram(samples(6, 3, 1))
    quadruples = permutations(range(6), 4)
    terms = [one[i, j] * (other[i, j] + other[q, r] - 2 * other[i, q]) for i, j, q, r in quadruples]
    assert independence(one, other) == pytest.approx(float(torch.stack(terms).mean()))


def test_with_many_samples_and_few_features_it_is_the_plain_cka() -> None:
    first = samples(2000, 10, 0)
    second = first @ samples(10, 6, 1) + samples(2000, 6, 2)
    plain = 1 - float(DISTANCES["cka"].measure(first, second))
    assert cka(gram(first), gram(second)) == pytest.approx(plain, abs=5e-3)
    assert 0.1 < plain < 0.95


def test_features_that_never_change_are_like_nothing() -> None:
    assert cka(gram(torch.ones(10, 3)), gram(samples(10, 3, 0))) == 0
