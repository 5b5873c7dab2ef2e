"""One student trained by several ranks: each sees its share of a batch, all the loss of the whole.

A loss over a batch is no mean of losses over its parts: a root of a mean is not, what compares
samples with one another is not, nor is batch normalisation. So student's and teacher's answers are
put together before they are compared, with their gradients, and statistics are those of all ranks.
Every distance then stays a plain function of a batch, and gives what it gives in one process.

Each rank's copy of the loss flows back to the parameters of all, so that the sum of their gradients
is count times the gradient: DistributedDataParallel takes the mean.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.overrides import TorchFunctionMode

from pipeline.errors import MenteeError
from pipeline.mentoring.objective import Batch, Objective
from pipeline.ranks import Ranks, placed
from pipeline.students import Student


class Lesson(nn.Module):
    """The terms of a batch's loss, of which this rank has its share."""

    def __init__(
        self, student: Student, objective: Objective, features: Mapping[str, torch.Tensor],
        ranks: Ranks,
    ):  # fmt: skip
        """features: where the student's appear, by tap, whenever it has run."""
        super().__init__()
        self.student, self.objective = student, objective
        self.features, self.ranks = features, ranks

    def forward(self, batch: Batch, t: float) -> dict[str, torch.Tensor]:
        """Every weighed term at t, 0 .. 1, of the whole batch; `batch` is this rank's share."""
        if self.ranks.count == 1:
            return self.objective(batch, self.student(batch.pictures), self.features, t)
        with StatisticsOfAll(self.ranks):
            logits = self.student(batch.pictures)
        total, _ = batch.of_all
        features = {tap: whole(self.features[tap], total, self.ranks) for tap in self.features}
        logits = whole(logits, total, self.ranks)
        return self.objective(whole_batch(batch, self.ranks), logits, features, t)


def parallel(lesson: Lesson) -> nn.Module:
    """`lesson`, whose gradients are those of all ranks."""
    if lesson.ranks.count == 1:
        return lesson
    return DistributedDataParallel(lesson, find_unused_parameters=may_leave_out(lesson))


def may_leave_out(lesson: Lesson) -> bool:
    """Whether some parameters may have no gradient at a step, which costs a search at every step.

    So it is where a mode turns a term off, and perhaps in a library's network.
    """
    mode, card = lesson.objective.mode, lesson.student.card
    alpha, beta, gamma = (
        all(value > 0 for _, value in knots) for knots in (mode.alpha, mode.beta, mode.gamma)
    )
    probes_all = beta or not lesson.objective.pairs
    return ":" in card.model or not ((alpha or gamma) and probes_all)


def refuse_too_many(ranks: Ranks, batch_size: int, validation_images: int) -> None:
    """Every rank needs a row of every batch."""
    for count, what in (
        (batch_size, "training.batch_size"), (validation_images, "data.validation"),
    ):  # fmt: skip
        if count < ranks.count:
            raise MenteeError(
                f"{what}: {count} is too few for {ranks.count} processes: start at most {count}"
            )


class SumOverRanks(torch.autograd.Function):
    """The sum of all ranks' tensors, whose gradient is the sum of theirs."""

    @staticmethod
    def forward(context: Any, tensor: torch.Tensor) -> torch.Tensor:
        total = tensor.contiguous().clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> torch.Tensor:
        return SumOverRanks.forward(context, gradient)


def whole(share: torch.Tensor, total: int, ranks: Ranks) -> torch.Tensor:
    """`Ranks.whole` with gradient."""
    return SumOverRanks.apply(placed(share, total, ranks))


def whole_batch(batch: Batch, ranks: Ranks) -> Batch:
    """What all ranks were told; their pictures stay where they are."""
    total, labelled = batch.of_all
    return replace(
        batch,
        labels=ranks.whole(batch.labels, labelled),
        logits=None if batch.logits is None else ranks.whole(batch.logits, total),
        features={tap: ranks.whole(told, total) for tap, told in batch.features.items()},
    )


class StatisticsOfAll(TorchFunctionMode):
    """Within it, batch normalisation that trains takes the statistics of all ranks' samples.

    torch's SyncBatchNorm does so on a GPU only, and as a module of its own in place of BatchNorm,
    which loses what a library's own kind of BatchNorm does besides.
    """

    def __init__(self, ranks: Ranks):
        super().__init__()
        self._ranks = ranks

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # fmt: skip
        if function is F.batch_norm:
            return batch_norm(self._ranks, *args, **(kwargs or {}))
        return function(*args, **(kwargs or {}))


def batch_norm(
    ranks: Ranks, input: torch.Tensor, running_mean: torch.Tensor | None,
    running_var: torch.Tensor | None, weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None, training: bool = False, momentum: float = 0.1,
    eps: float = 1e-5,
) -> torch.Tensor:  # fmt: skip
    """torch.nn.functional.batch_norm of all ranks' samples `(n, C, ...)` together.

    Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample
    variances", 1979, joins the ranks' statistics.
    """
    if not training:
        return F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
    values = input.float()
    shape = (1, -1, *[1] * (input.dim() - 2))
    over = (0, *range(2, input.dim()))
    variance, mean = torch.var_mean(values, over, correction=0)
    number = torch.full_like(mean, input.numel() / input.shape[1])
    own = torch.stack([number, mean, variance])[None]
    numbers, means, variances = whole(own, ranks.count, ranks).unbind(1)
    number = numbers.sum(0)
    shares = numbers / number
    mean = (shares * means).sum(0)
    variance = (shares * (variances + (means - mean).square())).sum(0)
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            running_mean.lerp_(mean, momentum)
            running_var.lerp_(variance * (number / (number - 1)), momentum)
    scale = (variance + eps).rsqrt()
    shift = -mean * scale
    if weight is not None:
        scale, shift = scale * weight, shift * weight
    if bias is not None:
        shift = shift + bias
    return (values * scale.view(shape) + shift.view(shape)).to(input.dtype)
