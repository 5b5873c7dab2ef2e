"""Probes: pairs of a teacher tap and a student tap, made comparable.

Features are `(n, C)` or `(n, C, h, w)`. Where the maps differ in size both are averaged to the
smaller grid; where the channels differ, the student's are projected or both are cut.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from pipeline.mentoring.losses import rmse


class Projection(nn.Module):
    """A learned 1x1 projection of the student's channels to the teacher's (FitNets, 2015).

    It is trained with the student and thrown away afterwards.
    """

    def __init__(self, student_channels: int, teacher_channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(teacher_channels, student_channels))
        self.bias = nn.Parameter(torch.zeros(teacher_channels))
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)

    def forward(
        self, student: torch.Tensor, teacher: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if student.dim() == 2:
            return F.linear(student, self.weight, self.bias), teacher
        return F.conv2d(student, self.weight[:, :, None, None], self.bias), teacher


class FirstChannels(nn.Module):
    """The paper's cut: both keep as many channels as the narrower has (Venkatesan and Li, 2016)."""

    def __init__(self, student_channels: int, teacher_channels: int):
        super().__init__()
        self.channels = min(student_channels, teacher_channels)

    def forward(
        self, student: torch.Tensor, teacher: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return student[:, : self.channels], teacher[:, : self.channels]


MATCHES = {"projection": Projection, "first_channels": FirstChannels}


class Probe(nn.Module):
    """The RMSE between standardised teacher features and matched student features.

    student_shape, teacher_shape: the shapes of one row, `(C,)` or `(C, h, w)`; mean and std: the
    teacher's statistics for every channel, `(C,)`.
    """

    def __init__(
        self, match: str, student_shape: Sequence[int], teacher_shape: Sequence[int],
        mean: torch.Tensor, std: torch.Tensor,
    ):  # fmt: skip
        super().__init__()
        self.match = MATCHES[match](student_shape[0], teacher_shape[0])
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def forward(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        shape = (-1, *[1] * (teacher.dim() - 2))
        teacher = (teacher.float() - self.mean.view(shape)) / self.std.view(shape)
        student, teacher = self.match(*same_grid(student, teacher))
        return rmse(student.float(), teacher)


def same_grid(student: torch.Tensor, teacher: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Average maps to the smaller of two grids; a pooled side pools the other."""
    if student.dim() == teacher.dim() == 2:
        return student, teacher
    if student.dim() == 2:
        return student, teacher.mean((2, 3))
    if teacher.dim() == 2:
        return student.mean((2, 3)), teacher
    grid = [min(a, b) for a, b in zip(student.shape[2:], teacher.shape[2:], strict=True)]
    return F.adaptive_avg_pool2d(student, grid), F.adaptive_avg_pool2d(teacher, grid)
