"""What keeps a student from learning its few labels by heart, besides a teacher.

Dropout is a part of the network, label smoothing and weight penalties of the objective.
"""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from pipeline.blocks import Settings
from pipeline.mentoring.objective import Batch


def weights_of(network: nn.Module) -> list[torch.Tensor]:
    """What l1 and l2 penalise: matrices and kernels, neither biases nor normalisation."""
    return [parameter for parameter in network.parameters() if parameter.dim() > 1]


def mixing(settings: Settings, classes: int) -> Callable[[Batch], Batch] | None:
    """How the pictures of a lone student's batch are mixed with one another, if they are.

    mixup (Zhang et al. 2018) blends two, cutmix (Yun et al. 2019) pastes a part of one into the
    other; the share is drawn from Beta(a, a), where a is the setting, by torch's generator. With
    both, each batch takes one of them.
    """
    if not settings.mixes:
        return None
    from torchvision.transforms import v2  # most students are not mixed, and it loads slowly

    kinds = {v2.MixUp: settings.mixup, v2.CutMix: settings.cutmix}
    mix = v2.RandomChoice([kind(alpha=a, num_classes=classes) for kind, a in kinds.items() if a])

    def mixed(batch: Batch) -> Batch:
        pictures, labels = mix(batch.pictures.float(), batch.labels)
        return replace(batch, pictures=pictures, labels=labels)

    return mixed


class EarlyStopping:
    """Keeps the weights that validation liked best, and says when better ones are late."""

    def __init__(self, patience: int):
        """patience: so many looks at validation without a better accuracy end the training."""
        self.patience = patience
        self.best, self.waited = -1.0, 0
        self.weights: dict[str, torch.Tensor] = {}

    @property
    def is_over(self) -> bool:
        """Whether better weights are late."""
        return self.waited >= self.patience

    def look(self, network: nn.Module, accuracy: float) -> None:
        """Keep a copy of the weights if validation's accuracy, 0 .. 1, is the best so far."""
        if accuracy <= self.best:
            self.waited += 1
            return
        self.best, self.waited = accuracy, 0
        self.weights = deepcopy(network.state_dict())

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "waited": self.waited, "weights": self.weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best, self.waited, self.weights = state["best"], state["waited"], state["weights"]
