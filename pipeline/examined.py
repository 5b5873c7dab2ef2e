"""Networks as `mentee examine` asks them: plain images in, answers and pooled features out."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from pipeline.compute import Compute
from pipeline.students import Student
from pipeline.training import predict_features, predict_logits


class Examined(Protocol):
    """Both take images uint8 `(n, H, W, 3)` as they are stored."""

    def answer(self, images: np.ndarray) -> np.ndarray:
        """Which class each image is of: int64 `(n,)`."""

    def features(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """What the taps put out, averaged over all places: float32 `(n, C)` by tap."""


@dataclass(frozen=True)
class ExaminedStudent:
    """A student, asked on plain images."""

    student: Student
    compute: Compute

    def answer(self, images: np.ndarray) -> np.ndarray:
        return predict_logits(self.student, images, self.compute).argmax(1)

    def features(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """The taps by depth."""
        taps = self.student.depth_taps()
        found = predict_features(self.student, images, taps, self.compute, keep=averaged)
        return {tap: values.cpu().numpy() for tap, values in found.items()}


def averaged(features: torch.Tensor) -> torch.Tensor:
    """`(n, C)` as they are, maps `(n, C, h, w)` over all places: float32 `(n, C)`."""
    return features.float().flatten(2).mean(2) if features.dim() == 4 else features.float()
