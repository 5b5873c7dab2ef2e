"""One HDF5 file of a cache: written whole or not at all, mapped for reading.

Plain data sets, contiguous and page-aligned, a CRC-32 for every row and a SHA-256 for every data
set. No dates and no names of hosts or runs: the same work gives the same bytes.
"""

import hashlib
import io
import json
import math
import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from pipeline.cache.schema import (
    ALIGNMENT,
    CHANNEL_OFFSET,
    CHANNEL_SCALE,
    CHECKSUMS,
    FORMAT,
    Entry,
    Extent,
    Place,
    check_modest,
    fingerprint,
)
from pipeline.errors import MenteeError, reason
from pipeline.files import canonical_json, digest_file, written_whole

MAX_ATTRIBUTE_BYTES = 1 << 20
MAX_ARRAYS = 16  # ours have four at most
# From 1.8 on HDF5 puts checksums on its metadata: damage there is refused, not followed.
LIBVER = ("v108", "v110")
SHARED = {CHANNEL_SCALE, CHANNEL_OFFSET}
# Whatever h5py raises on a file that is no shard, or one that was made to trip it.
UNREADABLE = (
    OSError, KeyError, ValueError, TypeError, RuntimeError, OverflowError, MemoryError,
    RecursionError, AttributeError,
)  # fmt: skip


@dataclass(frozen=True)
class Shard:
    """An open shard: its arrays by name, mapped read-only, and where they lie in the file.

    max_error: the largest difference between a value as the teacher gave it and as it is stored.
    """

    path: Path
    spec: dict[str, Any]
    fingerprint: str
    place: Place
    arrays: dict[str, np.ndarray]
    extents: dict[str, Extent]
    max_error: float


def write_shard(
    path: Path, arrays: dict[str, np.ndarray], spec: dict[str, Any], place: Place,
    max_error: float = 0.0,
) -> None:  # fmt: skip
    """Write beside `path`, read back and check, sync, rename.

    `arrays` are little-endian, each with the rows `place.start .. place.stop - 1`, which get a
    checksum over all arrays; numbers a channel belong to the shard as a whole.
    """
    rows = place.stop - place.start
    by_row = [array for name, array in arrays.items() if name not in SHARED]
    _check_rows(path, {name: a.shape for name, a in arrays.items()}, rows)
    image = io.BytesIO()  # the disk sees one plain write, whose errors say what they are
    with h5py.File(
        image, "w", libver=LIBVER, alignment_threshold=ALIGNMENT,
        alignment_interval=ALIGNMENT,
    ) as file:  # fmt: skip
        file.attrs["format"] = FORMAT
        write_text(file, "spec", canonical_json(spec))
        file.attrs["max_error"] = float(max_error)
        for field in ("view", "part", "start", "stop"):
            file.attrs[field] = getattr(place, field)
        for name, array in {**arrays, CHECKSUMS: _checksums(by_row, rows)}.items():
            _write_aligned(file, name, np.ascontiguousarray(array))
    with written_whole(path) as partial:
        partial.write_bytes(image.getbuffer())
        if digest_file(partial) != hashlib.sha256(image.getbuffer()).hexdigest():
            raise MenteeError(f"{path} did not reach the disk as it was written: check the disk")


def _write_aligned(file: h5py.File, name: str, array: np.ndarray) -> None:
    """A contiguous data set without a date; the file aligns it if it fills a page."""
    layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    layout.set_layout(h5py.h5d.CONTIGUOUS)
    layout.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    layout.set_obj_track_times(False)
    space = h5py.h5s.create_simple(array.shape)
    kind = h5py.h5t.py_create(array.dtype, logical=True)
    dataset = h5py.Dataset(h5py.h5d.create(file.id, name.encode(), kind, space, dcpl=layout))
    dataset[...] = array
    write_text(dataset, "sha256", _digest(array))


def write_text(owner: h5py.File | h5py.Dataset, name: str, text: str) -> None:
    """An attribute of fixed length, so that its header alone says what reading it will take."""
    content = text.encode()
    owner.attrs.create(name, content, dtype=h5py.string_dtype("utf-8", len(content)))


def open_shard(path: Path) -> Shard:
    """Map a shard. A MenteeError says in one line why a file is refused.

    Caches may come from strangers: only plain contiguous data sets inside this very file are
    mapped, and never more bytes than it has.
    """
    try:
        with h5py.File(path, "r") as file:
            _check_format(path, file)
            if len(file) > MAX_ARRAYS:
                raise ValueError(f"it holds {len(file)} data sets")
            size = path.stat().st_size
            extents = {name: _extent(file, name, size) for name in file}
            arrays: dict[str, np.ndarray] = {
                name: np.memmap(path, file[name].dtype, "r", extent.offset, file[name].shape)
                for name, extent in extents.items()
            }
            text = read_attribute(file, "spec")
            if not isinstance(text, str):
                raise ValueError(f"spec is {text!r}")
            spec = json.loads(text)
            check_modest(spec)
            own_fingerprint = fingerprint(spec)
            place = Place(*(_whole_number(file, f) for f in ("view", "part", "start", "stop")))
            max_error = read_attribute(file, "max_error")
            if not isinstance(max_error, float) or not 0 <= max_error < math.inf:
                raise ValueError(f"max_error is {max_error!r}")
    except UNREADABLE as error:
        raise MenteeError(
            f"{path} is not a whole shard ({reason(error)}): remove it and dump again"
        ) from None
    _check_rows(
        path, {name: array.shape for name, array in arrays.items()}, place.stop - place.start
    )
    return Shard(path, spec, own_fingerprint, place, arrays, extents, max_error)


def _check_format(path: Path, file: h5py.File) -> None:
    try:
        found = read_attribute(file, "format")
    except (KeyError, ValueError):
        found = None
    if found != FORMAT:
        raise MenteeError(
            f"{path} has cache format {repr(found)[:40]}, this version reads {FORMAT}: dump again"
        )


def _check_rows(path: Path, shapes: dict[str, tuple[int, ...]], rows: int) -> None:
    for name, shape in shapes.items():
        if name not in SHARED and shape[:1] != (rows,):
            raise MenteeError(f"{path}: {name} has shape {shape}, not {rows} rows: dump again")


def read_attribute(owner: h5py.File | h5py.Dataset, name: str) -> int | float | str:
    """An attribute that is one number or one text, no longer than we ever write.

    Anything else is a ValueError before it is read: many texts may all be the same bytes of the
    file and fill the memory, and HDF5 allocates whatever length a text of variable length claims.
    """
    attribute = owner.attrs.get_id(name)
    is_single = attribute.get_space().get_simple_extent_type() == h5py.h5s.SCALAR
    kind = attribute.get_type()
    is_number = kind.get_class() in (h5py.h5t.INTEGER, h5py.h5t.FLOAT)
    is_text = kind.get_class() == h5py.h5t.STRING and not kind.is_variable_str()
    if not (
        is_single and (is_number or is_text) and attribute.get_storage_size() <= MAX_ATTRIBUTE_BYTES
    ):
        raise ValueError(f"attribute {name} is not one number or text")
    value = owner.attrs[name].item()
    return value.decode() if isinstance(value, bytes) else value


def _whole_number(file: h5py.File, name: str) -> int:
    value = read_attribute(file, name)
    if type(value) is not int:
        raise ValueError(f"attribute {name} is {str(value)[:40]!r}")
    return value


def _extent(file: h5py.File, name: str, size: int) -> Extent:
    if not isinstance(file.get(name, getlink=True), h5py.HardLink):
        raise ValueError(f"{name} is a link to elsewhere")
    dataset = file[name]
    if not isinstance(dataset, h5py.Dataset) or dataset.dtype.kind not in "fiu":
        raise ValueError(f"{name} is not a numeric data set")
    if dataset.id.get_create_plist().get_layout() != h5py.h5d.CONTIGUOUS or dataset.external:
        raise ValueError(f"{name} is not stored contiguously in this file")
    offset, length = dataset.id.get_offset(), dataset.id.get_storage_size()
    if offset is None or offset + length > size:
        raise ValueError(f"{name} reaches past the end of the file")
    if length != math.prod(dataset.shape) * dataset.dtype.itemsize:
        raise ValueError(f"{name} has another size than its shape")
    if length >= ALIGNMENT and offset % ALIGNMENT:
        raise ValueError(f"{name} does not begin on a page")  # it would be copied into memory
    digest = read_attribute(dataset, "sha256")
    if not isinstance(digest, str) or not re.fullmatch("[0-9a-f]{64}", digest):
        raise ValueError(f"{name} has no SHA-256")
    return Extent(offset, length, digest)


def check_shard(shard: Shard) -> None:
    """Compare every data set with the digest that stands beside it."""
    for name, array in shard.arrays.items():
        if _digest(array) != shard.extents[name].sha256:
            raise MenteeError(f"{shard.path}: {name} is damaged: remove the file and dump again")


def entry_of(path: Path) -> Entry:
    """What a manifest says of a finished shard."""
    shard = open_shard(path)
    size = path.stat().st_size
    return Entry(shard.place.view, shard.place.part, size, digest_file(path), shard.extents)


def _digest(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).data.cast("B")).hexdigest()


def _checksums(arrays: list[np.ndarray], rows: int) -> np.ndarray:
    """CRC-32 of every row of all arrays together, uint32 `(rows,)`."""
    sums = np.zeros(rows, dtype="<u4")
    for array in map(np.ascontiguousarray, arrays):
        flat = array.reshape(rows, -1).view("u1")
        before = sums.tolist()
        sums[:] = [zlib.crc32(row.data, sum_) for row, sum_ in zip(flat, before, strict=True)]
    return sums
