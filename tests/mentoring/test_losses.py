"""Distances between soft targets against numbers on paper."""

import math
from collections.abc import Callable
from typing import get_args

import numpy as np
import pytest
import torch

from pipeline.blocks import SoftTargets
from pipeline.mentoring import losses
from pipeline.mentoring.losses import SOFT_TARGET_DISTANCES

Distance = Callable[[torch.Tensor, torch.Tensor, float, torch.Tensor], torch.Tensor]
NO_LABELS = torch.empty(0, dtype=torch.int64)

# Softmaxes by hand: 3 : 1 and 1 : 1 in the first sample, 1 : 4 and 2 : 3 in the second.
TEACHER = torch.tensor([[math.log(3), 0.0], [0.0, math.log(4)]])
STUDENT = torch.tensor([[0.0, 0.0], [math.log(2), math.log(3)]])


def kl_soft_targets(
    student: torch.Tensor, teacher: torch.Tensor, temperature: float
) -> torch.Tensor:
    return losses.kl_soft_targets(student, teacher, temperature, NO_LABELS)


def rmse_softmaxes(
    student: torch.Tensor, teacher: torch.Tensor, temperature: float
) -> torch.Tensor:
    return losses.rmse_soft_targets(student, teacher, temperature, NO_LABELS)


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


def test_kl_is_exact_of_a_student_that_answers_much_as_its_teacher() -> None:
    """What it differs by is less than float32's rounding of the terms that it is a sum of."""
    generator = torch.Generator().manual_seed(0)
    teacher = 4 * torch.randn(15, 10, generator=generator)
    student = teacher + 1e-3 * torch.randn(15, 10, generator=generator)
    q, p = (np.exp(x.double().numpy() / 2) for x in (student, teacher))
    q, p = q / q.sum(1, keepdims=True), p / p.sum(1, keepdims=True)
    by_hand = 4 * (p * np.log(p / q)).sum(1).mean()
    assert kl_soft_targets(student, teacher, 2.0).item() == pytest.approx(by_hand, rel=1e-6)


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


def decoupled(logits: list[float], target: int, temperature: float) -> tuple[list, list]:
    """The target's probability and that of all others, and the others' among themselves."""
    powers = [math.exp(logit / temperature) for logit in logits]
    others = powers[:target] + powers[target + 1 :]
    one, rest = powers[target], sum(others)
    return [one / (one + rest), rest / (one + rest)], [power / rest for power in others]


def divergence(p: list[float], q: list[float]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_dkd_weighs_the_target_and_the_others_apart(temperature: float) -> None:
    student = [[1.0, 0.0, -1.0, 2.0], [0.5, 0.0, 3.0, 0.0], [-1.0, 1.0, 0.0, 0.2]]
    teacher = [[2.0, 1.0, -2.0, 3.0], [0.0, 4.0, 1.0, -1.0], [0.0, 0.3, 2.0, 1.0]]
    targets = [0, 3, 2]  # two labels, then what the teacher thinks likeliest
    total = 0.0
    for s, t, target in zip(student, teacher, targets, strict=True):
        pair, others = decoupled(s, target, temperature)
        teacher_pair, teacher_others = decoupled(t, target, temperature)
        total += divergence(teacher_pair, pair) + 8 * divergence(teacher_others, others)
    loss = losses.dkd(
        torch.tensor(student), torch.tensor(teacher), temperature, torch.tensor([0, 3])
    )
    assert loss.item() == pytest.approx(temperature**2 * total / 3, rel=1e-5)


def test_dkd_with_its_parts_weighed_as_in_kl_is_kl() -> None:
    """KL = KL(b_t || b_s) + (1 - p_t) KL(o_t || o_s); with one other class both are the first."""
    student, teacher = torch.tensor([[0.4, -1.0]]), torch.tensor([[2.0, 1.0]])
    for label in (0, 1):
        loss = losses.dkd(student, teacher, 2.0, torch.tensor([label]))
        assert loss.item() == pytest.approx(kl_soft_targets(student, teacher, 2.0).item(), rel=1e-5)


def test_the_target_of_dkd_may_have_logits_that_its_authors_mask_does_not_hide() -> None:
    student = torch.tensor([[5e3, 1.0, 0.0]], requires_grad=True)
    loss = losses.dkd(student, torch.tensor([[5e3, 0.0, 1.0]]), 1.0, torch.tensor([0]))
    pairs = decoupled([0, 1.0, 0.0], 0, 1.0)[1], decoupled([0, 0.0, 1.0], 0, 1.0)[1]
    assert loss.item() == pytest.approx(8 * divergence(pairs[1], pairs[0]), rel=1e-5)
    loss.backward()
    assert student.grad[0, 1:].abs().min() > 1


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_dist_is_1_less_the_correlation_of_classes_and_that_of_samples(temperature: float) -> None:
    generator = np.random.default_rng(0)
    student, teacher = generator.normal(size=(2, 5, 4))

    def softmax(logits: np.ndarray) -> np.ndarray:
        powers = np.exp(logits / temperature)
        return powers / powers.sum(1, keepdims=True)

    s, t = softmax(student), softmax(teacher)
    rows = np.mean([1 - np.corrcoef(s[i], t[i])[0, 1] for i in range(5)])
    columns = np.mean([1 - np.corrcoef(s[:, c], t[:, c])[0, 1] for c in range(4)])
    tensors = torch.from_numpy(student).float(), torch.from_numpy(teacher).float()
    loss = losses.dist(*tensors, temperature, NO_LABELS)
    assert loss.item() == pytest.approx(temperature**2 * (rows + columns), rel=1e-4)


def test_dist_of_a_student_that_says_the_same_of_all_has_a_small_gradient() -> None:
    """Its columns are constant: what rounding leaves there must not be taken for a direction."""
    student = torch.tensor([0.1, 0.7, -0.3]).repeat(6, 1).requires_grad_()
    teacher = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    losses.dist(student, teacher, 1.0, NO_LABELS).backward()
    assert student.grad.abs().max() < 1


@pytest.mark.parametrize("distance", SOFT_TARGET_DISTANCES.values())
def test_a_student_that_answers_as_its_teacher_has_no_loss_and_a_finite_gradient(
    distance: Distance,
) -> None:
    student = torch.tensor([[0.3, -2.0, 5.0]], requires_grad=True)
    loss = distance(student, student.detach().clone(), 3.0, torch.tensor([1]))
    assert loss.item() == pytest.approx(0, abs=2e-6)
    loss.backward()
    assert torch.isfinite(student.grad).all()


@pytest.mark.parametrize("distance", SOFT_TARGET_DISTANCES.values())
def test_extreme_logits_have_a_finite_loss_and_gradient(distance: Distance) -> None:
    student = torch.tensor([[1e4, -1e4, 0.0]], requires_grad=True)
    loss = distance(student, torch.tensor([[-1e4, 1e4, 0.0]]), 1.0, NO_LABELS)
    assert loss.item() > 0.5
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(student.grad).all()


def test_every_distance_that_params_allow_is_there() -> None:
    allowed = get_args(SoftTargets.model_fields["distance"].annotation)
    assert set(allowed) == set(SOFT_TARGET_DISTANCES)


@pytest.mark.parametrize("name", SOFT_TARGET_DISTANCES)
def test_labels_matter_to_the_decoupled_distance_alone(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 4, 3, generator=generator)
    answers = {
        SOFT_TARGET_DISTANCES[name](*logits, 2.0, torch.tensor(labels)).item()
        for labels in ([0, 0], [1, 2], [2, 1, 0, 0])
    }
    assert (len(answers) > 1) == (name == "dkd")


# By certainty.


def test_samples_weigh_as_much_as_the_teacher_is_sure_of_them() -> None:
    """Sure of the first, as unsure as can be of the second, half-way in between of the third."""
    entropy = -(0.9 * math.log(0.9) + 0.1 * math.log(0.1))
    certainty = [1.0, 0.0, 1 - entropy / math.log(2)]
    teacher = torch.tensor([[80.0, 0.0], [0.0, 0.0], [math.log(9), 0.0]])
    student = torch.tensor([[0.0, 0.0], [5.0, -5.0], [0.0, 1.0]])
    alone = [kl_soft_targets(s[None], t[None], 2.0).item()
             for s, t in zip(student, teacher, strict=True)]  # fmt: skip
    by_hand = sum(w * a for w, a in zip(certainty, alone, strict=True)) / sum(certainty)
    loss = losses.kl_by_certainty(student, teacher, 2.0, NO_LABELS)
    assert loss.item() == pytest.approx(by_hand, rel=1e-4)


def test_equal_certainty_is_plain_kl() -> None:
    teacher = torch.tensor([[1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]])
    student = torch.tensor([[0.3, 0.0, 0.0], [0.0, 0.5, -2.0]])
    loss = losses.kl_by_certainty(student, teacher, 3.0, NO_LABELS)
    assert loss.item() == pytest.approx(kl_soft_targets(student, teacher, 3.0).item(), rel=1e-5)


def test_a_teacher_that_knows_nothing_teaches_nothing() -> None:
    student = torch.tensor([[0.3, 0.0, 0.0]], requires_grad=True)
    loss = losses.kl_by_certainty(student, torch.zeros(1, 3), 3.0, NO_LABELS)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert torch.isfinite(student.grad).all()
