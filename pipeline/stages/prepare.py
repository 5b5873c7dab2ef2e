"""prepare: images from wherever they are -> one HDF5 file with four splits."""

from pathlib import Path

import numpy as np

from pipeline.blocks import Data
from pipeline.datasets import Dataset, load_dataset
from pipeline.errors import MenteeError
from pipeline.files import locked, remove_partial
from pipeline.params import Params
from pipeline.prepared import NO_LABEL, PREPARED_FILE, Split, write_prepared
from pipeline.progress import say
from pipeline.watched import warn_of_unwatched_images

RAW = Path("data/raw")


def prepare(params: Params) -> None:
    """Read `data.source`, split it and write PREPARED_FILE.

    A MenteeError where the source cannot be read or has too few images for what `data` asks.
    """
    warn_of_unwatched_images("data.source", params.data.source, "prepare")
    dataset = load_dataset(params.data, RAW)
    rows = draw_splits(dataset, params.data)
    splits = []
    for name, chosen in rows.items():
        labels = dataset.labels[chosen]
        if name == "unlabelled":
            labels = np.full_like(labels, NO_LABEL)  # nobody downstream can peek
        ids = tuple(dataset.ids[row] for row in chosen)
        splits.append(Split(name, dataset.images_of(chosen), labels, ids, dataset.class_names))
    PREPARED_FILE.parent.mkdir(parents=True, exist_ok=True)
    refusal = f"another prepare is writing {PREPARED_FILE}: wait for it to end, or stop it"
    with locked(PREPARED_FILE.with_name(".lock"), refusal):
        remove_partial(PREPARED_FILE.parent)  # of a prepare that was killed: as large as all images
        write_prepared(PREPARED_FILE, splits)
    counts = ", ".join(f"{len(split)} {split.name}" for split in splits)
    say(f"{PREPARED_FILE}: {len(dataset.class_names)} classes; {counts} images")


def draw_splits(dataset: Dataset, data: Data) -> dict[str, np.ndarray]:
    """Row numbers of each split: disjoint, stratified by class, drawn by `data.seed`.

    Every class is shuffled once. Validation takes from its front, labelled follows, unlabelled
    takes from its back: a larger budget of labels keeps every image of a smaller one and
    leaves validation and test as they are. Images that came without a label are taken for
    unlabelled ones as those of a further class are.
    """
    generator = np.random.default_rng(data.seed)
    classes = range(len(dataset.class_names))
    shuffled = [generator.permutation(np.flatnonzero(dataset.labels == c)) for c in classes]
    official = dataset.is_test.any()
    if official:
        test_pools = [rows[dataset.is_test[rows]] for rows in shuffled]
        pools = [rows[~dataset.is_test[rows]] for rows in shuffled]
        tested = data.test or sum(map(len, test_pools))
    else:
        test_pools = pools = shuffled
        count = sum(map(len, pools))
        tested = data.test or count // 5
        if not tested:
            raise MenteeError(
                f"data.test: a fifth of {count} images is none to test with: add some"
            )
    test, left = _take(test_pools, tested, "test")
    validation, pools = _take(pools if official else left, data.validation, "validation")
    name, fewest = min(zip(dataset.class_names, pools, strict=True), key=lambda pair: len(pair[1]))
    if len(fewest) < data.labelled_per_class:
        raise MenteeError(
            f"data.labelled_per_class: {data.labelled_per_class} is more than the {len(fewest)} "
            f"images of class {name!r} that test and validation leave"
        )
    labelled = [rows[: data.labelled_per_class] for rows in pools]
    rest = [rows[data.labelled_per_class :][::-1] for rows in pools]
    bare = generator.permutation(np.flatnonzero(dataset.labels == NO_LABEL))
    unlabelled, _ = _take([*rest, bare], data.unlabelled, "unlabelled")
    parts = {
        "labelled": labelled, "unlabelled": unlabelled, "validation": validation, "test": test,
    }  # fmt: skip
    return {name: np.sort(np.concatenate(rows)) for name, rows in parts.items()}


def _take(
    pools: list[np.ndarray], count: int, split: str
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The first rows of every class, `count` in all in proportion to the classes, and the rest."""
    sizes = np.array([len(rows) for rows in pools])
    if count > sizes.sum():
        raise MenteeError(
            f"data.{split}: {count} images are asked for, but only {sizes.sum()} are left for it"
        )
    shares = sizes * (count / max(sizes.sum(), 1))
    counts = np.floor(shares).astype(int)
    # Largest remainders first; ties go to the class that comes first.
    short = np.argsort(counts - shares, kind="stable")[: count - counts.sum()]
    counts[short] += 1
    taken = [rows[:n] for rows, n in zip(pools, counts, strict=True)]
    left = [rows[n:] for rows, n in zip(pools, counts, strict=True)]
    return taken, left
