"""Distances between what a teacher says and what a student says: tensors in, a number out."""

from collections.abc import Iterable

import torch
import torch.nn.functional as F


def kl_soft_targets(
    student: torch.Tensor, teacher: torch.Tensor, temperature: float
) -> torch.Tensor:
    """T^2 * KL(softmax(teacher / T) || softmax(student / T)), averaged over samples.

    Logits `(n, classes)` each. T^2 keeps the gradient's size as T changes. Hinton, Vinyals and
    Dean, "Distilling the knowledge in a neural network", 2015, section 2.
    """
    log_student = F.log_softmax(student / temperature, dim=1)
    log_teacher = F.log_softmax(teacher / temperature, dim=1)
    divergence = F.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True)
    return temperature**2 * divergence


def rmse_soft_targets(
    student: torch.Tensor, teacher: torch.Tensor, temperature: float
) -> torch.Tensor:
    """Root of the mean squared difference of the softmaxes at temperature T.

    Logits `(n, classes)` each; the mean is over samples and classes. Venkatesan and Li, 2016.
    """
    difference = F.softmax(student / temperature, dim=1) - F.softmax(teacher / temperature, dim=1)
    return root_mean_square(difference)


def rmse(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Root of the mean squared difference of two feature tensors `(n, ...)` of one shape.

    A probe's penalty in Venkatesan and Li, 2016.
    """
    return root_mean_square(student - teacher)


def root_mean_square(difference: torch.Tensor) -> torch.Tensor:
    """sqrt(mean(x^2)); the tiny floor keeps the gradient finite where all differences are 0."""
    return difference.square().mean().clamp_min(1e-12).sqrt()


def l1_penalty(weights: Iterable[torch.Tensor]) -> torch.Tensor:
    """The sum of all weights' absolute values."""
    return torch.stack([weight.abs().sum() for weight in weights]).sum()


def l2_penalty(weights: Iterable[torch.Tensor]) -> torch.Tensor:
    """The sum of all weights' squares."""
    return torch.stack([weight.square().sum() for weight in weights]).sum()


SOFT_TARGET_DISTANCES = {"kl": kl_soft_targets, "rmse": rmse_soft_targets}
