"""The prepared file: every split's images, labels and ids in one HDF5 file."""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import h5py
import numpy as np

from pipeline.errors import MenteeError
from pipeline.files import written_whole

PREPARED_FILE = Path("data/prepared/images.h5")
TARGETS = Path("data/targets")  # a file of the same form for each target, with two splits
SPLITS = ("labelled", "unlabelled", "validation", "test")
NO_LABEL = -1
FORMAT = 1


@dataclass(frozen=True)
class Split:
    """images: uint8 `(n, size, size, 3)`; labels: int64 `(n,)`, all -1 in the unlabelled split.

    As `read_split` returns them, images lie in the file until they are looked at, and all processes
    of a machine share them.
    """

    name: str
    images: np.ndarray
    labels: np.ndarray
    ids: tuple[str, ...]
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.images.shape[1], self.images.shape[2]

    @cached_property
    def digest(self) -> str:
        """SHA-256 over ids, labels, pixels and class names: what a cache says it was made for."""
        digest = hashlib.sha256(json.dumps([self.ids, self.class_names]).encode())
        digest.update(self.labels.astype("<i8").tobytes())
        digest.update(np.ascontiguousarray(self.images).data)
        return digest.hexdigest()


def write_prepared(path: Path, splits: list[Split]) -> None:
    """Write splits of the same classes as one HDF5 file, whole or not at all."""
    with written_whole(path) as partial, h5py.File(partial, "w") as file:
        file.attrs["format"] = FORMAT
        file.attrs["class_names"] = json.dumps(splits[0].class_names)
        for split in splits:
            group = file.create_group(split.name)
            group.create_dataset("images", data=split.images, track_times=False)
            group.create_dataset("labels", data=split.labels.astype("<i8"), track_times=False)
            ids = np.array([sample.encode() for sample in split.ids], dtype=bytes)
            group.create_dataset("ids", data=ids, track_times=False)


def read_split(path: Path, name: str, made_by: str = "prepare") -> Split:
    """Read one split of the file that `mentee prepare`, or another command, wrote."""
    try:
        with h5py.File(path, "r") as file:
            if file.attrs.get("format") != FORMAT:
                raise MenteeError(f"{path} has another format: run `mentee {made_by}` again")
            group = file[name]
            return Split(
                name=name,
                images=_mapped(path, group["images"]),
                labels=group["labels"][:],
                ids=tuple(sample.decode() for sample in group["ids"][:]),
                class_names=tuple(json.loads(file.attrs["class_names"])),
            )
    except (OSError, KeyError) as error:
        raise MenteeError(
            f"{path} cannot be read ({error}): run `mentee {made_by}` to make it"
        ) from None


def _mapped(path: Path, dataset: h5py.Dataset) -> np.ndarray:
    """A contiguous data set of a file as it lies there; what is written to it stays in memory."""
    offset = dataset.id.get_offset()
    if offset is None:  # no rows
        return dataset[:]
    return np.memmap(path, dataset.dtype, "c", offset, dataset.shape)
