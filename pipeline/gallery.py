"""What the report shows of a student: where it differs from its teacher, and what it sees."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.special import softmax
from torch import nn

from pipeline.prepared import Split
from pipeline.students import Student

SHOWN = 12  # disagreements
DIGITS = 3  # of what is drawn: more would only make the file large


def disagreements(split: Split, student: np.ndarray, teacher: np.ndarray) -> list[dict[str, Any]]:
    """Where the two answer otherwise, the surest first: sure is what the less sure one is.

    student, teacher: logits `(n, classes)`. Each entry has the row in the split, the label, and
    the answer and probability of both.
    """
    chances = {"student": softmax(student, axis=1), "teacher": softmax(teacher, axis=1)}
    apart = np.flatnonzero(student.argmax(1) != teacher.argmax(1))
    sure = np.minimum(*(chance[apart].max(1) for chance in chances.values()))
    rows = apart[np.argsort(-sure, kind="stable")[:SHOWN]]
    names = split.class_names
    return [
        {
            "row": int(row),
            "label": names[split.labels[row]],
            **{
                who: [names[chance[row].argmax()], round(float(chance[row].max()), DIGITS)]
                for who, chance in chances.items()
            },
        }
        for row in rows
    ]


def attention(maps: torch.Tensor) -> list[list[list[float]]]:
    """sqrt(mean over channels of x^2), each map's largest value 1: `(n, C, h, w)` -> n maps."""
    looks = maps.float().square().mean(1).sqrt()
    looks /= looks.amax((1, 2), keepdim=True).clamp_min(1e-12)
    return [[[round(x, DIGITS) for x in row] for row in look] for look in looks.tolist()]


def first_filters(student: Student) -> list[list[list[list[int]]]]:
    """The kernels of the first convolution of a picture as small RGB pictures, if there is one.

    Their pixels are 0 .. 255, 128 where a kernel is 0.
    """
    seeing = [
        module.weight.detach()
        for module in student.network.modules()
        if isinstance(module, nn.Conv2d) and module.in_channels == 3
    ]
    if not seeing:  # TResNet folds the picture into channels first
        return []
    kernels = seeing[0]
    scaled = kernels / kernels.abs().amax((1, 2, 3), keepdim=True).clamp_min(1e-12)
    return (128 + 127 * scaled).round().int().permute(0, 2, 3, 1).tolist()


def to_grid(maps: torch.Tensor, largest: int) -> torch.Tensor:
    """Averages over a grid of at most `largest` x `largest`; `(n, C)` stays as it is."""
    if maps.dim() == 2:
        return maps.float()
    height, width = (min(largest, side) for side in maps.shape[2:])
    return F.adaptive_avg_pool2d(maps.float(), (height, width))
