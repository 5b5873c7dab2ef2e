"""CRD: what the teacher said of a picture told apart from what it said of others."""

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import one_hot

from pipeline.blocks import Mode, SoftTargets
from pipeline.mentoring.distances import CRD
from pipeline.mentoring.objective import Batch, Objective, Pair
from pipeline.mentoring.probes import Probe

TEMPERATURE = 0.07


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def seeded(student: int, teacher: int) -> CRD:
    torch.manual_seed(0)
    return CRD(student, teacher)


def unchanged(values: int) -> CRD:
    """Embeddings that leave their vectors as they are, among zeros."""
    measure = CRD(values, values)
    with torch.no_grad():
        for linear in (measure.student, measure.teacher):
            linear.weight.copy_(torch.eye(CRD.size, values))
            linear.bias.zero_()
    return measure


def test_crd_on_paper() -> None:
    measure = unchanged(2)
    student = torch.tensor([[2.0, 0.0], [0.0, 3.0]])
    teacher = torch.tensor([[3.0, 4.0], [0.0, 1.0]])  # cosines 0.6 and 1
    negatives = torch.tensor([[4.0, 3.0], [-1.0, 0.0], [0.0, 9.0]])  # 0.8, -1, 0 and 0.6, 0, 1
    are_others = torch.tensor([[True, True, True], [True, True, False]])

    def e(cosine: float) -> float:
        return math.exp(cosine / TEMPERATURE)

    first = -math.log(e(0.6) / (e(0.6) + e(0.8) + e(-1) + e(0)))
    second = -math.log(e(1) / (e(1) + e(0.6) + e(0)))
    said = measure(student, teacher, negatives, are_others)
    assert said.item() == pytest.approx((first + second) / 2, rel=1e-5)


@pytest.mark.parametrize("teacher_shape", [(7,), (2, 3, 3)])
@pytest.mark.parametrize("student_shape", [(4,), (3, 2, 4)])
def test_crd_as_a_loop(student_shape: tuple[int, ...], teacher_shape: tuple[int, ...]) -> None:
    """Also of maps, flattened, and of two sides that agree in nothing but their samples."""
    measure = seeded(math.prod(student_shape), math.prod(teacher_shape))
    student, teacher = random(5, *student_shape), random(5, *teacher_shape, seed=1)
    negatives, are_others = random(9, *teacher_shape, seed=2), random(5, 9, seed=3) > 0

    def embedded(linear: torch.nn.Linear, features: torch.Tensor) -> np.ndarray:
        weight, bias = (part.detach().double().numpy() for part in (linear.weight, linear.bias))
        vector = weight @ features.flatten().double().numpy() + bias
        return vector / np.linalg.norm(vector)

    total = 0.0
    for i in range(5):
        anchor = embedded(measure.student, student[i])
        own = np.exp(anchor @ embedded(measure.teacher, teacher[i]) / TEMPERATURE)
        others = sum(
            np.exp(anchor @ embedded(measure.teacher, negatives[j]) / TEMPERATURE)
            for j in range(9)
            if are_others[i, j]
        )
        total -= np.log(own / (own + others))
    said = measure(student, teacher, negatives, are_others)
    assert said.item() == pytest.approx(total / 5, rel=1e-4)


def test_an_own_row_is_no_negative_whatever_it_holds() -> None:
    measure = seeded(4, 6)
    student, teacher = random(3, 4).requires_grad_(), random(3, 6, seed=1)
    negatives = random(8, 6, seed=2)
    are_others = torch.ones(3, 8, dtype=torch.bool)
    are_others[:, 5] = False
    said = measure(student, teacher, negatives, are_others)
    gradient = torch.autograd.grad(said, student)[0]
    for row in (torch.zeros(6), teacher[0], 100 * random(6, seed=3)):
        other = negatives.clone()
        other[5] = row
        loss = measure(student, teacher, other, are_others)
        assert torch.equal(loss, said)
        assert torch.equal(torch.autograd.grad(loss, student)[0], gradient)
        counted = measure(student, teacher, other, torch.ones_like(are_others))
        assert counted > said


def test_a_picture_that_only_meets_itself_has_nothing_to_learn() -> None:
    measure = seeded(4, 6)
    student = random(3, 4).requires_grad_()
    nothing = torch.zeros(3, 8, dtype=torch.bool)
    loss = measure(student, random(3, 6, seed=1), random(8, 6, seed=2), nothing)
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(student.grad, torch.zeros(3, 4))


def test_student_and_both_embeddings_learn() -> None:
    measure = seeded(4, 6)
    student = random(5, 4).requires_grad_()
    everyone = torch.ones(5, 9, dtype=torch.bool)
    measure(student, random(5, 6, seed=1), random(9, 6, seed=2), everyone).backward()
    assert (student.grad.abs().sum(1) > 0).all()
    assert len(list(measure.parameters())) == 4
    for parameter in measure.parameters():
        assert parameter.grad.abs().sum() > 0


def test_a_student_that_agrees_is_closer_than_one_that_mixes_its_samples_up() -> None:
    measure = unchanged(16)
    teacher, negatives = random(20, 16), random(200, 16, seed=1)
    everyone = torch.ones(20, 200, dtype=torch.bool)
    aligned = measure(teacher, teacher, negatives, everyone)
    noisy = measure(teacher + random(20, 16, seed=2), teacher, negatives, everyone)
    shuffled = measure(teacher.roll(1, 0), teacher, negatives, everyone)
    assert aligned < 0.2 < noisy < 6 < shuffled
    unsure = measure(torch.zeros(20, 16), teacher, negatives, everyone)
    assert unsure.item() == pytest.approx(math.log(201), rel=1e-5)


def test_following_the_gradient_finds_every_sample_among_the_others() -> None:
    """A student that is told neither axes nor scale learns to point to its own row."""
    teacher = random(30, 12)
    negatives = teacher.repeat(2, 1)
    are_others = ~one_hot(torch.arange(30).repeat(2)).T.bool()
    student = random(30, 5, seed=1).requires_grad_()
    measure = seeded(5, 12)
    optimizer = torch.optim.Adam([student, *measure.parameters()], lr=0.02)
    before = measure(student, teacher, negatives, are_others)
    for _ in range(100):
        optimizer.zero_grad()
        loss = measure(student, teacher, negatives, are_others)
        loss.backward()
        optimizer.step()
    assert loss < before / 10
    likeness = measure.student(student) @ torch.nn.functional.normalize(measure.teacher(teacher)).T
    assert torch.equal(likeness.argmax(1), torch.arange(30))


@pytest.mark.parametrize("n", [1, 5])
@pytest.mark.parametrize("value", [0.0, 1e-20, 1234.567, 1e12])
def test_degenerate_features_have_a_finite_loss_and_a_bounded_gradient(
    n: int, value: float
) -> None:
    measure = unchanged(4)  # without a bias, which would give zeros a direction
    everyone = torch.ones(n, 3, dtype=torch.bool)
    constant, other = torch.full((n, 4), value), random(n, 4)
    for student, teacher in ((constant, other), (other, constant), (constant, constant)):
        student = student.clone().requires_grad_()
        loss = measure(student, teacher, teacher[:1].repeat(3, 1), everyone)
        loss.backward()
        assert torch.isfinite(loss)
        assert torch.isfinite(student.grad).all()
        assert student.grad.abs().max() < 100


def test_no_number_is_not_taken_for_a_small_one() -> None:
    student = random(3, 4)
    student[1, 2] = torch.nan
    everyone = torch.ones(3, 8, dtype=torch.bool)
    assert torch.isnan(seeded(4, 6)(student, random(3, 6), random(8, 6), everyone))


# In a probe, and in the whole loss


def probe(student_shape: tuple[int, ...], teacher_shape: tuple[int, ...]) -> Probe:
    torch.manual_seed(0)
    channels = teacher_shape[0]
    mean, std = torch.full((channels,), 3.0), torch.full((channels,), 0.5)
    return Probe("crd", "none", student_shape, teacher_shape, mean, std)


@pytest.mark.parametrize("student_shape", [(4,), (4, 3, 3)])
@pytest.mark.parametrize("teacher_shape", [(6,), (6, 2, 2)])
def test_a_probe_contrasts_features_of_any_shapes_as_they_are(
    student_shape: tuple[int, ...], teacher_shape: tuple[int, ...]
) -> None:
    chosen = probe(student_shape, teacher_shape)
    student = random(5, *student_shape).requires_grad_()
    teacher = random(5, *teacher_shape, seed=1).half()  # as caches keep them
    negatives = random(9, *teacher_shape, seed=2).half()
    are_others = random(5, 9, seed=3) > 0
    loss = chosen(student, teacher, negatives, are_others)
    assert torch.equal(
        loss, chosen.measure(student, teacher.float(), negatives.float(), are_others)
    )
    loss.backward()
    assert student.grad.abs().sum() > 0
    assert all(parameter.grad.abs().sum() > 0 for parameter in chosen.parameters())


def test_a_contrast_is_taken_in_full_precision_where_training_is_not() -> None:
    chosen = probe((8,), (6,))
    student = random(5, 8).bfloat16()
    told = random(5, 6, seed=1), random(9, 6, seed=2), random(5, 9, seed=3) > 0
    with torch.autocast("cpu", torch.bfloat16):
        inside = chosen(student, *told)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, chosen(student.float(), *told))


def test_each_contrast_in_the_loss_has_the_negatives_of_its_tap() -> None:
    mode = Mode(alpha=[(0, 0.0)], beta=[(0, 2.0)], gamma=[(0, 0.0)])
    pairs = [Pair("early", "conv3"), Pair("pooled", "pooled"), Pair("pooled", "conv3")]
    probes = [probe((4,), (6,)), probe((4,), (7,)),
              Probe("rmse", "projection", (4,), (7,), torch.zeros(7), torch.ones(7))]  # fmt: skip
    objective = Objective(
        mode, SoftTargets(distance="kl", temperature=1.0), list(zip(pairs, probes, strict=True))
    )
    taught = {"early": random(5, 6), "pooled": random(5, 7)}
    negatives = {"early": random(9, 6, seed=1), "pooled": random(9, 7, seed=2)}
    are_others = random(5, 9, seed=3) > 0
    batch = Batch(torch.empty(5, 0), torch.zeros(0), None, taught, negatives, are_others)
    features = {"conv3": random(5, 4, seed=4), "pooled": random(5, 4, seed=5)}
    terms = objective(batch, torch.zeros(5, 2), features, 0.5)
    for pair, chosen in zip(pairs[:2], probes[:2], strict=True):
        expected = 2 * chosen.measure(
            features[pair.student], taught[pair.teacher], negatives[pair.teacher], are_others
        )
        assert torch.equal(terms[f"probe {pair.teacher} {pair.student}"], expected)
    plain = 2 * probes[2](features["conv3"], taught["pooled"])
    assert torch.equal(terms["probe pooled conv3"], plain), "it needs none and heeds none"
