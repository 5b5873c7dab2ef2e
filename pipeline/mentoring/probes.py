"""Probes: pairs of a teacher tap and a student tap, made comparable and compared.

Features are `(n, C)` or `(n, C, h, w)`. What is made comparable is up to the distance: where it
compares places, both are averaged to the smaller of the two grids; where it compares channels too,
the student's are matched to the teacher's.
"""

from collections.abc import Callable, Sequence
from math import prod

import torch
import torch.nn.functional as F
from torch import nn

from pipeline.errors import MenteeError
from pipeline.mentoring.distances import DISTANCES


class Projection(nn.Module):
    """A learned 1x1 projection of the student's channels to the teacher's (FitNets, 2015).

    It is trained with the student and thrown away afterwards.
    """

    def __init__(self, student_channels: int, teacher_channels: int):
        super().__init__()
        self.channels = teacher_channels
        self.weight = nn.Parameter(torch.empty(teacher_channels, student_channels))
        self.bias = nn.Parameter(torch.zeros(teacher_channels))
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)

    def forward(
        self, student: torch.Tensor, teacher: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return project(student, self.weight, self.bias), teacher


class RandomProjection(nn.Module):
    """A fixed 1x1 projection of the student's channels to the teacher's, the same in every run.

    Its rows or columns, whichever are fewer, are orthonormal. It learns nothing, so that all of
    the match is left to the student.
    """

    weight: torch.Tensor

    def __init__(self, student_channels: int, teacher_channels: int):
        super().__init__()
        self.channels = teacher_channels
        weight = torch.empty(teacher_channels, student_channels)
        nn.init.orthogonal_(weight, generator=torch.Generator().manual_seed(0))
        self.register_buffer("weight", weight)

    def forward(
        self, student: torch.Tensor, teacher: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return project(student, self.weight, None), teacher


class FirstChannels(nn.Module):
    """The paper's cut: both keep as many channels as the narrower has (Venkatesan and Li, 2016)."""

    def __init__(self, student_channels: int, teacher_channels: int):
        super().__init__()
        self.channels = min(student_channels, teacher_channels)

    def forward(
        self, student: torch.Tensor, teacher: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return first(student, self.channels), first(teacher, self.channels)


class Unmatched(nn.Module):
    """Both as they are, for distances that compare no channels."""

    def __init__(self, student_channels: int, teacher_channels: int):
        super().__init__()

    def forward(
        self, student: torch.Tensor, teacher: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return student, teacher


MATCHES = {
    "projection": Projection,
    "first_channels": FirstChannels,
    "random_projection": RandomProjection,
    "none": Unmatched,
}


class Probe(nn.Module):
    """The distance between the features at a teacher tap and those at a student tap.

    student_shape, teacher_shape: the shapes of one row, `(C,)` or `(C, h, w)`; mean and std: the
    teacher's statistics for every channel, `(C,)`. They standardise the teacher's features where
    channels are compared; the other distances, in their papers, see the features as they are.
    """

    measure: Callable[..., torch.Tensor]
    scale: torch.Tensor
    shift: torch.Tensor

    def __init__(
        self, distance: str, match: str, student_shape: Sequence[int],
        teacher_shape: Sequence[int], mean: torch.Tensor, std: torch.Tensor,
    ):  # fmt: skip
        super().__init__()
        chosen = DISTANCES[distance]
        self.needs = chosen.needs
        if self.needs == "grid":
            refuse_one_place(distance, student_shape, teacher_shape)
        self.match = MATCHES[match](student_shape[0], teacher_shape[0])
        if self.needs == "negatives":
            self.measure = chosen.measure(prod(student_shape), prod(teacher_shape))
        else:
            learns = isinstance(chosen.measure, type)
            self.measure = chosen.measure(self.match.channels) if learns else chosen.measure
        for_places = (-1, *[1] * (len(teacher_shape) - 1))
        self.register_buffer("scale", (1 / std).view(for_places))
        self.register_buffer("shift", (-mean / std).view(for_places))

    def forward(
        self, student: torch.Tensor, teacher: torch.Tensor, negatives: torch.Tensor | None = None,
        are_others: torch.Tensor | None = None,
    ) -> torch.Tensor:  # fmt: skip
        """negatives and are_others: see `Batch`; only a distance that needs them reads them."""
        teacher = teacher.float()
        if self.needs == "channels":
            # The student's maps lie in memory channels last; a difference to others is slow.
            if teacher.dim() == 4:
                teacher = teacher.contiguous(memory_format=torch.channels_last)
            teacher = torch.addcmul(self.shift, teacher, self.scale)  # in one pass
        if self.needs in ("channels", "grid"):
            student, teacher = same_grid(student, teacher)
        student, teacher = self.match(student, teacher)
        # A distance's own matrix products would otherwise fall back to the half precision of
        # training, in which distances of close samples cancel.
        with torch.autocast(student.device.type, enabled=False):
            if negatives is not None and self.needs == "negatives":
                return self.measure(student.float(), teacher, negatives.float(), are_others)
            return self.measure(student.float(), teacher)


def first(features: torch.Tensor, channels: int) -> torch.Tensor:
    if features.dim() == 2:
        return features[:, :channels]
    # Cut where they come last: so does the gradient, which the student's is added to.
    return features.permute(0, 2, 3, 1)[..., :channels].permute(0, 3, 1, 2)


def project(
    features: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """Channels times `weight` `(out, in)`, at every place."""
    if features.dim() == 2:
        return F.linear(features, weight, bias)
    # A 1x1 convolution, by one matrix product: on a CPU that takes half of the time.
    return F.linear(features.permute(0, 2, 3, 1), weight, bias).permute(0, 3, 1, 2)


def same_grid(student: torch.Tensor, teacher: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Average maps to the smaller of two grids; a pooled side pools the other."""
    if student.dim() == teacher.dim() == 2:
        return student, teacher
    if student.dim() == 2:
        return student, teacher.mean((2, 3))
    if teacher.dim() == 2:
        return student.mean((2, 3)), teacher
    grid = (
        min(student.shape[2], teacher.shape[2]),
        min(student.shape[3], teacher.shape[3]),
    )
    return averaged(student, grid), averaged(teacher, grid)


def averaged(features: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    if features.shape[2:] == grid:
        return features
    return F.adaptive_avg_pool2d(features, grid)


def refuse_one_place(
    distance: str, student_shape: Sequence[int], teacher_shape: Sequence[int]
) -> None:
    """A distance between places needs several on either side."""
    for whose, shape in (("teacher's", teacher_shape), ("student's", student_shape)):
        if tuple(shape[1:]) in ((), (1, 1)):
            raise MenteeError(
                f"probes: {distance} compares places, the {whose} features {tuple(shape)} have "
                f"one: name taps that keep a map (teacher.taps: grid above 1), or take another "
                f"distance"
            )
