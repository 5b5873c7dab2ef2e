"""How images are split, and the file that keeps the splits."""

import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from projects import REPOSITORY, edit_params

from pipeline.blocks import Data
from pipeline.datasets import Dataset
from pipeline.errors import MenteeError
from pipeline.params import Params, load_params
from pipeline.prepared import PREPARED_FILE, SPLITS, Split, read_split, write_prepared
from pipeline.stages.prepare import draw_splits, prepare


def dataset_of(sizes: list[int], official_test: list[int] | None = None) -> Dataset:
    """Blank images, `sizes` of every class in a mixed order, then those of an official test set."""
    tested = official_test or [0] * len(sizes)
    generator = np.random.default_rng(0)
    labels = np.concatenate(
        [generator.permutation(np.repeat(np.arange(len(n)), n)) for n in (sizes, tested)]
    )
    count = len(labels)
    return Dataset(
        images=np.zeros((count, 1, 1, 3), dtype=np.uint8),
        labels=labels,
        class_names=tuple(f"class{c}" for c in range(len(sizes))),
        ids=tuple(f"image/{i}" for i in range(count)),
        is_test=np.arange(count) >= sum(sizes),
    )


def budgets(**changes: Any) -> Data:
    defaults = {
        "source": "digits", "image_size": 8, "labelled_per_class": 1, "unlabelled": 0,
        "validation": 1, "test": None, "seed": 0,
    }  # fmt: skip
    return Data(**{**defaults, **changes})


@dataclass(frozen=True)
class Case:
    dataset: Dataset
    data: Data


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Classes of unequal sizes, with and without an official test set, and budgets that fit."""
    sizes = draw(st.lists(st.integers(16, 40), min_size=2, max_size=5))
    official = draw(
        st.none() | st.lists(st.integers(1, 20), min_size=len(sizes), max_size=len(sizes))
    )
    # Half of every class at least is left to the labelled and the unlabelled images.
    half = sum(sizes) // 4
    test = draw(st.none() | st.integers(1, sum(official) if official else half))
    validation = draw(st.integers(1, half))
    labelled = draw(st.integers(1, 4))
    tested = 0 if official else test or sum(sizes) // 5
    rest = sum(sizes) - tested - validation - labelled * len(sizes)
    data = budgets(
        labelled_per_class=labelled, unlabelled=draw(st.integers(0, rest)),
        validation=validation, test=test, seed=draw(st.integers(0, 2**32 - 1)),
    )  # fmt: skip
    return Case(dataset_of(sizes, official), data)


def class_counts(dataset: Dataset, rows: np.ndarray) -> np.ndarray:
    return np.bincount(dataset.labels[rows], minlength=len(dataset.class_names))


@given(cases())
def test_splits_are_disjoint_and_as_large_as_asked(case: Case) -> None:
    rows = draw_splits(case.dataset, case.data)
    assert tuple(rows) == SPLITS
    together = np.concatenate(list(rows.values()))
    assert len(np.unique(together)) == len(together)
    assert len(rows["unlabelled"]) == case.data.unlabelled
    assert len(rows["validation"]) == case.data.validation
    if case.data.test:
        assert len(rows["test"]) == case.data.test


@given(cases())
def test_every_class_gets_exactly_its_labelled_images(case: Case) -> None:
    counts = class_counts(case.dataset, draw_splits(case.dataset, case.data)["labelled"])
    assert set(counts.tolist()) == {case.data.labelled_per_class}


@given(cases())
def test_official_test_images_are_tested_with_and_nothing_else(case: Case) -> None:
    rows = draw_splits(case.dataset, case.data)
    if case.dataset.is_test.any():
        assert case.dataset.is_test[rows.pop("test")].all()
    assert not any(case.dataset.is_test[split].any() for split in rows.values())


def test_without_a_number_the_official_test_set_is_whole_and_else_a_fifth() -> None:
    official = draw_splits(dataset_of([20, 30], official_test=[4, 9]), budgets(test=None))
    assert official["test"].tolist() == list(range(50, 63))
    assert len(draw_splits(dataset_of([20, 33]), budgets(test=None))["test"]) == 10


def within_one_of_proportion(counts: np.ndarray, pool: np.ndarray) -> bool:
    return bool((np.abs(counts - counts.sum() * pool / pool.sum()) < 1).all())


@given(cases())
def test_test_and_validation_hold_the_classes_in_proportion(case: Case) -> None:
    dataset = case.dataset
    rows = draw_splits(dataset, case.data)
    test = class_counts(dataset, rows["test"])
    official = class_counts(dataset, np.flatnonzero(dataset.is_test))
    others = class_counts(dataset, np.flatnonzero(~dataset.is_test))
    assert within_one_of_proportion(test, official if official.any() else others)
    left = others if official.any() else others - test
    assert within_one_of_proportion(class_counts(dataset, rows["validation"]), left)


@given(st.integers(2, 5), st.integers(1, 5), st.data())
def test_unlabelled_images_hold_the_classes_in_proportion(
    classes: int, labelled: int, data: st.DataObject
) -> None:
    """Classes of one size, so that each class's share is the same whatever was taken before."""
    unlabelled = data.draw(st.integers(0, classes * (20 - labelled)))
    dataset = dataset_of([25] * classes, official_test=[3] * classes)
    chosen = budgets(labelled_per_class=labelled, unlabelled=unlabelled, validation=5 * classes)
    counts = class_counts(dataset, draw_splits(dataset, chosen)["unlabelled"])
    assert counts.sum() == unlabelled
    assert counts.max() - counts.min() <= 1


@given(cases())
def test_the_seed_decides_the_rows(case: Case) -> None:
    once = draw_splits(case.dataset, case.data)
    again = draw_splits(case.dataset, case.data)
    for name in SPLITS:
        assert np.array_equal(once[name], again[name])


def test_another_seed_draws_other_rows() -> None:
    dataset = dataset_of([40, 40, 40])
    chosen = {"labelled_per_class": 10, "unlabelled": 30, "validation": 20, "test": 20}
    one, other = (draw_splits(dataset, budgets(seed=seed, **chosen)) for seed in (0, 1))
    for name in SPLITS:
        assert not np.array_equal(one[name], other[name])


@given(cases(), st.integers(1, 4))
def test_a_larger_budget_keeps_every_image_of_a_smaller_one(case: Case, smaller: int) -> None:
    budget = min(smaller, case.data.labelled_per_class)
    less = case.data.model_copy(update={"labelled_per_class": budget})
    large, small = draw_splits(case.dataset, case.data), draw_splits(case.dataset, less)
    assert set(small["labelled"].tolist()) <= set(large["labelled"].tolist())
    for name in ("validation", "test"):
        assert np.array_equal(small[name], large[name])


def test_a_larger_budget_of_equal_classes_changes_no_unlabelled_image() -> None:
    """An image that only moved out of the split would make the whole cache of it be dumped anew."""
    dataset = dataset_of([40, 40, 40], official_test=[3, 3, 3])
    chosen = {"unlabelled": 24, "validation": 12}
    small = draw_splits(dataset, budgets(labelled_per_class=1, **chosen))
    large = draw_splits(dataset, budgets(labelled_per_class=12, **chosen))
    assert small["unlabelled"].tolist() == large["unlabelled"].tolist()


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"test": 31}, "data.test: 31 images are asked for, but only 30 are left for it"),
        (
            {"test": 10, "validation": 21},
            "data.validation: 21 images are asked for, but only 20 are left for it",
        ),
        (
            {"test": 2, "validation": 2, "labelled_per_class": 9},
            "data.labelled_per_class: 9 is more than the 8 images of class 'class0' "
            "that test and validation leave",
        ),
        (
            {"test": 2, "validation": 2, "labelled_per_class": 8, "unlabelled": 11},
            "data.unlabelled: 11 images are asked for, but only 10 are left for it",
        ),
    ],
)
def test_a_budget_that_is_too_large_is_named_with_what_there_is(
    changes: dict[str, int], text: str
) -> None:
    dataset = dataset_of([10, 20])
    with pytest.raises(MenteeError) as caught:
        draw_splits(dataset, budgets(**changes))
    assert str(caught.value) == text


def test_of_classes_that_are_all_too_small_for_the_labels_the_smallest_is_named() -> None:
    """Or a budget that is lowered to what is said would be refused again, class by class."""
    dataset = dataset_of([30, 10, 20], official_test=[2, 2, 2])
    with pytest.raises(MenteeError, match="28 is more than the 9 images of class 'class1' that"):
        draw_splits(dataset, budgets(labelled_per_class=28, validation=6))


def test_so_few_images_that_none_is_left_to_test_with_are_refused() -> None:
    with pytest.raises(MenteeError, match=r"data\.test: a fifth of 4 images is none"):
        draw_splits(dataset_of([2, 2]), budgets())


def test_budgets_may_use_the_last_image() -> None:
    """Of ten cats and twenty dogs, 1 and 1 are tested with, 1 and 1 validate, 8 are labelled."""
    chosen = budgets(test=2, validation=2, labelled_per_class=8, unlabelled=10)
    rows = draw_splits(dataset_of([10, 20]), chosen)
    assert np.sort(np.concatenate(list(rows.values()))).tolist() == list(range(30))


def test_an_official_test_set_is_not_filled_up_from_other_images() -> None:
    dataset = dataset_of([50, 50], official_test=[3, 4])
    with pytest.raises(MenteeError, match=r"data\.test: 8 images .* only 7 are left"):
        draw_splits(dataset, budgets(test=8))


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    """The current folder holds two classes of twelve random pictures; these are its params."""
    generator = np.random.default_rng(0)
    for name in ("cat", "dög"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for number in range(12):
            pixels = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "pictures" / name / f"{number:02}.png")
    (tmp_path / "params.yaml").write_text((REPOSITORY / "params.yaml").read_text())
    data = {
        "source": "folder:pictures", "image_size": 8, "labelled_per_class": 3, "unlabelled": 6,
        "validation": 4, "test": 4,
    }  # fmt: skip
    edit_params(tmp_path / "params.yaml", {"data": data})
    monkeypatch.chdir(tmp_path)
    return load_params()


def test_prepare_keeps_pictures_labels_and_ids_together(project: Params) -> None:
    prepare(project)
    counts = {"labelled": 6, "unlabelled": 6, "validation": 4, "test": 4}
    for name in SPLITS:
        split = read_split(PREPARED_FILE, name)
        assert split.name == name
        assert split.class_names == ("cat", "dög")
        assert len(split) == counts[name]
        assert split.image_size == (8, 8)
        for image, label, sample in zip(split.images, split.labels, split.ids, strict=True):
            with Image.open(Path("pictures") / sample) as picture:
                assert np.array_equal(image, np.asarray(picture))
            if name != "unlabelled":
                assert split.class_names[label] == sample.split("/")[0]


def test_nobody_downstream_can_see_a_label_of_an_unlabelled_image(project: Params) -> None:
    prepare(project)
    assert read_split(PREPARED_FILE, "unlabelled").labels.tolist() == [-1] * 6
    assert read_split(PREPARED_FILE, "labelled").labels.tolist() == [0, 0, 0, 1, 1, 1]


def test_two_runs_write_the_same_bytes(project: Params) -> None:
    prepare(project)
    first = PREPARED_FILE.read_bytes()
    PREPARED_FILE.unlink()
    time.sleep(1.1)  # HDF5 would stamp the time in whole seconds
    prepare(project)
    assert PREPARED_FILE.read_bytes() == first


KILLED_WHILE_IT_WRITES = """
import os, signal
import h5py
from pipeline.params import load_params
from pipeline.stages.prepare import prepare
h5py.Group.create_dataset = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
prepare(load_params())
"""


def test_what_a_killed_prepare_left_is_removed_by_the_next(project: Params) -> None:
    """It may be as large as all images, and each has another name."""
    command = [sys.executable, "-c", KILLED_WHILE_IT_WRITES]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    left = list(PREPARED_FILE.parent.glob("*.partial"))
    assert len(left) == 1
    prepare(project)
    assert not left[0].exists()
    assert list(PREPARED_FILE.parent.glob("[!.]*")) == [PREPARED_FILE]


# Prepares in a process that may take so many bytes more for itself; mapped files do not count.
WITH_LITTLE_MEMORY = """
import re, resource, sys
from pathlib import Path
import h5py, PIL.Image
from pipeline.params import load_params
from pipeline.stages.prepare import prepare
own = 1024 * int(re.search(r"VmData:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
resource.setrlimit(resource.RLIMIT_DATA, (own + int(sys.argv[1]),) * 2)
prepare(load_params())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not limit a process's memory")
def test_memory_need_not_hold_all_images(project: Params) -> None:
    edit_params(Path("params.yaml"), {"data": {"image_size": 1024}})  # 24 images of 3 MiB
    command = [sys.executable, "-c", WITH_LITTLE_MEMORY, str(56 << 20)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert PREPARED_FILE.stat().st_size > 60 << 20
    assert not list(Path(".work").iterdir())


def test_no_unlabelled_images_at_all_are_an_empty_split(project: Params) -> None:
    none = project.model_copy(update={"data": project.data.model_copy(update={"unlabelled": 0})})
    prepare(none)
    split = read_split(PREPARED_FILE, "unlabelled")
    assert len(split) == 0
    assert split.images.shape == (0, 8, 8, 3)
    assert split.labels.shape == (0,)


def small_split(**changes: Any) -> Split:
    content = {
        "name": "test",
        "images": np.arange(2 * 4 * 6 * 3, dtype=np.uint8).reshape(2, 4, 6, 3),
        "labels": np.array([1, 0]),
        "ids": ("a/äöü.png", "b/2.png"),
        "class_names": ("one", "two, with a comma"),
    }
    return Split(**{**content, **changes})


def test_a_split_comes_back_as_it_was_written(tmp_path: Path) -> None:
    written = small_split()
    write_prepared(tmp_path / "new/images.h5", [small_split(name="labelled"), written])
    read = read_split(tmp_path / "new/images.h5", "test")
    assert np.array_equal(read.images, written.images)
    assert read.images.dtype == np.uint8
    assert read.labels.tolist() == [1, 0]
    assert read.labels.dtype == np.int64
    assert (read.name, read.ids, read.class_names) == ("test", written.ids, written.class_names)
    assert read.digest == written.digest


def test_a_digest_tells_pixels_labels_ids_and_class_names_apart() -> None:
    brighter = small_split().images.copy()
    brighter[1, 3, 5, 2] += 1
    splits = [
        small_split(),
        small_split(images=brighter),
        small_split(labels=np.array([0, 1])),
        small_split(ids=("b/2.png", "a/äöü.png")),
        small_split(class_names=("two", "one")),
    ]
    assert len({split.digest for split in splits}) == len(splits)


def test_a_file_that_is_missing_damaged_or_of_another_format_asks_for_prepare(
    tmp_path: Path,
) -> None:
    missing, damaged, other = (tmp_path / f"{name}.h5" for name in ("missing", "damaged", "other"))
    write_prepared(damaged, [small_split()])
    damaged.write_bytes(damaged.read_bytes()[:1000])
    write_prepared(other, [small_split()])
    with h5py.File(other, "r+") as file:
        file.attrs["format"] = 99
    for path in (missing, damaged, other):
        with pytest.raises(MenteeError, match="mentee prepare") as caught:
            read_split(path, "test")
        assert str(path) in str(caught.value)
        assert len(str(caught.value).splitlines()) == 1
