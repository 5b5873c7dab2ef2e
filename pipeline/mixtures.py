"""The order in which a student sees its lessons: batches of labelled and unlabelled samples."""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from pipeline.lessons import Lessons
from pipeline.mentoring.objective import Batch
from pipeline.mentoring.schedules import Knots, value_at
from pipeline.ranks import ALONE, Ranks

NEGATIVES = 1024  # views that a batch is contrasted with


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
        wanted = round(value_at(self.share, t) * self.batch_size) if len(self._lessons) > 1 else 0
        from_unlabelled = min(wanted, self.batch_size - 1)
        counts = (self.batch_size - from_unlabelled, from_unlabelled)
        batches: list[Batch] = []
        samples: list[np.ndarray] = []
        parts = zip(self._lessons, self._orders, counts, self._starts, strict=False)
        for lessons, order, count, start in parts:
            if count:
                rows = order.take(count)
                views = self._generator.integers(lessons.views, size=count)
                own = self.ranks.own(sum(map(len, samples)))
                batches.append(lessons.batch(rows[own], views[own]))
                samples.append(start + rows)
        batch = batches[0] if len(batches) == 1 else _joined(*batches)
        batch = replace(batch, of_all=(self.batch_size, counts[0]))
        return self._with_negatives(batch, np.concatenate(samples)) if self.contrasted else batch

    def _with_negatives(self, batch: Batch, samples: np.ndarray) -> Batch:
        """Views of any samples for `batch`, which shows `samples`: the cache is the memory bank."""
        total = sum(len(lessons.split) for lessons in self._lessons)
        drawn = np.sort(self._generator.integers(total, size=NEGATIVES))
        negatives: dict[str, list[torch.Tensor]] = {tap: [] for tap in self.contrasted}
        for lessons, start in zip(self._lessons, self._starts, strict=False):
            rows = drawn[(drawn >= start) & (drawn < start + len(lessons.split))] - start
            views = self._generator.integers(lessons.views, size=len(rows))
            for tap, parts in negatives.items():
                parts.append(lessons.answers(lessons.features[tap], rows, views))
        are_others = torch.from_numpy(samples[:, None] != drawn).to(batch.pictures.device)
        return replace(
            batch, negatives={tap: torch.cat(parts) for tap, parts in negatives.items()},
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


def _joined(labelled: Batch, unlabelled: Batch) -> Batch:
    logits = None
    if labelled.logits is not None and unlabelled.logits is not None:
        logits = torch.cat([labelled.logits, unlabelled.logits])
    features = {
        tap: torch.cat([labelled.features[tap], unlabelled.features[tap]])
        for tap in labelled.features
    }
    pictures = torch.cat([labelled.pictures, unlabelled.pictures])
    return Batch(pictures, labelled.labels, logits, features)
