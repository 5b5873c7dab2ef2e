"""Distances between teacher and student against numbers on paper."""

import math
from collections.abc import Callable
from typing import get_args

import pytest
import torch

from pipeline.mentoring.losses import SOFT_TARGET_DISTANCES, kl_soft_targets, rmse
from pipeline.mentoring.losses import rmse_soft_targets as rmse_softmaxes
from pipeline.params import SoftTargets

Distance = Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]

# Softmaxes by hand: 3 : 1 and 1 : 1 in the first sample, 1 : 4 and 2 : 3 in the second.
TEACHER = torch.tensor([[math.log(3), 0.0], [0.0, math.log(4)]])
STUDENT = torch.tensor([[0.0, 0.0], [math.log(2), math.log(3)]])


def test_kl_is_the_teachers_divergence_from_the_student_averaged_over_samples() -> None:
    first = 3 / 4 * math.log((3 / 4) / (1 / 2)) + 1 / 4 * math.log((1 / 4) / (1 / 2))
    second = 1 / 5 * math.log((1 / 5) / (2 / 5)) + 4 / 5 * math.log((4 / 5) / (3 / 5))
    by_hand = (first + second) / 2
    assert kl_soft_targets(STUDENT, TEACHER, 1.0).item() == pytest.approx(by_hand, rel=1e-5)


def test_kl_is_not_symmetric() -> None:
    other_way = 1 / 2 * math.log((1 / 2) / (3 / 4)) + 1 / 2 * math.log((1 / 2) / (1 / 4))
    swapped = kl_soft_targets(TEACHER[:1], STUDENT[:1], 1.0).item()
    assert swapped == pytest.approx(other_way, rel=1e-5)
    assert swapped != pytest.approx(kl_soft_targets(STUDENT[:1], TEACHER[:1], 1.0).item(), rel=0.05)


@pytest.mark.parametrize("temperature", [0.5, 2.0, 10.0])
def test_kl_at_a_temperature_is_that_of_the_divided_logits_times_its_square(
    temperature: float,
) -> None:
    def softmax(logits: list[float]) -> list[float]:
        powers = [math.exp(logit / temperature) for logit in logits]
        return [power / sum(powers) for power in powers]

    divergences = []
    for teacher, student in zip(TEACHER.tolist(), STUDENT.tolist(), strict=True):
        pairs = zip(softmax(teacher), softmax(student), strict=True)
        divergences.append(sum(p * math.log(p / q) for p, q in pairs))
    by_hand = temperature**2 * sum(divergences) / 2
    assert kl_soft_targets(STUDENT, TEACHER, temperature).item() == pytest.approx(by_hand, rel=1e-4)


def test_the_gradient_of_kl_keeps_its_size_as_the_temperature_grows() -> None:
    """At a high temperature it is (student - teacher) / classes, logits centred (Hinton 2015)."""
    student = torch.tensor([[1.0, -1.0, 0.0]], requires_grad=True)
    teacher = torch.tensor([[-1.0, 0.0, 1.0]])
    kl_soft_targets(student, teacher, 1000.0).backward()
    expected = [[2 / 3, -1 / 3, -1 / 3]]
    assert torch.allclose(student.grad, torch.tensor(expected), atol=2e-3)


def test_the_rmse_of_softmaxes_is_over_samples_and_classes() -> None:
    # 3/4 - 1/2 and 1/4 - 1/2; 1/5 - 2/5 and 4/5 - 3/5.
    by_hand = math.sqrt((2 * 0.25**2 + 2 * 0.2**2) / 4)
    assert rmse_softmaxes(STUDENT, TEACHER, 1.0).item() == pytest.approx(by_hand, rel=1e-5)


def test_the_rmse_of_softmaxes_divides_the_logits_by_the_temperature() -> None:
    # Halved, log 9 : 0 is log 3 : 0, which is 3/4 : 1/4.
    teacher = torch.tensor([[math.log(9), 0.0]])
    student = torch.zeros(1, 2)
    assert rmse_softmaxes(student, teacher, 2.0).item() == pytest.approx(0.25, rel=1e-5)


def test_rmse_is_the_root_of_the_mean_square_over_everything() -> None:
    student = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    teacher = torch.tensor([[0.0, 4.0], [3.0, 0.0]])
    # Differences 1, -2, 0, 4.
    assert rmse(student, teacher).item() == pytest.approx(math.sqrt(21 / 4), rel=1e-6)
    maps = student.view(1, 1, 2, 2), teacher.view(1, 1, 2, 2)
    assert rmse(*maps).item() == pytest.approx(math.sqrt(21 / 4), rel=1e-6)


@pytest.mark.parametrize("distance", SOFT_TARGET_DISTANCES.values())
def test_a_student_that_answers_as_its_teacher_has_no_loss_and_a_finite_gradient(
    distance: Distance,
) -> None:
    student = torch.tensor([[0.3, -2.0, 5.0]], requires_grad=True)
    loss = distance(student, student.detach().clone(), 3.0)
    assert loss.item() == pytest.approx(0, abs=2e-6)
    loss.backward()
    assert torch.isfinite(student.grad).all()


def test_equal_features_have_no_loss_and_a_finite_gradient() -> None:
    """The root's slope at 0 is infinite."""
    student = torch.tensor([[0.3, -2.0, 5.0]], requires_grad=True)
    loss = rmse(student, student.detach().clone())
    assert loss.item() == pytest.approx(0, abs=2e-6)
    loss.backward()
    assert torch.isfinite(student.grad).all()


@pytest.mark.parametrize("distance", SOFT_TARGET_DISTANCES.values())
def test_extreme_logits_have_a_finite_loss_and_gradient(distance: Distance) -> None:
    student = torch.tensor([[1e4, -1e4, 0.0]], requires_grad=True)
    loss = distance(student, torch.tensor([[-1e4, 1e4, 0.0]]), 1.0)
    assert loss.item() > 0.5
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(student.grad).all()


def test_every_distance_that_params_allow_is_there() -> None:
    allowed = get_args(SoftTargets.model_fields["distance"].annotation)
    assert set(allowed) == set(SOFT_TARGET_DISTANCES)
