"""Penalties on a student's weights: tensors in, a number out."""

from collections.abc import Iterable

import torch


def l1_penalty(weights: Iterable[torch.Tensor]) -> torch.Tensor:
    """The sum of all weights' absolute values."""
    return torch.stack([weight.abs().sum() for weight in weights]).sum()


def l2_penalty(weights: Iterable[torch.Tensor]) -> torch.Tensor:
    """The sum of all weights' squares."""
    return torch.stack([weight.square().sum() for weight in weights]).sum()
