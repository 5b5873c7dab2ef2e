"""What it brings that a head is fitted by one thread of the linear algebra, not by all."""

import statistics
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from clock import seconds_of
from rows import Row, ratios, row
from teaching import take_turns

from pipeline import heads

ROUNDS = 5
ROWS, CHANNELS, CLASSES = (1000, 10_000), 1280, 10
LATENT = 64  # what a row's channels are made of: those of a teacher go together, too
STRENGTH = 0.01
CPU = torch.device("cpu")


def fitting(folder: Path, scale: float = 1.0) -> list[Row]:
    """The same head, as it is fitted and with all threads, in turns."""
    return [compared(max(int(count * scale), 5 * CLASSES), scale) for count in ROWS]


def compared(count: int, scale: float) -> Row:
    features, labels = some_features(count)
    mean, std = features.mean(0), heads.common_scale(features.std(0))
    limited = heads.threadpool_limits

    def fit(limits: object) -> float:
        heads.threadpool_limits = limits
        try:
            return seconds_of(lambda: heads.fit_heads(features, labels, mean, std, [STRENGTH]), CPU)
        finally:
            heads.threadpool_limits = limited

    works = {"one": lambda: fit(limited), "all": lambda: fit(lambda *_, **__: nullcontext())}
    seconds = take_turns(works, ROUNDS if scale == 1 else 1)
    each = [f"{statistics.median(seconds[name]):.2f} s" for name in works]
    return row(
        f"speed of fitting a head by one thread against by all, CPU: {count:,} rows of "
        f"{CHANNELS:,} channels, {CLASSES} classes",
        ratios(seconds["all"], seconds["one"]),
        " against ".join(each),
    )


def some_features(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Features float32 `(count, CHANNELS)` as after a ReLU, and int64 labels that they tell of."""
    generator = np.random.default_rng(0)
    labels = np.arange(count) % CLASSES
    centres = generator.standard_normal((CLASSES, LATENT))
    latent = centres[labels] + 2 * generator.standard_normal((count, LATENT))
    mixed = latent @ generator.standard_normal((LATENT, CHANNELS))
    return mixed.clip(0).astype(np.float32), labels
