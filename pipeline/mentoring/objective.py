"""The whole loss: labels, probes and soft targets, weighed by a mode.

loss = alpha(t) * cross_entropy(student, label)
     + beta(t)  * sum over probes of weight * the distance of their features
     + gamma(t) * distance of the logits at temperature T
     + l1 * sum of |w| + l2 * sum of w^2 over the student's weights
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import nn

from pipeline.blocks import Mode, Settings, SoftTargets
from pipeline.mentoring.losses import SOFT_TARGET_DISTANCES
from pipeline.mentoring.penalties import l1_penalty, l2_penalty
from pipeline.mentoring.schedules import value_at


@dataclass(frozen=True)
class Batch:
    """What a student is shown and told: n pictures, the first `len(labels)` of them labelled.

    pictures: `(n, 3, s, s)`, uint8 or, where they are mixed, float32 in 0 .. 255; labels: int64
    `(m,)`, m <= n, or float32 `(m, classes)`, the shares of what was mixed; logits: float32
    `(n, classes)` or None; features: `(n, C)` or `(n, C, h, w)` by teacher tap; negatives: k views
    drawn at random, `(k, C)` or `(k, C, h, w)` by the taps that are contrasted; are_others: bool
    `(n, k)`, False where a negative shows the sample of a picture.

    Where several ranks share a batch this may be one's share; of_all is then n and m of all shares
    together, and what concerns negatives is about all of them.
    """

    pictures: torch.Tensor
    labels: torch.Tensor
    logits: torch.Tensor | None = None
    features: dict[str, torch.Tensor] = field(default_factory=dict)
    negatives: dict[str, torch.Tensor] = field(default_factory=dict)
    are_others: torch.Tensor | None = None
    of_all: tuple[int, int] = (0, 0)


PLAIN = Settings()


@dataclass(frozen=True)
class Pair:
    """Which teacher tap a probe compares with which student tap, and what it counts for."""

    teacher: str
    student: str
    weight: float = 1.0


class Objective(nn.Module):
    """Weighs the terms; holds the probes, whose parameters train with the student."""

    def __init__(
        self, mode: Mode, soft_targets: SoftTargets, probes: list[tuple[Pair, nn.Module]],
        settings: Settings = PLAIN, weights: Sequence[torch.Tensor] = (),
    ):  # fmt: skip
        """weights: the student's, which settings may penalise."""
        super().__init__()
        self.mode, self.settings = mode, settings
        self.weights = list(weights)
        self.distance = SOFT_TARGET_DISTANCES[soft_targets.distance]
        self.temperature = soft_targets.temperature
        self.pairs = [pair for pair, _ in probes]
        self.names = term_names(self.pairs)
        self.probes = nn.ModuleList(probe for _, probe in probes)

    def forward(
        self, batch: Batch, logits: torch.Tensor, features: dict[str, torch.Tensor], t: float
    ) -> dict[str, torch.Tensor]:
        """Every weighed term by name, scalars; their sum is the loss. A weight of 0 has no term.

        logits: the student's, `(n, classes)`; features: the student's, by tap; t: 0 .. 1.
        """
        logits = logits.float()
        terms = {}
        if alpha := value_at(self.mode.alpha, t):
            labelled = logits[: len(batch.labels)]
            smoothing = self.settings.label_smoothing
            terms["labels"] = alpha * F.cross_entropy(
                labelled, batch.labels, label_smoothing=smoothing
            )
        if beta := value_at(self.mode.beta, t):
            for name, pair, probe in zip(self.names, self.pairs, self.probes, strict=True):
                distance = probe(
                    features[pair.student], batch.features[pair.teacher],
                    batch.negatives.get(pair.teacher), batch.are_others,
                )  # fmt: skip
                terms[name] = beta * pair.weight * distance
        if gamma := value_at(self.mode.gamma, t):
            distance = self.distance(logits, batch.logits, self.temperature, batch.labels)
            terms["soft targets"] = gamma * distance
        if self.settings.l1:
            terms["l1"] = self.settings.l1 * l1_penalty(self.weights)
        if self.settings.l2:
            terms["l2"] = self.settings.l2 * l2_penalty(self.weights)
        return terms


def term_names(pairs: Sequence[Pair]) -> list[str]:
    """A name for each probe's term; where two compare the same taps, the later ones are numbered.

    By one name only the last of them would count.
    """
    seen: Counter[str] = Counter()
    names = []
    for pair in pairs:
        name = f"probe {pair.teacher} {pair.student}"
        seen[name] += 1
        names.append(name if seen[name] == 1 else f"{name} {seen[name]}")
    return names
