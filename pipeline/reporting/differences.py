"""Whether two networks differ by more than chance: a paired test over the seeds both have."""

import statistics
import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.stats import ttest_rel

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Difference:
    """A mean difference over seeds, in the unit of the scores.

    spread: the larger standard deviation of the two networks over their seeds; interval: where
    the difference is with 95 % confidence. One seed has neither, nor a p.
    """

    mean: float
    seeds: int
    spread: float | None = None
    p: float | None = None
    interval: tuple[float, float] | None = None

    @property
    def is_shown(self) -> bool:
        """Whether these seeds show it: it is unlikely by chance, and not within the spread."""
        if self.p is None or self.spread is None:
            return False
        return self.p < 1 - CONFIDENCE and abs(self.mean) >= self.spread

    @property
    def judgement(self) -> str:
        """What keeps it from being one; empty where nothing does."""
        if self.is_shown:
            return ""
        if self.seeds == 1:
            return "one seed has no spread and shows no difference by itself"
        return f"no difference that {self.seeds} seeds can show"


def compare(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Difference | None:
    """Ours minus theirs, by the seeds that both have; None if there is no such seed.

    Seeds are pairs: two students of a seed start from the same weights, and where they see the same
    images, they see the same batches. The test is Student's for pairs ("The probable error of a
    mean", Biometrika 1908). It knows nothing of the test images, which are the same for all, and of
    how many comparisons are made beside it.
    """
    shared = sorted(set(ours) & set(theirs))
    if not shared:
        return None
    pairs = np.array([[ours[seed], theirs[seed]] for seed in shared])
    mean = float((pairs[:, 0] - pairs[:, 1]).mean())
    if len(shared) == 1:
        return Difference(mean, 1)
    spread = max(map(statistics.stdev, pairs.T.tolist()))
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore", RuntimeWarning)  # of pairs that differ all by the same
        test = ttest_rel(*pairs.T)
        low, high = test.confidence_interval(CONFIDENCE)
    return Difference(mean, len(shared), spread, float(test.pvalue), (float(low), float(high)))
