"""Where images come from: CIFAR-10, any torchvision set, one's own files, or sklearn's digits."""

import inspect
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.blocks import Data
from pipeline.cifar10 import CLASS_NAMES as CIFAR10_CLASSES
from pipeline.cifar10 import read_cifar10
from pipeline.errors import MenteeError
from pipeline.folders import Problems, Sample, list_images, look_at_all
from pipeline.images import to_square, upright
from pipeline.progress import track

WORK = Path(".work")
COPIED = 16  # images at a time, where those of a split are copied


@dataclass(frozen=True)
class Dataset:
    """Labelled images before they are split.

    images: uint8 `(n, size, size, 3)`, read-only and on the disk where they may be many; labels:
    int64 `(n,)`, NO_LABEL where there is none; ids: n stable names of the samples; is_test: bool
    `(n,)`, the official test set, all False where there is none.
    """

    images: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    ids: tuple[str, ...]
    is_test: np.ndarray

    def images_of(self, rows: np.ndarray) -> np.ndarray:
        """Copies of the images of `rows`, int `(m,)`, in their order; they are on the disk too."""
        starts = range(0, len(rows), COPIED)
        parts = (self.images[rows[start : start + COPIED]] for start in starts)
        return _on_disk(parts, self.images.shape[1])


def load_dataset(data: Data, raw: Path) -> Dataset:
    """Read `data.source`; downloads go to the folder `raw`."""
    source, _, name = data.source.partition(":")
    if source == "cifar10":
        return _cifar10(raw, data.image_size)
    if source == "digits":
        return _digits(data.image_size)
    if source == "torchvision":
        return _torchvision(name, raw, data.image_size)
    return _own(data)


def _cifar10(raw: Path, size: int) -> Dataset:
    images, labels = read_cifar10(raw)
    is_test = np.arange(len(images)) >= 50_000
    ids = [f"train/{i:05}" for i in range(50_000)] + [f"test/{i:05}" for i in range(10_000)]
    return Dataset(_resized(images, size), labels, CIFAR10_CLASSES, tuple(ids), is_test)


def _digits(size: int) -> Dataset:
    from sklearn.datasets import load_digits

    digits = load_digits()
    grey = np.round(digits.images * (255 / 16)).astype(np.uint8)
    images = np.repeat(grey[..., None], 3, axis=-1)
    ids = tuple(f"digit/{i:04}" for i in range(len(images)))
    labels = digits.target.astype(np.int64)
    names = tuple(str(name) for name in digits.target_names)
    return Dataset(_resized(images, size), labels, names, ids, np.zeros(len(images), dtype=bool))


def _torchvision(name: str, raw: Path, size: int) -> Dataset:
    import torchvision

    kind = getattr(torchvision.datasets, name, None)
    if not inspect.isclass(kind):
        raise MenteeError(f"data.source: torchvision.datasets has no {name!r}")
    parts = [_torchvision_split(kind, raw, train) for train in (True, False)]
    class_names = getattr(parts[0], "classes", None)
    labels: list[int] = []
    ids: list[str] = []

    def read() -> Iterator[np.ndarray]:
        for split, part in zip(("train", "test"), parts, strict=True):
            for i, (picture, label) in enumerate(track(part, f"reading {name} {split}", len(part))):
                labels.append(int(label))
                ids.append(f"{split}/{i:07}")
                yield to_square(upright(picture), size)

    images = _on_disk(read(), size)
    if class_names is None:
        class_names = [str(label) for label in range(max(labels) + 1)]
    is_test = np.arange(len(images)) >= len(parts[0])
    names = tuple(str(class_name) for class_name in class_names)
    return Dataset(images, np.array(labels), names, tuple(ids), is_test)


def _torchvision_split(kind: Callable, raw: Path, train: bool) -> Sequence:
    """The data sets of torchvision say `train=True` or `split="train"`."""
    arguments = inspect.signature(kind).parameters
    which: dict[str, bool | str]
    if "train" in arguments:
        which = {"train": train}
    elif "split" in arguments:
        which = {"split": "train" if train else "test"}
    else:
        raise MenteeError(f"data.source: {kind.__name__} has no training and test split")
    try:
        return kind(str(raw), download=True, **which)
    except (OSError, RuntimeError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise MenteeError(
            f"data.source: torchvision could not read {kind.__name__} from {raw} nor download it "
            f"({reason})"
        ) from None


def _own(data: Data) -> Dataset:
    try:
        listing = list_images(data.source)
    except MenteeError as error:
        raise MenteeError(f"data.source: {error}") from None
    problems = Problems()
    kept: list[Sample] = []
    small = partial(to_square, size=data.image_size)

    def read() -> Iterator[np.ndarray]:
        for sample, image in look_at_all(listing, problems, small):
            kept.append(sample)
            yield image

    images = _on_disk(read(), data.image_size)
    problems.settle(data.skip_broken)
    return Dataset(
        images,
        np.array([sample.label for sample in kept], dtype=np.int64),
        listing.class_names,
        tuple(sample.name for sample in kept),
        np.zeros(len(kept), dtype=bool),
    )


def _on_disk(parts: Iterable[np.ndarray], size: int) -> np.ndarray:
    """Images `(size, size, 3)`, or some at a time, as one array that is read from a file.

    The file has no name and goes with the array: memory need not hold all images of a data set.
    """
    WORK.mkdir(exist_ok=True)
    with tempfile.TemporaryFile(dir=WORK) as file:
        for part in parts:
            file.write(part.data)
        count = file.tell() // (size * size * 3)
        if not count:
            return np.empty((0, size, size, 3), dtype=np.uint8)
        file.flush()
        return np.memmap(file, np.uint8, "r", shape=(count, size, size, 3))


def _resized(images: np.ndarray, size: int) -> np.ndarray:
    if images.shape[1:3] == (size, size):
        return images
    return np.stack([to_square(Image.fromarray(image), size) for image in images])
