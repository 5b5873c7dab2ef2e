"""targets: other data sets that features are tried on -> a prepared file of each."""

import numpy as np

from pipeline.datasets import Dataset, load_dataset
from pipeline.errors import MenteeError
from pipeline.files import replaced_whole
from pipeline.params import Params
from pipeline.prepared import NO_LABEL, TARGETS, Split, write_prepared
from pipeline.progress import say
from pipeline.stages.prepare import RAW
from pipeline.watched import warn_of_unwatched_images

SEED = 0  # of what is held out where there is no official test set


def targets(params: Params) -> None:
    """Write a prepared file, splits labelled and test, for each of `examine.targets` to TARGETS."""
    with replaced_whole(TARGETS) as fresh:
        for name, source in params.examine.targets.items():
            warn_of_unwatched_images(f"examine.targets.{name}", source, "targets")
            data = params.data.model_copy(update={"source": source})
            try:
                splits = split(load_dataset(data, RAW))
            except MenteeError as error:  # it speaks of the source as the task's own
                reason = str(error).removeprefix("data.source: ")
                raise MenteeError(f"examine.targets.{name}: {reason}") from None
            write_prepared(fresh / f"{name}.h5", splits)
            counts = ", ".join(f"{len(part)} {part.name}" for part in splits)
            say(f"{TARGETS / name}.h5: {len(splits[0].class_names)} classes; {counts} images")


def split(dataset: Dataset) -> list[Split]:
    """All training images that have labels, and the test images: the official ones, or a fifth."""
    is_test = dataset.is_test if dataset.is_test.any() else draw_test(dataset.labels)
    has_label = dataset.labels != NO_LABEL
    rows = {"labelled": np.flatnonzero(~is_test & has_label), "test": np.flatnonzero(is_test)}
    shown = np.bincount(dataset.labels[rows["labelled"]], minlength=len(dataset.class_names))
    if not shown.all():
        missing = dataset.class_names[int(shown.argmin())]
        raise MenteeError(f"class {missing!r} has no training image: add some, or drop the class")
    if not is_test.any():
        raise MenteeError("a fifth of so few images are none to test with: add some")
    return [
        Split(
            name, dataset.images_of(chosen), dataset.labels[chosen],
            tuple(dataset.ids[row] for row in chosen), dataset.class_names,
        )
        for name, chosen in rows.items()
    ]  # fmt: skip


def draw_test(labels: np.ndarray) -> np.ndarray:
    """A fifth of the images of every class: bool `(n,)` for labels `(n,)`."""
    generator = np.random.default_rng(SEED)
    is_test = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels[labels != NO_LABEL]):
        rows = generator.permutation(np.flatnonzero(labels == label))
        is_test[rows[: len(rows) // 5]] = True
    return is_test
