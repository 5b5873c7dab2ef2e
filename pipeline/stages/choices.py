"""What `mentee init` sets in params.yaml for the images it found, each with its reason."""

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median
from typing import Any
from unicodedata import normalize

import numpy as np

from pipeline.blocks import Data
from pipeline.datasets import Dataset
from pipeline.errors import MenteeError
from pipeline.stages.prepare import draw_splits

STORED_SIZES = (32, 48, 64, 96, 128, 160)  # pixels; the default teacher sees 160
STUDENT_SIZE = 64  # pixels at most: four times the work of 32
FEWEST, ROUGH = 5, 20  # images of a class: fewer are refused, fewer are warned of
LISTED = 12  # classes at most that are named each
VALIDATION = 500  # images at most
UNLABELLED = (20, 5000)  # images: fewer teach nothing, more take the teacher long
LABELLED_VIEWS = 12_000  # that the teacher answers, at most
VIEWS = (2, 12)  # of a labelled image
SELF_TRAINING = 10  # rounds at most: validation ends them, on CIFAR-10 after two to ten


@dataclass(frozen=True)
class Found:
    """Images by class, those without a label, and the shorter side of each in pixels."""

    counts: dict[str, int]
    unlabelled: int
    sides: tuple[int, ...]

    @property
    def labelled(self) -> int:
        return sum(self.counts.values())


@dataclass(frozen=True)
class Choice:
    """A key of params.yaml, its value and why."""

    key: str
    value: Any
    why: str


def warnings(found: Found) -> list[str]:
    """What a user should know of these classes; a MenteeError where they cannot serve."""
    for name, count in found.counts.items():
        if count < FEWEST:
            raise MenteeError(
                f"class {name!r} has {count} images, {FEWEST} are the least for labels, validation "
                f"and test: add some, or leave the class out"
            )
    lines = alike(found.counts)
    rough = {name: count for name, count in found.counts.items() if count < ROUGH}
    if not rough:
        return lines
    name = min(rough, key=rough.__getitem__)
    others = f", and {len(rough) - 1} others have fewer than {ROUGH}" if len(rough) > 1 else ""
    lines.append(
        f"class {name!r} has {rough[name]} images only{others}: what is measured on so few is rough"
    )
    return lines


def alike(names: Iterable[str]) -> list[str]:
    """What to say of names that a reader takes for one, as `Cat` and `cat`: one line for all."""
    by_look: dict[str, list[str]] = {}
    for name in names:
        by_look.setdefault(normalize("NFKC", name).casefold(), []).append(name)
    several = [same for same in by_look.values() if len(same) > 1]
    if not several:
        return []
    first = " and ".join(map(repr, several[0]))
    others = f", and so do {len(several) - 1} others" if len(several) > 1 else ""
    return [f"classes {first} look alike{others}: if they are one, give them one name"]


def by_class(counts: dict[str, int]) -> str:
    """How many images each class has; of many classes the smallest and the largest."""
    if len(counts) <= LISTED:
        return ", ".join(f"{name} {count}" for name, count in counts.items())
    fewest, most = (extreme(counts, key=counts.__getitem__) for extreme in (min, max))
    if counts[fewest] == counts[most]:
        return f"{counts[most]} each"
    return f"from {counts[fewest]} of {fewest!r} to {counts[most]} of {most!r}"


def choose(found: Found) -> list[Choice]:
    """Values that suit the number and size of the images."""
    side = int(median(found.sides))
    size = max([known for known in STORED_SIZES if known <= side] or STORED_SIZES[:1])
    seen = min(size, STUDENT_SIZE)
    test = found.labelled // 5
    validation = choose_validation(found)
    left = left_for_labels(found, validation)
    smallest = min(left, key=lambda name: left[name])
    labelled = left[smallest] * len(left)
    spare = sum(left.values()) - labelled
    rest = spare + found.unlabelled
    unlabelled = min(rest, UNLABELLED[1]) if rest >= UNLABELLED[0] else 0
    views = int(np.clip(LABELLED_VIEWS // labelled, *VIEWS))
    return [
        Choice("data.image_size", size, f"pixels; half of the images have {side} or more a side"),
        Choice("student.input_size", seen, f"pixels; the student's work grows with its square, "
               f"so {STUDENT_SIZE} at most"),
        Choice("views.padding", size // 8, "pixels that a view is shifted by: an eighth"),
        Choice("data.test", None, f"a fifth of the labelled images: {test}"),
        Choice("data.validation", validation, f"of {found.labelled} labelled images"),
        Choice("data.labelled_per_class", left[smallest], f"all that are left of {smallest!r}, "
               f"the smallest class"),
        Choice("views.labelled", views, f"of {labelled} labelled images: at most "
               f"{LABELLED_VIEWS:,} for the teacher"),
        Choice("data.unlabelled", unlabelled, f"of {found.unlabelled} without a label, and "
               f"{spare} of larger classes, whose labels are not used"),
        Choice("head.self_training", SELF_TRAINING if unlabelled else 0,
               "rounds in which the head learns from unlabelled images, if validation likes it"
               if unlabelled else "no unlabelled images for the head to learn from"),
        Choice("sweep.labels.settings", ["plain"], "a student without a teacher to compare with"),
        Choice("sweep.features.modes", ["obedient"], "a student that the teacher teaches"),
        Choice("sweep.unlabelled.modes", ["obedient"] if unlabelled else [],
               "one that also learns from unlabelled images" if unlabelled
               else f"no unlabelled images to learn from, or fewer than {UNLABELLED[0]}"),
        Choice("examine.targets", {}, "no other data sets to try features on"),
    ]  # fmt: skip


def choose_validation(found: Found) -> int:
    """A tenth, or ten a class if that is more and no more than a fifth."""
    ten_a_class = min(10 * len(found.counts), found.labelled // 5)
    return min(max(found.labelled // 10, ten_a_class), VALIDATION)


def left_for_labels(found: Found, validation: int) -> dict[str, int]:
    """Images of every class that test and validation leave: their splits are drawn to see."""
    sizes = list(found.counts.values())
    labels = np.repeat(np.arange(len(sizes)), sizes)
    ids = tuple(map(str, range(len(labels))))
    blank = np.empty((len(labels), 0, 0, 3), dtype=np.uint8)
    dataset = Dataset(blank, labels, tuple(found.counts), ids, np.zeros(len(labels), dtype=bool))
    budgets = Data(
        source="digits", image_size=STORED_SIZES[0], labelled_per_class=1, unlabelled=0,
        validation=validation, test=None, seed=0,
    )  # fmt: skip
    rows = draw_splits(dataset, budgets)
    taken = np.concatenate([labels[rows[split]] for split in ("validation", "test")])
    used = np.bincount(taken, minlength=len(sizes)).tolist()
    return {name: n - u for (name, n), u in zip(found.counts.items(), used, strict=True)}
