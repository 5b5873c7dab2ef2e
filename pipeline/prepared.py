"""The prepared file: every split's images, labels and ids in one HDF5 file."""

import hashlib
import json
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from pipeline.cache.shard import LIBVER, UNREADABLE, read_attribute, write_text
from pipeline.errors import MenteeError, reason
from pipeline.files import written_whole

PREPARED_FILE = Path("data/prepared/images.h5")
TARGETS = Path("data/targets")  # a file of the same form for each target, with two splits
SPLITS = ("labelled", "unlabelled", "validation", "test")
NO_LABEL = -1
FORMAT = 2  # in format 1 the names of classes were a text of variable length


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
    # Through Python's file: where a disk is full, HDF5's own cannot be closed and may crash.
    with (
        written_whole(path) as partial, open(partial, "w+b") as written,
        h5py.File(written, "w", libver=LIBVER) as file,
    ):  # fmt: skip
        file.attrs["format"] = FORMAT
        write_text(file, "class_names", json.dumps(splits[0].class_names))
        for split in splits:
            group = file.create_group(split.name)
            group.create_dataset("images", data=split.images, track_times=False)
            group.create_dataset("labels", data=split.labels.astype("<i8"), track_times=False)
            ids = np.array([sample.encode() for sample in split.ids], dtype=bytes)
            group.create_dataset("ids", data=ids, track_times=False)


def read_split(path: Path, name: str, made_by: str = "prepare") -> Split:
    """Read one split of the file that `mentee prepare`, or another command, wrote.

    The file may come from strangers: only plain data sets inside this very file are read, and
    never more bytes than it has. A MenteeError says in one line why one is refused.
    """
    try:
        with h5py.File(path, "r") as file:
            if read_attribute(file, "format") != FORMAT:
                raise MenteeError(f"{path} has another format: run `mentee {made_by}` again")
            size = path.stat().st_size
            group = _member(file, name, h5py.Group)
            images, labels, ids = (_plain(group, n, size) for n in ("images", "labels", "ids"))
            _check_form(images, labels, ids)
            split = Split(
                name=name,
                images=_mapped(path, images),
                labels=labels[:],
                ids=tuple(sample.decode() for sample in ids[:]),
                class_names=_read_class_names(file),
            )
            _check_labels(split)
            return split
    except UNREADABLE as error:
        raise MenteeError(
            f"{path} cannot be read ({reason(error)}): run `mentee {made_by}` to make it"
        ) from None


def _read_class_names(file: h5py.File) -> tuple[str, ...]:
    attribute = file.attrs.get_id("class_names")
    if attribute.get_space().get_simple_extent_type() != h5py.h5s.SCALAR:
        raise ValueError("class_names are not one text")  # many may be the same bytes of the file
    text: Any = read_attribute(file, "class_names")  # JSON refuses what is none
    names = json.loads(text)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError("class_names are no list of names")
    "".join(names).encode()  # a ValueError where JSON spells half a character
    return tuple(names)


def _member(group: h5py.Group, name: str, kind: type) -> h5py.Group | h5py.Dataset:
    """What lies in a group itself; where a link leads is not even looked at."""
    links = group.id.links
    if not links.exists(name.encode()):
        raise ValueError(f"it has no {name}")
    if links.get_info(name.encode()).type != h5py.h5l.TYPE_HARD:
        raise ValueError(f"{name} is a link to elsewhere")
    member = group[name]
    if not isinstance(member, kind):
        raise ValueError(f"{name} is no {kind.__name__.lower()}")
    return member


def _plain(group: h5py.Group, name: str, size: int) -> h5py.Dataset:
    """A data set that lies in one piece in its file of `size` bytes."""
    dataset = _member(group, name, h5py.Dataset)
    if dataset.id.get_create_plist().get_layout() != h5py.h5d.CONTIGUOUS or dataset.external:
        raise ValueError(f"{name} are not stored contiguously in this file")
    offset, length = dataset.id.get_offset(), dataset.id.get_storage_size()
    if length != math.prod(dataset.shape) * dataset.dtype.itemsize:
        raise ValueError(f"{name} have another size than their shape")
    if length and offset + length > size:
        raise ValueError(f"{name} reach past the end of the file")
    return dataset


def _check_form(images: h5py.Dataset, labels: h5py.Dataset, ids: h5py.Dataset) -> None:
    if images.dtype != np.uint8 or images.shape[3:] != (3,) or 0 in images.shape[1:]:
        raise ValueError(
            f"images are {images.dtype} {images.shape}, not uint8 (n, height, width, 3)"
        )
    count = len(images)
    if labels.dtype != np.dtype("<i8") or labels.shape != (count,):
        raise ValueError(f"labels are {labels.dtype} {labels.shape}, not int64 ({count},)")
    if ids.dtype.kind != "S" or ids.shape != (count,):
        raise ValueError(f"ids are {ids.dtype} {ids.shape}, not bytes ({count},)")


def _check_labels(split: Split) -> None:
    if not len(split):
        if split.name == "labelled":  # there would be nothing to learn from
            raise ValueError("its split labelled has no images")
        return
    first, last = split.labels.min(), split.labels.max()
    lowest = NO_LABEL if split.name == "unlabelled" else 0
    if first < lowest or last >= len(split.class_names):
        raise ValueError(
            f"labels of the split {split.name} are {first} .. {last}, of "
            f"{len(split.class_names)} classes"
        )


def _mapped(path: Path, dataset: h5py.Dataset) -> np.ndarray:
    """A contiguous data set of a file as it lies there; what is written to it stays in memory."""
    offset = dataset.id.get_offset()
    if offset is None:  # no rows
        return dataset[:]
    return np.memmap(path, dataset.dtype, "c", offset, dataset.shape)
