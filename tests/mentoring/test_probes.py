"""Probes: how features of different channels, grids and scales are made comparable."""

import math
from collections.abc import Sequence
from typing import get_args

import pytest
import torch
from projects import refusal

from pipeline.blocks import Probe as ProbeParams
from pipeline.mentoring.distances import DISTANCES, attention_transfer
from pipeline.mentoring.probes import MATCHES, Probe, same_grid


def probe(
    match: str, student_shape: Sequence[int], teacher_shape: Sequence[int],
    mean: Sequence[float] | None = None, std: Sequence[float] | None = None,
    distance: str = "rmse",
) -> Probe:  # fmt: skip
    """A probe whose teacher features are standard already, if nothing else is said."""
    channels = teacher_shape[0]
    return Probe(
        distance, match, student_shape, teacher_shape,
        torch.zeros(channels) if mean is None else torch.tensor(mean),
        torch.ones(channels) if std is None else torch.tensor(std),
    )  # fmt: skip


def set_projection(chosen: Probe, weight: list[list[float]], bias: list[float]) -> None:
    with torch.no_grad():
        chosen.match.weight.copy_(torch.tensor(weight))
        chosen.match.bias.copy_(torch.tensor(bias))


def test_a_projection_maps_the_students_channels_to_the_teachers() -> None:
    chosen = probe("projection", (2,), (1,))
    set_projection(chosen, [[2.0, -1.0]], [0.5])
    student = torch.tensor([[1.0, 2.0], [3.0, 4.0]])  # projected: 0.5 and 2.5
    teacher = torch.tensor([[1.5], [5.5]])
    by_hand = math.sqrt((1.0**2 + 3.0**2) / 2)
    assert chosen(student, teacher).item() == pytest.approx(by_hand, rel=1e-6)


def test_a_projection_of_maps_is_the_same_at_every_place() -> None:
    chosen = probe("projection", (2, 2, 2), (3, 2, 2))
    student = torch.randn(4, 2, 2, 2, generator=torch.Generator().manual_seed(0))
    expected = torch.empty(4, 3, 2, 2)
    for y in range(2):
        for x in range(2):
            expected[:, :, y, x] = student[:, :, y, x] @ chosen.match.weight.T + chosen.match.bias
    assert chosen(student, expected.detach()).item() == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("match", ["projection", "first_channels", "random_projection"])
def test_the_gradient_lies_in_memory_as_the_students_maps_do(match: str) -> None:
    """Else the layer below, where it is added to another, goes slowly through both."""
    chosen = probe(match, (6, 4, 4), (5, 4, 4))
    maps = torch.randn(3, 6, 4, 4).to(memory_format=torch.channels_last).requires_grad_()
    passed: list[torch.Tensor] = []
    features = maps * 1
    features.register_hook(passed.append)
    chosen(features, torch.randn(3, 5, 4, 4)).backward()
    assert passed[0].is_contiguous(memory_format=torch.channels_last)


def test_a_projection_starts_with_a_weight_for_every_pair_of_channels() -> None:
    chosen = probe("projection", (5,), (7,))
    assert sum(parameter.numel() for parameter in chosen.parameters()) == 7 * 5 + 7
    assert chosen.match.weight.unique().numel() == 35


@pytest.mark.parametrize("student_is_wider", [True, False])
def test_first_channels_cuts_the_wider_of_the_two(student_is_wider: bool) -> None:
    wide = torch.tensor([[1.0, 2.0, 100.0], [3.0, 4.0, -100.0]])
    narrow = torch.tensor([[2.0, 2.0], [3.0, 1.0]])  # differences 1, 0, 0, 3
    student, teacher = (wide, narrow) if student_is_wider else (narrow, wide)
    chosen = probe("first_channels", student.shape[1:], teacher.shape[1:])
    assert chosen(student, teacher).item() == pytest.approx(math.sqrt(10 / 4), rel=1e-6)
    assert not list(chosen.parameters()), "there is nothing to learn in a cut"


def test_the_teachers_features_are_standardised_channel_by_channel() -> None:
    chosen = probe("first_channels", (2,), (2,), mean=[1.0, -10.0], std=[2.0, 5.0])
    teacher = torch.tensor([[5.0, 0.0], [1.0, -15.0]])  # standardised: 2, 2; 0, -1
    student = torch.zeros(2, 2)
    by_hand = math.sqrt((2**2 + 2**2 + 0 + 1) / 4)
    assert chosen(student, teacher).item() == pytest.approx(by_hand, rel=1e-6)
    maps = teacher[:, :, None, None].expand(2, 2, 3, 3)
    chosen = probe("first_channels", (2, 3, 3), (2, 3, 3), mean=[1.0, -10.0], std=[2.0, 5.0])
    zeros = torch.zeros(2, 2, 3, 3)
    assert chosen(zeros, maps).item() == pytest.approx(by_hand, rel=1e-6)


def test_the_cut_channels_are_standardised_by_their_own_statistics() -> None:
    chosen = probe("first_channels", (1,), (3,), mean=[4.0, 50.0, 60.0], std=[2.0, 7.0, 8.0])
    teacher = torch.tensor([[10.0, 0.0, 0.0]])  # standardised: 3
    assert chosen(torch.tensor([[1.0]]), teacher).item() == pytest.approx(2.0, rel=1e-6)


def blocks(quarters: torch.Tensor) -> torch.Tensor:
    """Maps of twice the side, whose 2 x 2 blocks vary around the values in `quarters`."""
    wiggle = torch.tensor([[1.0, -1.0], [-3.0, 3.0]]).repeat(quarters.shape[2:])
    return quarters.repeat_interleave(2, 2).repeat_interleave(2, 3) + wiggle


def test_the_larger_of_two_grids_is_averaged_to_the_smaller() -> None:
    coarse = torch.arange(2 * 3 * 4 * 4, dtype=torch.float32).view(2, 3, 4, 4)
    fine = blocks(coarse)
    assert fine.shape == (2, 3, 8, 8)
    for student, teacher in ((fine, coarse), (coarse, fine)):
        a, b = same_grid(student, teacher)
        assert a.shape == b.shape == (2, 3, 4, 4)
        assert torch.allclose(a, coarse, atol=1e-5)
        assert torch.allclose(b, coarse, atol=1e-5)
        chosen = probe("first_channels", student.shape[1:], teacher.shape[1:])
        assert chosen(student, teacher + 2.0).item() == pytest.approx(2.0, rel=1e-5)


def test_each_side_of_a_grid_is_matched_by_itself() -> None:
    student, teacher = same_grid(torch.ones(1, 2, 4, 8), torch.ones(1, 2, 8, 4))
    assert student.shape == teacher.shape == (1, 2, 4, 4)


def test_a_grid_that_does_not_divide_the_other_is_matched_too() -> None:
    student, teacher = same_grid(torch.full((1, 1, 7, 7), 3.0), torch.zeros(1, 1, 5, 5))
    assert student.shape == teacher.shape == (1, 1, 5, 5)
    assert torch.allclose(student, torch.tensor(3.0))


def test_pooled_features_meet_the_average_of_maps() -> None:
    maps = torch.tensor([[[[1.0, 2.0], [3.0, 6.0]], [[0.0, 0.0], [0.0, 4.0]]]])
    pooled = torch.tensor([[3.0, 1.0]])  # of which the first is exact, the second too
    for student, teacher in ((maps, pooled), (pooled, maps)):
        a, b = same_grid(student, teacher)
        assert torch.equal(a, pooled)
        assert torch.equal(b, pooled)
        chosen = probe("first_channels", student.shape[1:], teacher.shape[1:])
        assert chosen(student, teacher).item() == pytest.approx(0, abs=2e-6)


COMPARES_CHANNELS = [name for name, chosen in DISTANCES.items() if chosen.needs == "channels"]
COMPARES_SAMPLES = [name for name, chosen in DISTANCES.items() if chosen.needs == "nothing"]
COMBINATIONS = [
    *((distance, match) for distance in COMPARES_CHANNELS for match in MATCHES if match != "none"),
    *((distance, "none") for distance in COMPARES_SAMPLES),
]


@pytest.mark.parametrize("student_shape", [(4,), (4, 3, 3)])
@pytest.mark.parametrize("teacher_shape", [(6,), (6, 2, 2)])
@pytest.mark.parametrize(("distance", "match"), COMBINATIONS)
def test_every_pair_of_shapes_gives_a_number_and_teaches_the_student(
    distance: str, match: str, student_shape: tuple[int, ...], teacher_shape: tuple[int, ...]
) -> None:
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(5, *student_shape, generator=generator, requires_grad=True)
    teacher = torch.randn(5, *teacher_shape, generator=generator).half()  # as caches keep them
    chosen = probe(match, student_shape, teacher_shape, distance=distance)
    loss = chosen(student, teacher)
    assert loss.shape == ()
    assert loss.dtype == torch.float32
    loss.backward()
    assert torch.isfinite(student.grad).all()
    assert student.grad.abs().sum() > 0
    for parameter in chosen.parameters():
        assert parameter.grad.abs().sum() > 0


def test_attention_is_compared_on_the_smaller_grid_without_a_match() -> None:
    student = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    teacher = torch.randn(2, 6, 2, 2, generator=torch.Generator().manual_seed(1))
    chosen = probe("none", (4, 4, 4), (6, 2, 2), distance="attention_transfer")
    pooled = student.unflatten(2, (2, 2)).unflatten(4, (2, 2)).mean((3, 5))
    assert chosen(student, teacher).item() == pytest.approx(
        attention_transfer(pooled, teacher).item(), rel=1e-5
    )


@pytest.mark.parametrize(
    ("student_shape", "teacher_shape", "whose"),
    [
        ((4, 4, 4), (6,), "teacher's features (6,)"),
        ((4,), (6, 2, 2), "student's features (4,)"),
        ((4, 1, 1), (6, 2, 2), "student's features (4, 1, 1)"),
    ],
)
def test_attention_to_a_single_place_is_refused(
    student_shape: tuple[int, ...], teacher_shape: tuple[int, ...], whose: str
) -> None:
    text = refusal(lambda: probe("none", student_shape, teacher_shape, None, None,
                                 "attention_transfer"))  # fmt: skip
    assert f"attention_transfer compares places, the {whose} have one" in text
    assert "grid above 1" in text


@pytest.mark.parametrize("distance", COMPARES_SAMPLES)
def test_distances_between_samples_see_the_features_as_they_are(distance: str) -> None:
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(5, 4, generator=generator)
    teacher = torch.randn(5, 3, 2, 2, generator=generator)
    chosen = probe("none", (4,), (3, 2, 2), [1.0, 2.0, 3.0], [4.0, 5.0, 6.0], distance)
    assert torch.equal(chosen(student, teacher), DISTANCES[distance].measure(student, teacher))


def test_a_random_projection_is_the_same_in_every_run_and_disturbs_no_other_draw() -> None:
    torch.manual_seed(3)
    undisturbed = torch.rand(1)
    torch.manual_seed(3)
    one = probe("random_projection", (5,), (7,)).match
    assert torch.equal(torch.rand(1), undisturbed)
    torch.manual_seed(4)
    assert torch.equal(one.weight, probe("random_projection", (5,), (7,)).match.weight)
    assert not list(one.parameters())
    assert "weight" in dict(one.named_buffers()), "it moves to the device with the probe"


@pytest.mark.parametrize(("student", "teacher"), [(5, 7), (7, 5), (4, 4)])
def test_a_random_projection_is_orthonormal_in_its_shorter_side(student: int, teacher: int) -> None:
    weight = probe("random_projection", (student,), (teacher,)).match.weight
    assert weight.shape == (teacher, student)
    gram = weight @ weight.T if teacher < student else weight.T @ weight
    assert torch.allclose(gram, torch.eye(min(student, teacher)), atol=1e-5)


def test_a_random_projection_maps_the_students_channels_at_every_place() -> None:
    chosen = probe("random_projection", (5, 2, 2), (3, 2, 2))
    student = torch.randn(4, 5, 2, 2, generator=torch.Generator().manual_seed(0))
    expected = torch.einsum("oi,niyx->noyx", chosen.match.weight, student)
    assert chosen(student, expected).item() == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize(
    ("match", "channels"), [("projection", 7), ("first_channels", 5), ("random_projection", 7)]
)
def test_vid_learns_a_variance_for_every_channel_that_is_compared(
    match: str, channels: int
) -> None:
    chosen = probe(match, (5,), (7,), distance="vid")
    assert chosen.measure.raw.shape == (channels,)
    assert chosen.measure.raw in set(chosen.parameters()), "it trains with the student"


@pytest.mark.parametrize(
    ("distance", "match"), [pair for pair in COMBINATIONS if pair[1] != "projection"]
)
def test_a_distance_is_taken_in_full_precision_where_training_is_not(
    distance: str, match: str
) -> None:
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(6, 8, generator=generator).bfloat16()
    teacher = torch.randn(6, 8, generator=generator)
    chosen = probe(match, (8,), (8,), distance=distance)
    if match == "random_projection":
        chosen.match.weight.copy_(torch.eye(8))  # exact in any precision
    with torch.autocast("cpu", torch.bfloat16):
        inside = chosen(student, teacher)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, chosen(student.float(), teacher))


def test_the_gradient_is_finite_where_features_are_equal() -> None:
    features = torch.tensor([[1.0, -2.0]], requires_grad=True)
    chosen = probe("first_channels", (2,), (2,))
    chosen(features, features.detach()).backward()
    assert torch.isfinite(features.grad).all()


def test_every_match_that_params_allow_is_there() -> None:
    allowed = get_args(ProbeParams.model_fields["match"].annotation)
    assert set(allowed) == set(MATCHES)
