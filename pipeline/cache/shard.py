"""One HDF5 file of a cache: written whole or not at all, mapped for reading.

Plain data sets, contiguous and page-aligned, a CRC-32 for every row and a SHA-256 for every data
set. No dates and no names of hosts or runs: the same work gives the same bytes.
"""

import hashlib
import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from pipeline.cache.schema import ALIGNMENT, CHECKSUMS, FORMAT, Place, fingerprint
from pipeline.errors import MenteeError
from pipeline.files import canonical_json, written_whole

MAX_SPEC_BYTES = 1 << 20


@dataclass(frozen=True)
class Shard:
    """An open shard: its arrays by name, mapped read-only, `(rows, ...)` each."""

    path: Path
    spec: dict[str, Any]
    fingerprint: str
    place: Place
    arrays: dict[str, np.ndarray]
    digests: dict[str, str]


def write_shard(
    path: Path, arrays: dict[str, np.ndarray], spec: dict[str, Any], place: Place
) -> None:
    """Write beside `path`, read back and check, sync, rename.

    `arrays` are little-endian, each with the rows `place.start .. place.stop - 1`.
    """
    first = next(iter(arrays.values()))
    arrays = {**arrays, CHECKSUMS: _checksums(first)}
    with written_whole(path) as partial:
        with h5py.File(
            partial, "w", libver=("earliest", "v110"), alignment_threshold=ALIGNMENT,
            alignment_interval=ALIGNMENT,
        ) as file:  # fmt: skip
            file.attrs["format"] = FORMAT
            file.attrs["spec"] = canonical_json(spec)
            for field in ("view", "part", "start", "stop"):
                file.attrs[field] = getattr(place, field)
            for name, array in arrays.items():
                _write_aligned(file, name, np.ascontiguousarray(array))
        check_shard(open_shard(partial))


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
    dataset.attrs["sha256"] = _digest(array)


def open_shard(path: Path) -> Shard:
    """Map a shard. A MenteeError says in one line why a file is refused.

    Caches may come from strangers: only plain contiguous data sets inside this very file are
    mapped, and never more bytes than it has.
    """
    try:
        with h5py.File(path, "r") as file:
            format_ = file.attrs.get("format")
            if format_ != FORMAT:
                raise MenteeError(
                    f"{path} has cache format {format_!r}, this version reads {FORMAT}: dump again"
                )
            size = path.stat().st_size
            arrays = {name: _map(path, file, name, size) for name in file}
            digests = {name: str(file[name].attrs["sha256"]) for name in file}
            spec = json.loads(str(file.attrs["spec"])[:MAX_SPEC_BYTES])
            place = Place(*(int(file.attrs[f]) for f in ("view", "part", "start", "stop")))
    except (OSError, KeyError, ValueError, TypeError, RuntimeError, OverflowError) as error:
        reason = " ".join(str(error).split())
        raise MenteeError(
            f"{path} is not a whole shard ({reason}): remove it and dump again"
        ) from None
    rows = place.stop - place.start
    for name, array in arrays.items():
        if array.shape[:1] != (rows,):
            raise MenteeError(
                f"{path}: {name} has shape {array.shape}, not {rows} rows: dump again"
            )
    return Shard(path, spec, fingerprint(spec), place, arrays, digests)


def _map(path: Path, file: h5py.File, name: str, size: int) -> np.ndarray:
    if not isinstance(file.get(name, getlink=True), h5py.HardLink):
        raise ValueError(f"{name} is a link to elsewhere")
    dataset = file[name]
    if not isinstance(dataset, h5py.Dataset) or dataset.dtype.kind not in "fiu":
        raise ValueError(f"{name} is not a numeric data set")
    if dataset.id.get_create_plist().get_layout() != h5py.h5d.CONTIGUOUS or dataset.external:
        raise ValueError(f"{name} is not stored contiguously in this file")
    offset = dataset.id.get_offset()
    if offset is None or offset + dataset.id.get_storage_size() > size:
        raise ValueError(f"{name} reaches past the end of the file")
    return np.memmap(path, dataset.dtype, "r", offset, dataset.shape)


def check_shard(shard: Shard) -> None:
    """Compare every data set with the digest that stands beside it."""
    for name, array in shard.arrays.items():
        if _digest(array) != shard.digests[name]:
            raise MenteeError(f"{shard.path}: {name} is damaged: remove the file and dump again")


def _digest(array: np.ndarray) -> str:
    return hashlib.sha256(memoryview(np.ascontiguousarray(array)).cast("B")).hexdigest()


def _checksums(array: np.ndarray) -> np.ndarray:
    """CRC-32 of every row, uint32 `(n,)`."""
    rows = np.ascontiguousarray(array)
    return np.fromiter((zlib.crc32(row.data) for row in rows), dtype="<u4", count=len(rows))
