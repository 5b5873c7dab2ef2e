"""Negatives: which samples a batch is contrasted with, and what the teacher said of them.

Scikit-learn's digits and the cache of a teacher with random weights. What else a mixture does is
tried in test_lessons.py.
"""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from killing import prepare_small, set_params
from stage_one import run_stage_one

from pipeline.lessons import Lessons, mentored_lessons
from pipeline.mentoring.objective import Batch
from pipeline.mixtures import NEGATIVES, Mixture
from pipeline.params import Params, load_params
from pipeline.prepared import PREPARED_FILE, read_split

FEW: dict[str, Any] = {
    "data": {"labelled_per_class": 2, "unlabelled": 12, "validation": 20, "test": 20},
    "views": {"labelled": 3},
    "cache": {"rows_per_shard": 30},
    "head": {"inverse_regularisation": [0.01]},
}
LABELLED, UNLABELLED = 20, 12
TAPS = ["middle", "pooled"]


def few_images() -> Params:
    prepare_small(Path())
    set_params(Path(), **FEW)
    return load_params()


@pytest.fixture(scope="module")
def lessons(tmp_path_factory: pytest.TempPathFactory) -> tuple[Lessons, Lessons]:
    """The labelled and the unlabelled split after prepare, dump and head."""
    folder = run_stage_one(tmp_path_factory.mktemp("finished"), few_images)
    labelled, unlabelled = (
        mentored_lessons(
            read_split(folder / PREPARED_FILE, name), True, TAPS, 16, torch.device("cpu"),
            folder / "data/cache",
        )
        for name in ("labelled", "unlabelled")
    )  # fmt: skip
    assert (len(labelled.split), len(unlabelled.split)) == (LABELLED, UNLABELLED)
    return labelled, unlabelled


@pytest.fixture
def mixed(lessons: tuple[Lessons, Lessons]) -> Callable[..., Mixture]:
    def make(contrasted: list[str], share: float = 0.5, seed: int = 0) -> Mixture:
        labelled, unlabelled = lessons
        return Mixture(labelled, unlabelled if share else None, [(0, share)], 8, seed, contrasted)

    return make


def known(lessons: tuple[Lessons, Lessons], tap: str) -> dict[bytes, tuple[int, set[int]]]:
    """What the teacher said of every view: the sample, numbered through, and the views."""
    table: dict[bytes, tuple[int, set[int]]] = {}
    for start, part in zip((0, LABELLED), lessons, strict=True):
        for view in range(part.views):
            for row, features in enumerate(part.features[tap].view(view).astype(np.float32)):
                sample, views = table.setdefault(features.tobytes(), (start + row, set()))
                assert sample == start + row, "no two samples look alike to the teacher"
                views.add(view)
    return table


def rows_of(features: torch.Tensor) -> list[bytes]:
    return [row.tobytes() for row in features.numpy()]


@pytest.mark.parametrize("tap", TAPS)
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_negatives_are_what_the_teacher_said_of_any_view_of_any_sample(
    mixed: Callable[..., Mixture], lessons: tuple[Lessons, Lessons], tap: str, share: float
) -> None:
    table, seen = known(lessons, tap), Counter()
    mixture = mixed([tap], share)
    for _ in range(6):
        batch = mixture.next(0.5)
        assert set(batch.negatives) == {tap}
        assert batch.negatives[tap].shape == (NEGATIVES, *batch.features[tap].shape[1:])
        for row in rows_of(batch.negatives[tap]):
            sample, views = table[row]
            seen[sample, min(views)] += 1
    samples = Counter()
    for (sample, _), count in seen.items():
        samples[sample] += count
    total = LABELLED + UNLABELLED if share else LABELLED
    assert set(samples) == set(range(total))
    expected = 6 * NEGATIVES / total
    assert max(abs(count - expected) for count in samples.values()) < 6 * expected**0.5
    assert {view for _, view in seen} == {0, 1, 2}


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_negative_of_a_pictures_own_sample_is_marked_in_whatever_view(
    mixed: Callable[..., Mixture], lessons: tuple[Lessons, Lessons], share: float
) -> None:
    table = known(lessons, "pooled")
    batch = mixed(["pooled"], share).next(0.5)
    shown = [table[row][0] for row in rows_of(batch.features["pooled"])]
    drawn = [table[row][0] for row in rows_of(batch.negatives["pooled"])]
    expected = np.array(shown)[:, None] != np.array(drawn)
    assert batch.are_others is not None
    np.testing.assert_array_equal(batch.are_others.numpy(), expected)
    assert (~expected).any(1).all(), "each picture meets itself among so many"
    assert max(shown) >= LABELLED if share else max(shown) < LABELLED


def test_all_taps_are_contrasted_with_the_same_views(
    mixed: Callable[..., Mixture], lessons: tuple[Lessons, Lessons]
) -> None:
    batch = mixed(TAPS).next(0.5)
    one, other = (
        [known(lessons, tap)[row] for row in rows_of(batch.negatives[tap])] for tap in TAPS
    )
    assert [sample for sample, _ in one] == [sample for sample, _ in other]
    assert all(views & others for (_, views), (_, others) in zip(one, other, strict=True))


def test_a_student_that_contrasts_nothing_draws_as_if_there_were_no_negatives(
    mixed: Callable[..., Mixture], lessons: tuple[Lessons, Lessons]
) -> None:
    """So that every student that was trained before there were any comes out the same."""
    labelled, unlabelled = lessons
    mixture, generator = mixed([], seed=3), np.random.default_rng(3)
    orders = [np.empty(0, dtype=np.int64)] * 2
    for _ in range(5):
        batch = mixture.next(0.5)
        assert (batch.negatives, batch.are_others) == ({}, None)
        pictures = []
        for number, part in enumerate((labelled, unlabelled)):
            while len(orders[number]) < 4:
                orders[number] = np.append(orders[number], generator.permutation(len(part.split)))
            rows, orders[number] = orders[number][:4], orders[number][4:]
            views = generator.integers(part.views, size=4)
            pictures.append(part.batch(rows, views).pictures)
        assert torch.equal(batch.pictures, torch.cat(pictures))


def same(one: Batch, other: Batch) -> bool:
    return (
        torch.equal(one.pictures, other.pictures)
        and torch.equal(one.negatives["pooled"], other.negatives["pooled"])
        and torch.equal(one.are_others, other.are_others)
    )


def test_negatives_are_drawn_anew_for_every_batch_and_again_from_a_kept_state(
    mixed: Callable[..., Mixture],
) -> None:
    mixture, again, other = (mixed(["pooled"], seed=seed) for seed in (0, 0, 1))
    assert same(first := mixture.next(0.5), again.next(0.5))
    assert not torch.equal(first.negatives["pooled"], other.next(0.5).negatives["pooled"])
    other.load_state_dict(mixture.state_dict())
    second = mixture.next(0.5)
    assert same(second, other.next(0.5))
    assert not torch.equal(first.negatives["pooled"], second.negatives["pooled"])


def test_one_sample_of_every_batch_has_a_label_however_large_the_share(
    mixed: Callable[..., Mixture],
) -> None:
    batch = mixed([], share=0.99).next(0.5)
    assert (len(batch.pictures), len(batch.labels)) == (8, 1)
