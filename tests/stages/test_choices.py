"""What is chosen for one's own images: whatever their number, the splits can be drawn."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from projects import refusal

from pipeline.blocks import Data
from pipeline.datasets import Dataset
from pipeline.prepared import NO_LABEL
from pipeline.stages.choices import Found, by_class, choose, warnings
from pipeline.stages.prepare import draw_splits


def values(found: Found) -> dict[str, Any]:
    return {choice.key: choice.value for choice in choose(found)}


def found(*counts: int, unlabelled: int = 0, side: int = 300) -> Found:
    names = [f"class{number}" for number in range(len(counts))]
    return Found(dict(zip(names, counts, strict=True)), unlabelled, (side,))


def test_of_many_classes_the_smallest_and_the_largest_are_named() -> None:
    assert by_class({"cat": 30, "dog": 40}) == "cat 30, dog 40"
    assert by_class(found(*range(5, 105)).counts) == "from 5 of 'class0' to 104 of 'class99'"
    assert by_class(found(*[20] * 100).counts) == "20 each"


@settings(max_examples=100)
@given(
    st.lists(st.integers(5, 60) | st.integers(5, 3000), min_size=2, max_size=8),
    st.integers(0, 8000),
)
def test_the_splits_that_are_chosen_can_be_drawn_and_leave_no_label_of_the_smallest_class(
    counts: list[int], bare: int
) -> None:
    chosen = values(found(*counts, unlabelled=bare))
    labels = np.concatenate(
        [np.repeat(np.arange(len(counts)), counts), np.full(bare, NO_LABEL)]
    )  # fmt: skip
    dataset = Dataset(
        np.empty((len(labels), 0, 0, 3), dtype=np.uint8), labels,
        tuple(map(str, range(len(counts)))), tuple(map(str, range(len(labels)))),
        np.zeros(len(labels), dtype=bool),
    )  # fmt: skip
    blocks = {key.removeprefix("data."): v for key, v in chosen.items() if key.startswith("data.")}
    rows = draw_splits(dataset, Data(source="digits", seed=0, **blocks))
    assert all(len(rows[split]) >= 1 for split in ("labelled", "validation", "test"))
    assert chosen["data.unlabelled"] == 0 or 20 <= chosen["data.unlabelled"] <= 5000
    assert bool(chosen["data.unlabelled"]) == bool(chosen["sweep.unlabelled.modes"])
    assert bool(chosen["data.unlabelled"]) == bool(chosen["head.self_training"])
    used = np.concatenate([labels[rows[s]] for s in ("labelled", "validation", "test")])
    left = np.array(counts) - np.bincount(used, minlength=len(counts))
    assert left.min() == 0
    assert 2 <= chosen["views.labelled"] <= 12


@pytest.mark.parametrize(
    ("side", "stored", "seen", "padding"),
    [(8, 32, 32, 4), (33, 32, 32, 4), (70, 64, 64, 8), (159, 128, 64, 16), (4000, 160, 64, 20)],
)
def test_sizes_follow_the_images(side: int, stored: int, seen: int, padding: int) -> None:
    chosen = values(found(50, 50, side=side))
    sizes = [chosen[key] for key in ("data.image_size", "student.input_size", "views.padding")]
    assert sizes == [stored, seen, padding]


def test_small_classes_are_warned_of_and_smaller_ones_are_refused() -> None:
    assert warnings(found(20, 40)) == []
    (line,) = warnings(found(19, 40))
    assert "class 'class0' has 19 images only" in line
    (line,) = warnings(found(19, 40, 8, 12))  # one line for all, or it hides what was chosen
    assert "class 'class2' has 8 images only, and 2 others have fewer than 20" in line
    assert "class 'class1' has 4 images, 5 are the least" in refusal(lambda: warnings(found(9, 4)))


def test_of_classes_that_a_reader_takes_for_one_it_is_said() -> None:
    """By capitals, or by a folder's name as a Mac spells it: `o` and two dots."""
    (line,) = warnings(Found({"Cat": 20, "cat": 20, "dog": 20}, 0, (300,)))
    assert line == "classes 'Cat' and 'cat' look alike: if they are one, give them one name"
    names = ("L\u00f6we", "cat", "Lo\u0308we", "CAT")
    (line,) = warnings(Found(dict.fromkeys(names, 20), 0, (300,)))
    assert "look alike, and so do 1 others" in line
