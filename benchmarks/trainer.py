"""torchdistill's trainer on the networks and pictures of our own loop: see `epochs`.

It gets what suits it: pictures at the teacher's size that are made beforehand, soft targets and
labels but no features, the teacher's answers and the student's steps in the precision of ours.
"""

import logging
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from clock import seconds_of
from torch import nn
from torch.utils.data import Dataset

from pipeline.compute import to_device
from pipeline.params import Params
from pipeline.runs import Run


class Pictures(Dataset):
    """What torchdistill's trainer reads: pictures at the teacher's size, made beforehand."""

    def __init__(self, lessons: Any):
        rows = np.arange(len(lessons.split))
        self.pictures = lessons.shown(rows, np.zeros_like(rows), lessons.teacher.input_size)
        self.labels = to_device(lessons.split.labels, lessons.device)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.pictures[index], self.labels[index]


class FullTeacher(nn.Module):
    """The teacher's network and the linear head, from uint8 pictures to the task's logits."""

    def __init__(self, lessons: Any):
        super().__init__()
        self.lessons, self.network = lessons, lessons.teacher.network

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        answers = self.lessons.teacher.answer(pictures)
        return F.linear(answers.features["pooled"].clone(), self.lessons.head)


class ShrinkingStudent(nn.Module):
    """The student, which takes the teacher's pictures and halves them to its own size."""

    def __init__(self, run: Run):
        super().__init__()
        self.student, self.compute = run.student, run.compute

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        size = self.student.card.input_size
        shrunk = F.interpolate(pictures.float(), [size, size], mode="area")
        with self.compute.autocast():
            return self.student(shrunk).float()


def torchdistill_box(taught: Run, params: Params) -> Any:
    """Its trainer, for `taught` whose lessons ask the teacher; None where it is not installed."""
    try:
        from torchdistill.core.distillation import get_distillation_box
    except ImportError:
        return None
    logging.disable(logging.INFO)  # it prints every network and loss
    (online,) = taught.lessons
    loss = {"key": "KDLoss", "kwargs": {
        "student_module_path": ".", "student_module_io": "output",
        "teacher_module_path": ".", "teacher_module_io": "output",
        "temperature": params.soft_targets.temperature, "alpha": 0.5, "reduction": "batchmean",
    }}  # fmt: skip
    config = {
        "num_epochs": 1,
        "train_data_loader": {
            "dataset_id": "train", "sampler": {"class_or_func": torch.utils.data.RandomSampler},
            "kwargs": {"batch_size": params.training.batch_size, "num_workers": 0},
        },
        "teacher": {"requires_grad": False, "forward_proc": "forward_batch_only"},
        "student": {"requires_grad": True, "forward_proc": "forward_batch_only"},
        "optimizer": {"key": "AdamW", "kwargs": {"lr": params.training.learning_rate}},
        "criterion": {"key": "WeightedSumLoss", "kwargs": {"sub_terms": {
            "kd": {"criterion": loss, "weight": 1.0}}}},
    }  # fmt: skip
    return get_distillation_box(
        FullTeacher(online), ShrinkingStudent(taught), {"train": Pictures(online)}, config,
        taught.compute.device, None, False, 1.0,
    )  # fmt: skip


def torchdistill_seconds(box: Any, device: torch.device) -> float:
    def epoch() -> None:
        box.pre_epoch_process(epoch=0)
        for pictures, labels, *_ in box.train_data_loader:
            box.pre_forward_process()
            box.post_forward_process(loss=box.forward_process(pictures, labels, None))
        box.post_epoch_process()

    return seconds_of(epoch, device)
