"""Where images come from: CIFAR-10, any torchvision set, a folder, or scikit-learn's digits."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from pipeline.blocks import Data
from pipeline.cifar10 import CLASS_NAMES as CIFAR10_CLASSES
from pipeline.cifar10 import read_cifar10
from pipeline.errors import MenteeError
from pipeline.progress import track

PICTURE_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}


@dataclass(frozen=True)
class Dataset:
    """Labelled images before they are split.

    images: uint8 `(n, size, size, 3)`; labels: int64 `(n,)`; ids: n stable names of the samples;
    is_test: bool `(n,)`, the official test set, all False where there is none.
    """

    images: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    ids: tuple[str, ...]
    is_test: np.ndarray


def load_dataset(data: Data, raw: Path) -> Dataset:
    """Read `data.source`; downloads go to the folder `raw`."""
    source, _, name = data.source.partition(":")
    if source == "cifar10":
        return _cifar10(raw, data.image_size)
    if source == "digits":
        return _digits(data.image_size)
    if source == "torchvision":
        return _torchvision(name, raw, data.image_size)
    return _folder(Path(name), data.image_size)


def to_square(picture: Image.Image, size: int) -> np.ndarray:
    """Any picture as uint8 `(size, size, 3)`: turned as EXIF says, RGB, cropped to its centre.

    Transparent pixels become white; 16-bit grey keeps its upper 8 bits.
    """
    picture = ImageOps.exif_transpose(picture)
    if picture.mode.startswith("I;16"):
        picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        paper = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(paper, picture)
    picture = picture.convert("RGB")
    if picture.size != (size, size):
        picture = ImageOps.fit(picture, (size, size), Image.Resampling.BICUBIC)
    return np.asarray(picture)


def read_picture(path: Path, size: int) -> np.ndarray:
    """One image file as uint8 `(size, size, 3)`; a MenteeError names a file that is broken."""
    try:
        with Image.open(path) as picture:
            return to_square(picture, size)
    except FileNotFoundError:
        raise MenteeError(f"{path}: there is no such file") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = " ".join(str(error).split())
        raise MenteeError(
            f"{path}: not a readable image ({reason}); repair or remove this file"
        ) from None


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
    images, labels, ids = [], [], []
    for split, part in zip(("train", "test"), parts, strict=True):
        for i, (picture, label) in enumerate(track(part, f"reading {name} {split}", len(part))):
            images.append(to_square(picture, size))
            labels.append(int(label))
            ids.append(f"{split}/{i:07}")
    if class_names is None:
        class_names = [str(label) for label in range(max(labels) + 1)]
    is_test = np.arange(len(images)) >= len(parts[0])
    names = tuple(str(class_name) for class_name in class_names)
    return Dataset(np.stack(images), np.array(labels), names, tuple(ids), is_test)


def _torchvision_split(kind: Callable, raw: Path, train: bool) -> Sequence:
    """The data sets of torchvision say `train=True` or `split="train"`."""
    arguments = inspect.signature(kind).parameters
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


def _folder(folder: Path, size: int) -> Dataset:
    if not folder.is_dir():
        raise MenteeError(f"data.source: {folder} is not a folder")
    class_names = tuple(sorted(entry.name for entry in folder.iterdir() if entry.is_dir()))
    files = [
        (path, label)
        for label, name in enumerate(class_names)
        for path in sorted((folder / name).rglob("*"))
        if path.suffix.lower() in PICTURE_SUFFIXES
    ]
    if len(class_names) < 2 or not files:
        raise MenteeError(
            f"data.source: {folder} must hold at least two folders of images, one folder a class; "
            f"found {len(class_names)} folders and {len(files)} images"
        )
    images = np.empty((len(files), size, size, 3), dtype=np.uint8)
    for i, (path, _) in enumerate(track(files, f"reading {folder}", len(files))):
        images[i] = read_picture(path, size)
    labels = np.array([label for _, label in files])
    ids = tuple(path.relative_to(folder).as_posix() for path, _ in files)
    return Dataset(images, labels, class_names, ids, np.zeros(len(files), dtype=bool))


def _resized(images: np.ndarray, size: int) -> np.ndarray:
    if images.shape[1:3] == (size, size):
        return images
    return np.stack([to_square(Image.fromarray(image), size) for image in images])
