"""An epoch from the cache against the same epoch with the teacher in the loop."""

from collections.abc import Callable
from contextlib import chdir
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from clock import seconds_of
from rows import Row, ratios, row
from teaching import (
    Times,
    bare_seconds,
    fit_seconds,
    set_up_project,
    take_turns,
)
from trainer import torchdistill_box, torchdistill_seconds

from pipeline.compute import choose_compute, to_device
from pipeline.lessons import Lessons
from pipeline.mentoring.objective import Batch
from pipeline.mixtures import Mixture
from pipeline.params import Params
from pipeline.runs import Run, set_up
from pipeline.teachers import Answers, Teacher, load_teacher
from pipeline.variants import Variant
from pipeline.views_ahead import BATCH_SIZE

ROUNDS = 5


def epochs(folder: Path, scale: float = 1.0) -> list[Row]:
    """Every labelled image once: read from the cache, or with the teacher asked at every step.

    An epoch with the teacher in the loop can be (teacher + student) / student times as long as one
    without, and no longer where reading the cache costs nothing: that is the limit.
    """
    with chdir(folder):
        params = set_up_project(scale)
        run = set_up(params, Variant("obedient", "plain", 0))
        teacher = load_teacher(params.teacher, choose_compute(params.runtime))
        (lessons,) = run.lessons
        steps = max(len(lessons.split) // params.training.batch_size, 2)
        taught = with_teacher(run, teacher, params)
        works: dict[str, Callable[[], float]] = {
            "cache": lambda: fit_seconds(run, params, steps),
            "student": lambda: bare_seconds(run, params, steps),
            "teacher": lambda: answering_seconds(taught, steps, params),
            "ours": lambda: fit_seconds(taught, params, steps),
        }
        if box := torchdistill_box(taught, params):
            works["torchdistill"] = lambda: torchdistill_seconds(box, run.compute.device)
        times = take_turns(works, ROUNDS if scale == 1 else 1)
    where = run.compute.device.type.upper()
    made = [against_limit(times, "ours", f"our own loop, {where}")]
    if box:
        made.append(against_limit(times, "torchdistill", f"torchdistill's trainer, {where}"))
    return made


def against_limit(times: Times, name: str, what: str) -> Row:
    """What the cache saves, as a share of what it could save at most."""
    limits = [
        (teacher + student) / student
        for teacher, student in zip(times["teacher"], times["student"], strict=True)
    ]
    saved = ratios(times[name], times["cache"])
    online, offline, limit, ratio = (sorted(values)[len(values) // 2] for values in
                                     (times[name], times["cache"], limits, saved))  # fmt: skip
    return row(
        f"an epoch with the teacher in the loop against one from the cache, of the limit: {what}",
        ratios(saved, limits),
        f"{online:.2f} s against {offline:.2f} s: {ratio:.1f} times as long, the limit {limit:.1f}",
        target=0.95,
    )


class OnlineLessons(Lessons):
    """The same views, but the teacher is asked when a batch is made."""

    def __init__(self, cached: Lessons, teacher: Teacher, classes: int):
        self.teacher = teacher
        self.split, self.views = cached.split, cached.views
        self.images, self.regions = cached.images, cached.regions
        self.input_size, self.device = cached.input_size, cached.device
        generator = torch.Generator().manual_seed(0)
        pictures = self.shown(np.zeros(1, int), np.zeros(1, int), teacher.input_size)
        channels = teacher.answer(pictures).features
        self.head = torch.randn(classes, channels["pooled"].shape[1], generator=generator)
        self.head = self.head.to(self.device)

    def answered(self, rows: np.ndarray, views: np.ndarray) -> Answers:
        """Of as many at a time as a dump asks for."""
        pictures = self.shown(rows, views, self.teacher.input_size)
        parts = [self.teacher.answer(part) for part in pictures.split(BATCH_SIZE)]
        features = {tap: torch.cat([part.features[tap] for part in parts]).clone()
                    for tap in parts[0].features}  # fmt: skip
        return Answers(F.linear(features["pooled"], self.head), features)

    def batch(self, rows: np.ndarray, views: np.ndarray) -> Batch:
        answers = self.answered(rows, views)
        labels = to_device(self.split.labels[rows], self.device)
        pictures = self.shown(rows, views, self.input_size)
        return Batch(pictures, labels, answers.logits, answers.features)


def with_teacher(run: Run, teacher: Teacher, params: Params) -> Run:
    """The same student and objective, taught by the teacher itself."""
    (cached,) = run.lessons
    online = OnlineLessons(cached, teacher, len(cached.split.class_names))
    mixture = Mixture(online, None, [(0.0, 0.0)], params.training.batch_size, 0)
    return replace(run, mixture=mixture, lessons=[online])


def answering_seconds(taught: Run, steps: int, params: Params) -> float:
    """The teacher's part of an epoch: pictures at its size, and its answers."""
    (online,) = taught.lessons
    rows = np.arange(params.training.batch_size)
    views = np.arange(len(rows)) % online.views

    def answer() -> None:
        for _ in range(steps):
            online.answered(rows, views)

    return seconds_of(answer, taught.compute.device)
