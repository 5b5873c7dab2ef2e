"""The order in which a student sees its lessons: batches of labelled and unlabelled samples."""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from pipeline.compute import to_device
from pipeline.lessons import Lessons
from pipeline.mentoring.objective import Batch
from pipeline.mentoring.schedules import Knots, value_at
from pipeline.ranks import ALONE, Ranks

NEGATIVES = 1024  # views that a batch is contrasted with

Drawn = tuple[Lessons, np.ndarray, np.ndarray]  # of a split: rows and views, int64 `(n,)` each


class Shuffle:
    """Rows int64 `(n,)` in random order, again and again: every one as often as every other."""

    def __init__(self, rows: np.ndarray, generator: np.random.Generator):
        self.rows, self._generator = rows, generator
        self.left: np.ndarray = np.empty(0, dtype=np.int64)  # of the order that is being dealt

    def take(self, count: int) -> np.ndarray:
        """The next `count` rows, int64 `(count,)`; an order that is used up is drawn anew."""
        dealt = [self.left[:count]]
        self.left = self.left[count:]
        while missing := count - sum(map(len, dealt)):
            order = self._generator.permutation(self.rows)
            dealt.append(order[:missing])
            self.left = order[missing:]
        return np.concatenate(dealt)


class Mixture:
    """Batches of a fixed size: labelled samples first, then unlabelled ones, in random views.

    Where there are several ranks, each reads its share of the same batches.
    """

    def __init__(
        self, labelled: Lessons, unlabelled: Lessons | None, share: Knots, batch_size: int,
        seed: int, contrasted: Sequence[str] = (), ranks: Ranks = ALONE,
    ):  # fmt: skip
        """`share` of every batch is unlabelled, as it moves over training; one sample never is.

        contrasted: the taps of which every batch gets negatives too.
        """
        self.share, self.batch_size, self.contrasted = share, batch_size, contrasted
        self.ranks = ranks
        self._generator = np.random.default_rng(seed)
        self._lessons = [labelled, *([unlabelled] if unlabelled else [])]
        self._orders = [
            Shuffle(np.arange(len(part.split)), self._generator) for part in self._lessons
        ]
        # The samples are numbered through: the unlabelled ones follow the labelled ones.
        self._starts = [0, len(labelled.split)]

    def keep_to(self, rows: np.ndarray) -> None:
        """Of the labelled samples only these are shown; int64 `(n,)`."""
        self._orders[0] = Shuffle(rows, self._generator)

    def next(self, t: float) -> Batch:
        """The batch at the share t of training, 0 .. 1."""
        parts = self.draw(t)
        batches: list[Batch] = []
        before = 0
        for lessons, rows, views in parts:
            own = self.ranks.own(before)
            batches.append(lessons.batch(rows[own], views[own]))
            before += len(rows)
        batch = replace(joined(batches), of_all=(self.batch_size, len(parts[0][1])))
        return self._with_negatives(batch, parts) if self.contrasted else batch

    def draw(self, t: float) -> list[Drawn]:
        """What the batch at t shows of the labelled split, and of the unlabelled one if any."""
        wanted = round(value_at(self.share, t) * self.batch_size) if len(self._lessons) > 1 else 0
        from_unlabelled = min(wanted, self.batch_size - 1)
        counts = (self.batch_size - from_unlabelled, from_unlabelled)
        return [
            (lessons, order.take(count), self._generator.integers(lessons.views, size=count))
            for lessons, order, count in zip(self._lessons, self._orders, counts, strict=False)
            if count
        ]

    def _with_negatives(self, batch: Batch, parts: list[Drawn]) -> Batch:
        """Views of any samples for `batch`, which shows `parts`: the cache is the memory bank."""
        shown = [start + rows for (_, rows, _), start in zip(parts, self._starts, strict=False)]
        samples = np.concatenate(shown)
        total = sum(len(lessons.split) for lessons in self._lessons)
        drawn = np.sort(self._generator.integers(total, size=NEGATIVES))
        negatives: dict[str, list[torch.Tensor]] = {tap: [] for tap in self.contrasted}
        for lessons, start in zip(self._lessons, self._starts, strict=False):
            rows = drawn[(drawn >= start) & (drawn < start + len(lessons.split))] - start
            views = self._generator.integers(lessons.views, size=len(rows))
            kinds = [lessons.features[tap] for tap in self.contrasted]
            told = lessons.answers(kinds, rows, views)
            for tap, answers in zip(self.contrasted, told, strict=True):
                negatives[tap].append(answers)
        are_others = to_device(samples[:, None] != drawn, batch.pictures.device)
        return replace(
            batch, negatives={tap: torch.cat(told) for tap, told in negatives.items()},
            are_others=are_others,
        )  # fmt: skip

    def state_dict(self) -> dict[str, Any]:
        """Where in its random order it stands."""
        return {
            "generator": json.dumps(self._generator.bit_generator.state),
            "left": [torch.from_numpy(order.left) for order in self._orders],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._generator.bit_generator.state = json.loads(state["generator"])
        for order, left in zip(self._orders, state["left"], strict=True):
            order.left = left.numpy()


def next_of_all(mixtures: Sequence[Mixture], t: float) -> Batch:
    """The batches of mixtures of the same lessons at t, 0 .. 1: every tensor `(mixtures, n, ...)`.

    Each part of them is asked for at once. There are no negatives.
    """

    def of_each(told: torch.Tensor) -> torch.Tensor:
        return told.unflatten(0, (len(mixtures), -1))

    batches = []
    for parts in zip(*(mixture.draw(t) for mixture in mixtures), strict=True):
        lessons = parts[0][0]
        rows, views = (np.concatenate([part[place] for part in parts]) for place in (1, 2))
        batch = lessons.batch(rows, views)
        logits = None if batch.logits is None else of_each(batch.logits)
        features = {tap: of_each(told) for tap, told in batch.features.items()}
        batches.append(Batch(of_each(batch.pictures), of_each(batch.labels), logits, features))
    return joined(batches, dim=1)


def joined(batches: Sequence[Batch], dim: int = 0) -> Batch:
    """Labelled samples and unlabelled ones as one batch, along the dimension of samples."""
    if len(batches) == 1:
        return batches[0]
    labelled, unlabelled = batches
    logits = None
    if labelled.logits is not None and unlabelled.logits is not None:
        logits = torch.cat([labelled.logits, unlabelled.logits], dim)
    features = {
        tap: torch.cat([labelled.features[tap], unlabelled.features[tap]], dim)
        for tap in labelled.features
    }
    pictures = torch.cat([labelled.pictures, unlabelled.pictures], dim)
    return Batch(pictures, labelled.labels, logits, features)
