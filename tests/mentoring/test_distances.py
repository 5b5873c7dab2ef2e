"""Distances between features: numbers on paper, NumPy written another way, and degenerate cases."""

import math
from collections.abc import Callable
from typing import get_args

import numpy as np
import pytest
import torch

from pipeline import blocks
from pipeline.mentoring.distances import (
    DISTANCES,
    VID,
    attention_transfer,
    cka,
    cosine,
    l1,
    mse,
    pkt,
    rkd_angle,
    rkd_distance,
    rmse,
    similarity,
)  # fmt: skip

Measure = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
SHAPES = [(5, 4), (6, 3, 2, 4)]
# Those that need negatives have tests of their own, in test_contrast.py.
PAIRWISE = [name for name, chosen in DISTANCES.items() if chosen.needs != "negatives"]
BETWEEN_SAMPLES = [name for name, chosen in DISTANCES.items() if chosen.needs == "nothing"]


def measure_of(name: str, channels: int) -> Measure:
    chosen = DISTANCES[name].measure
    return chosen(channels) if isinstance(chosen, type) else chosen


def drawn(shape: tuple[int, ...], other: tuple[int, ...] | None = None) -> tuple[np.ndarray, ...]:
    """A student's features and a teacher's, of another shape if it is given."""
    generator = np.random.default_rng(0)
    student = generator.normal(size=shape)
    return student, generator.normal(loc=0.5, size=other or shape)


def said(measure: Measure, student: np.ndarray, teacher: np.ndarray) -> float:
    tensors = torch.from_numpy(student).float(), torch.from_numpy(teacher).float()
    loss = measure(*tensors)
    assert loss.shape == ()
    assert loss.dtype == torch.float32
    return loss.item()


def flat(features: np.ndarray) -> np.ndarray:
    return features.reshape(len(features), -1)


# On paper


STUDENT = np.array([[1.0, 2.0], [3.0, 4.0]])
TEACHER = np.array([[0.0, 4.0], [3.0, 0.0]])  # differences 1, -2, 0, 4


@pytest.mark.parametrize(
    ("measure", "by_hand"), [(rmse, math.sqrt(21 / 4)), (mse, 21 / 4), (l1, 7 / 4)]
)
def test_distances_between_values_are_means_over_everything(
    measure: Measure, by_hand: float
) -> None:
    assert said(measure, STUDENT, TEACHER) == pytest.approx(by_hand, rel=1e-6)
    maps = STUDENT.reshape(1, 1, 2, 2), TEACHER.reshape(1, 1, 2, 2)
    assert said(measure, *maps) == pytest.approx(by_hand, rel=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_gradient_of_rmse_is_that_of_its_formula(shape: tuple[int, ...]) -> None:
    student, teacher = (torch.from_numpy(x).requires_grad_() for x in drawn(shape))
    assert torch.autograd.gradcheck(rmse, (student, teacher))


def test_the_cosine_is_that_of_the_channels_at_every_place() -> None:
    student = np.array([[1.0, 0.0], [3.0, 4.0]])
    teacher = np.array([[0.0, 2.0], [4.0, 3.0]])  # cosines 0 and 24 / 25
    by_hand = (1 + 1 / 25) / 2
    assert said(cosine, student, teacher) == pytest.approx(by_hand, rel=1e-5)
    maps = (x.T.reshape(1, 2, 1, 2) for x in (student, teacher))  # the samples are places now
    assert said(cosine, *maps) == pytest.approx(by_hand, rel=1e-5)


def test_the_cosine_knows_no_scale() -> None:
    assert said(cosine, STUDENT, 7 * STUDENT) == pytest.approx(0, abs=1e-6)
    assert said(cosine, STUDENT, -STUDENT) == pytest.approx(2, rel=1e-6)


def test_vid_is_a_gaussians_likelihood_with_a_variance_a_channel() -> None:
    measure = VID(2)
    assert said(measure, STUDENT, TEACHER) == pytest.approx(21 / 4 / 2, rel=1e-4), "variances of 1"
    variances = np.array([0.5, 4.0])
    with torch.no_grad():
        measure.raw.copy_(torch.from_numpy(np.log(np.expm1(variances - 1e-5))))
    # Squares 1 and 0 in the first channel, 4 and 16 in the second.
    by_hand = (np.log(variances).sum() * 2 + (1 + 0) / 0.5 + (4 + 16) / 4) / 4 / 2
    assert said(measure, STUDENT, TEACHER) == pytest.approx(by_hand, rel=1e-5)
    maps = (x.reshape(2, 2, 1, 1).repeat(3, 3) for x in (STUDENT, TEACHER))
    assert said(measure, *maps) == pytest.approx(by_hand, rel=1e-5)


def test_vid_learns_the_variance_that_the_student_leaves() -> None:
    generator = torch.Generator().manual_seed(0)
    student = torch.zeros(4000, 2)
    teacher = torch.randn(4000, 2, generator=generator) * torch.tensor([0.3, 1.5])
    measure = VID(2)
    optimizer = torch.optim.Adam(measure.parameters(), lr=0.1)
    for _ in range(300):
        optimizer.zero_grad()
        measure(student, teacher).backward()
        optimizer.step()
    variance = torch.nn.functional.softplus(measure.raw)
    assert torch.allclose(variance, teacher.square().mean(0), rtol=0.02)


def test_attention_is_where_the_squares_are_whatever_the_channels() -> None:
    # Means of squares by place: student 8, 6, 0, 0; teacher 0, 5, 0, 0.
    student = np.array([[4.0, 2.0, 0, 0], [0, -math.sqrt(8), 0, 0]]).reshape(1, 2, 2, 2)
    teacher = np.array([0.0, math.sqrt(5), 0, 0]).reshape(1, 1, 2, 2)
    by_hand = (0.8**2 + (0.6 - 1) ** 2) / 4
    assert said(attention_transfer, student, teacher) == pytest.approx(by_hand, rel=1e-5)


def test_similarity_on_paper() -> None:
    student = np.array([[1.0, 0.0], [1.0, 0.0]])  # all products 1: rows (1, 1) / sqrt 2
    teacher = np.array([[2.0, 0.0], [0.0, 5.0]])  # no two alike: rows (1, 0) and (0, 1)
    half = math.sqrt(1 / 2)
    by_hand = 2 * ((1 - half) ** 2 + half**2) / 2**2
    assert said(similarity, student, teacher) == pytest.approx(by_hand, rel=1e-5)


def test_rkd_distance_on_paper() -> None:
    student = np.array([[0.0], [1.0], [3.0]])  # distances 1, 2, 3: over their mean 0.5, 1, 1.5
    teacher = np.array([[0.0, 0.0], [0.0, 8.0], [6.0, 0.0]])  # 8, 10, 6: over 8
    # Of 0-1: 0.5 and 1; of 1-2: 1 and 1.25; of 0-2: 1.5 and 0.75. Each stands twice among 9.
    by_hand = (0.5 * 0.5**2 + 0.5 * 0.25**2 + 0.5 * 0.75**2) * 2 / 9
    assert said(rkd_distance, student, teacher) == pytest.approx(by_hand, rel=1e-5)


def test_rkd_angle_on_paper() -> None:
    """On a line the angle in the middle is 180 degrees; in the other triangle it is a right one."""
    student = np.array([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0]])
    teacher = np.array([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0]])
    half = math.sqrt(1 / 2)
    # Cosines at the three corners: 1, -1, 1 and sqrt(1/2), 0, sqrt(1/2); each twice of 27.
    by_hand = 2 * (0.5 * (1 - half) ** 2 * 2 + 0.5 * 1**2) / 27
    assert said(rkd_angle, student, teacher) == pytest.approx(by_hand, rel=1e-5)


def test_pkt_on_paper() -> None:
    student = np.array([[1.0, 0.0], [0.0, 1.0]])  # likeness 1 and 1/2: rows 2/3 and 1/3
    teacher = np.array([[1.0, 0.0], [3.0, 0.0]])  # likeness 1 and 1: rows 1/2 and 1/2
    by_hand = (math.log((1 / 2) / (2 / 3)) + math.log((1 / 2) / (1 / 3))) / 2 / 2
    assert said(pkt, student, teacher) == pytest.approx(by_hand, rel=1e-4)


def test_cka_on_paper() -> None:
    # Centred: -1, 0, 1 and 1, -2, 1 have no correlation; K = x x^T are as far apart as can be.
    student = np.array([[4.0], [5.0], [6.0]])
    assert said(cka, student, np.array([[1.0], [-2.0], [1.0]])) == pytest.approx(1, rel=1e-6)
    # -1, 0, 1 and -1, -1, 2: correlation 3 / sqrt(2 * 6), of which CKA is the square.
    assert said(cka, student, np.array([[0.0], [0.0], [3.0]])) == pytest.approx(1 / 4, rel=1e-5)


# Written another way


def test_cosine_and_attention_as_loops() -> None:
    student, teacher = drawn((3, 4, 2, 5))
    cosines, squares = [], []
    for s, t in zip(student, teacher, strict=True):
        for y in range(2):
            for x in range(5):
                a, b = s[:, y, x], t[:, y, x]
                cosines.append(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
        maps = [(x**2).sum(0).ravel() for x in (s, t)]
        squares += list(
            (maps[0] / np.linalg.norm(maps[0]) - maps[1] / np.linalg.norm(maps[1])) ** 2
        )
    assert said(cosine, student, teacher) == pytest.approx(1 - np.mean(cosines), rel=1e-5)
    assert said(attention_transfer, student, teacher) == pytest.approx(np.mean(squares), rel=1e-5)


def huber(difference: float) -> float:
    return difference**2 / 2 if abs(difference) < 1 else abs(difference) - 1 / 2


def similarity_by_rows(student: np.ndarray, teacher: np.ndarray) -> float:
    total = 0.0
    for i in range(len(student)):
        rows = [np.array([x[i] @ other for other in x]) for x in (student, teacher)]
        total += np.sum(
            (rows[0] / np.linalg.norm(rows[0]) - rows[1] / np.linalg.norm(rows[1])) ** 2
        )
    return total / len(student) ** 2


def rkd_distance_by_pairs(student: np.ndarray, teacher: np.ndarray) -> float:
    n = len(student)
    pairs = [(i, j) for i in range(n) for j in range(n) if i != j]
    one, other = ({p: np.linalg.norm(x[p[0]] - x[p[1]]) for p in pairs} for x in (student, teacher))
    means = [np.mean([d for d in apart.values() if d > 0]) for apart in (one, other)]
    return sum(huber(one[p] / means[0] - other[p] / means[1]) for p in pairs) / n**2


def rkd_angle_by_triplets(student: np.ndarray, teacher: np.ndarray) -> float:
    n, total = len(student), 0.0
    for j in range(n):
        for i in range(n):
            for k in range(n):
                cosines = []
                for x in (student, teacher):
                    a, b = x[i] - x[j], x[k] - x[j]
                    lengths = np.linalg.norm(a) * np.linalg.norm(b)
                    cosines.append(a @ b / lengths if lengths else 0.0)
                total += huber(cosines[0] - cosines[1])
    return total / n**3


def pkt_by_pairs(student: np.ndarray, teacher: np.ndarray) -> float:
    def probabilities(x: np.ndarray, i: int) -> np.ndarray:
        cosines = [x[i] @ other / np.linalg.norm(x[i]) / np.linalg.norm(other) for other in x]
        likeness = (np.array(cosines) + 1) / 2
        return likeness / likeness.sum()

    n, total = len(student), 0.0
    for i in range(n):
        p, q = probabilities(teacher, i), probabilities(student, i)
        total += np.sum(p * np.log(p / q))
    return total / n**2


def cka_by_features(student: np.ndarray, teacher: np.ndarray) -> float:
    """The other form of it: products of features, C x C, rather than of samples."""
    x, y = student - student.mean(0), teacher - teacher.mean(0)
    cross, own = np.linalg.norm(y.T @ x), np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)
    return 1 - cross**2 / own


OTHER_WAYS = {
    "similarity": similarity_by_rows,
    "rkd_distance": rkd_distance_by_pairs,
    "rkd_angle": rkd_angle_by_triplets,
    "pkt": pkt_by_pairs,
    "cka": cka_by_features,
}


@pytest.mark.parametrize("teacher_shape", [(6, 7), (6, 2, 3, 3)])
@pytest.mark.parametrize("student_shape", [(6, 4), (6, 3, 2, 4)])
@pytest.mark.parametrize("name", BETWEEN_SAMPLES)
def test_distances_between_samples_as_loops(
    name: str, student_shape: tuple[int, ...], teacher_shape: tuple[int, ...]
) -> None:
    """Also of maps, flattened, and of two sides that agree in nothing but their samples."""
    student, teacher = drawn(student_shape, teacher_shape)
    by_loops = OTHER_WAYS[name](flat(student), flat(teacher))
    assert said(DISTANCES[name].measure, student, teacher) == pytest.approx(by_loops, rel=1e-4)


@pytest.mark.parametrize("name", ["rkd_distance", "rkd_angle", "cka"])
def test_what_lies_far_from_the_origin_is_compared_as_well_as_what_lies_near(name: str) -> None:
    """In float32 inner products of such features leave little of what differs between samples."""
    student, teacher = drawn((6, 8))
    far = student.astype(np.float32) + np.float32(3000)
    by_loops = OTHER_WAYS[name](far.astype(np.float64), teacher)
    assert said(DISTANCES[name].measure, far, teacher) == pytest.approx(by_loops, rel=1e-3)


@pytest.mark.parametrize("name", ["rkd_distance", "rkd_angle"])
def test_samples_that_nearly_coincide_have_their_own_distances_and_angles(name: str) -> None:
    student, teacher = drawn((6, 500))
    student[3] = student[2] + 1e-3 * student[3]
    student = student.astype(np.float32)
    by_loops = OTHER_WAYS[name](student.astype(np.float64), teacher)
    assert said(DISTANCES[name].measure, student, teacher) == pytest.approx(by_loops, rel=2e-6)


def test_samples_that_coincide_do_not_shrink_the_mean_distance() -> None:
    """The authors' code takes the mean of the distances above 0."""
    student, teacher = drawn((6, 8))
    student[3:] = student[2]
    by_loops = rkd_distance_by_pairs(student, teacher)
    assert said(rkd_distance, student, teacher) == pytest.approx(by_loops, rel=1e-4)


@pytest.mark.parametrize("scale", [1e-3, 1e4])
@pytest.mark.parametrize("name", BETWEEN_SAMPLES)
def test_distances_between_samples_know_no_scale(name: str, scale: float) -> None:
    student, teacher = drawn((6, 8))
    measure = DISTANCES[name].measure
    expected = said(measure, student, teacher)
    assert said(measure, student * scale, teacher) == pytest.approx(expected, rel=1e-4)
    assert said(measure, student, teacher * scale) == pytest.approx(expected, rel=1e-4)


def test_cka_of_a_close_student_is_small_and_not_rounded_away() -> None:
    student, noise = drawn((20, 8))
    teacher = student + 1e-4 * noise
    by_features = cka_by_features(student, teacher)
    assert 0 < by_features < 1e-7
    assert said(cka, student, teacher) == pytest.approx(by_features, rel=0.01)


# Degenerate cases


MAKES: dict[str, Callable[[tuple[int, ...]], torch.Tensor]] = {
    "zeros": torch.zeros,
    "a constant": lambda shape: torch.full(shape, 0.3),
    "a large constant": lambda shape: torch.full(shape, 1234.567),
    "the same samples": lambda shape: random(shape)[:1].repeat(shape[0], *[1] * (len(shape) - 1)),
    "twins": lambda shape: random(shape)[: (shape[0] + 1) // 2].repeat_interleave(2, 0)[: shape[0]],
    "twins but for rounding": lambda shape: MAKES["twins"](shape) * (1 + 1e-7 * random(shape, 2)),
    "random": lambda shape: random(shape),
}


def random(shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def loss_and_gradient(
    name: str, student: torch.Tensor, teacher: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    student = student.clone().requires_grad_()
    loss = measure_of(name, student.shape[1])(student, teacher)
    loss.backward()
    return loss.detach(), student.grad


@pytest.mark.parametrize("n", [1, 2, 5, 11])
@pytest.mark.parametrize("kind", MAKES)
@pytest.mark.parametrize("name", PAIRWISE)
def test_every_degenerate_student_and_teacher_has_a_finite_loss_and_a_bounded_gradient(
    name: str, kind: str, n: int
) -> None:
    """Bounded as well: 1 / epsilon is finite and ruins a student all the same."""
    shapes = [(n, 4, 3, 3)] if DISTANCES[name].needs == "grid" else [(n, 4), (n, 4, 3, 3)]
    for shape in shapes:
        degenerate, other = MAKES[kind](shape), random(shape, seed=1)
        for student, teacher in (
            (degenerate, other), (other, degenerate), (degenerate, degenerate),
        ):  # fmt: skip
            loss, gradient = loss_and_gradient(name, student, teacher)
            assert torch.isfinite(loss)
            assert torch.isfinite(gradient).all()
            assert gradient.abs().max() < 100 * max(1, degenerate.abs().max() / 100)


@pytest.mark.parametrize("n", [1, 2, 5])
@pytest.mark.parametrize("kind", MAKES)
@pytest.mark.parametrize("name", sorted(set(PAIRWISE) - {"vid"}))
def test_a_student_that_equals_its_teacher_has_no_loss(name: str, kind: str, n: int) -> None:
    features = MAKES[kind]((n, 4, 3, 3))
    loss, gradient = loss_and_gradient(name, features, features.clone())
    assert loss.item() == pytest.approx(0, abs=2e-6)
    assert gradient.abs().max() < 1e-5


@pytest.mark.parametrize("name", BETWEEN_SAMPLES)
def test_one_sample_has_nothing_to_be_compared_with(name: str) -> None:
    loss, gradient = loss_and_gradient(name, random((1, 4)), random((1, 6), seed=1))
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert gradient.abs().max() < 1e-6


@pytest.mark.parametrize("name", PAIRWISE)
def test_no_number_is_not_taken_for_a_small_one(name: str) -> None:
    """A student that has diverged must be told so, not be called equal to its teacher."""
    student = random((3, 4, 2, 2))
    student[1, 2] = torch.nan
    loss, _ = loss_and_gradient(name, student, random((3, 4, 2, 2), seed=1))
    assert torch.isnan(loss)


@pytest.mark.parametrize("name", PAIRWISE)
def test_following_the_gradient_brings_the_student_closer(name: str) -> None:
    shape = (6, 4, 3, 3)
    student, teacher = random(shape).requires_grad_(), random(shape, seed=1)
    measure = measure_of(name, 4)
    optimizer = torch.optim.Adam([student], lr=0.03)
    losses = []
    for _ in range(60):
        loss = measure(student, teacher)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < losses[0] / 2


# The registry


def test_every_distance_that_params_allow_is_there() -> None:
    allowed = get_args(blocks.Probe.model_fields["distance"].annotation)
    assert set(allowed) == set(DISTANCES)


def test_params_know_which_distances_compare_channels() -> None:
    compare_channels = {name for name, chosen in DISTANCES.items() if chosen.needs == "channels"}
    assert set(get_args(blocks.ChannelDistance)) == compare_channels
    assert set(get_args(blocks.OtherDistance)) == DISTANCES.keys() - compare_channels
