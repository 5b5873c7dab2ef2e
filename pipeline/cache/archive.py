"""The archive layout: every data set in gzip chunks, a filter that every HDF5 has.

Smaller on the wire and slow to read at random, so nobody trains from it: `unpack` gives the fast
layout back, bit for bit, and checks that it does.
"""

import math
import os
import zlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from pipeline.cache.encodings import Layout
from pipeline.cache.kinds import folders_with
from pipeline.cache.reader import check_files, layout_of, open_kind_shard
from pipeline.cache.schema import (
    ARCHIVE,
    CHECKSUMS,
    MANIFEST,
    UNPARSABLE,
    Entry,
    Manifest,
    Place,
    parse_manifest,
    read_bounded_json,
)
from pipeline.cache.shard import LIBVER, UNREADABLE, Shard, check_shard, read_attribute, write_shard
from pipeline.cache.writer import write_manifest, written_hdf5
from pipeline.errors import MenteeError, reason
from pipeline.files import digest_file, write_json

CHUNK_BYTES = 1 << 20
MAX_ARRAY_BYTES = 4 << 30
MAX_RATIO = 1100  # gzip cannot shrink anything further than about 1,030 to 1
_FILTERS = [h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_DEFLATE]


def pack_kind(folder: Path, manifest: Manifest, target: Path) -> None:
    """Write a kind's archive into `target`: the same paths, and archive.json."""
    _check_packable(folder, manifest)
    check_files(folder, manifest)
    files = {}
    for entry in manifest.entries:
        place = manifest.place(entry)
        shard = _open_whole(folder, manifest, entry)
        path = place.path(target)
        with written_hdf5(path, LIBVER) as file:
            file.attrs["max_error"] = shard.max_error
            for name, array in shard.arrays.items():
                if name != CHECKSUMS:
                    _pack_array(file, name, array)
        key = place.path(Path()).as_posix()
        files[key] = {"bytes": path.stat().st_size, "sha256": digest_file(path)}
    write_json(target / ARCHIVE, {"manifest": manifest.content(), "files": files})


def _check_packable(folder: Path, manifest: Manifest) -> None:
    """A MenteeError unless every shard is here and no larger than `unpack_kind` takes."""
    for entry in manifest.entries:
        path = manifest.place(entry).path(folder)
        if not path.is_file():
            raise MenteeError(f"{path} is missing: dump again, or `dvc pull` it")
        for name, extent in entry.arrays.items():
            if extent.bytes > MAX_ARRAY_BYTES:
                raise MenteeError(
                    f"{path}: {name} has {extent.bytes} bytes, an archive takes at most "
                    f"{MAX_ARRAY_BYTES}: dump again with fewer cache.rows_per_shard"
                )


def _open_whole(folder: Path, manifest: Manifest, entry: Entry) -> Shard:
    """A shard whose numbers are those of its digests, as they must be once it is unpacked."""
    shard = open_kind_shard(folder, manifest, manifest.place(entry))
    check_shard(shard)
    if shard.extents != entry.arrays:
        raise MenteeError(f"{shard.path} holds other data sets than {MANIFEST} says: dump again")
    return shard


def _pack_array(file: h5py.File, name: str, array: np.ndarray) -> None:
    file.create_dataset(
        name, data=array, chunks=_chunks(array), compression="gzip", compression_opts=6,
        shuffle=True, track_times=False,
    )  # fmt: skip


def _chunks(array: np.ndarray) -> tuple[int, ...]:
    """Whole rows of floats; of 8-bit features many rows of few channels, which packs 2 % better."""
    count = max(1, len(array))
    row = max(1, array.nbytes // count)
    if array.dtype.itemsize > 1 or array.ndim == 1:
        return (min(count, max(1, CHUNK_BYTES // row)), *array.shape[1:])
    rows = min(count, 8192, max(1, CHUNK_BYTES // math.prod(array.shape[2:])))
    channel = rows * row // array.shape[1]
    channels = max(1, CHUNK_BYTES // 32 // channel)
    return (rows, min(array.shape[1], channels), *array.shape[2:])


def find_archives(root: Path) -> dict[str, Path]:
    """Every packed kind at or under `root`, by its path there."""
    folders = folders_with(ARCHIVE, root)
    if not folders:
        raise MenteeError(f"{root} holds no archive: `mentee cache pack` makes one")
    return {folder.relative_to(root).as_posix(): folder for folder in folders}


def unpack_kind(folder: Path, target: Path) -> None:
    """Write the fast layout of the archive in `folder` into `target`, checked by its digests."""
    manifest, files = _read_archive(folder)
    for entry in manifest.entries:
        place = manifest.place(entry)
        path = place.path(folder)
        known = files.get(place.path(Path()).as_posix(), {})
        if not path.is_file():
            raise MenteeError(f"{path} is missing: fetch the archive again")
        if digest_file(path) != known.get("sha256"):
            raise MenteeError(f"{path} is damaged: fetch the archive again")
        arrays, max_error = _unpack_arrays(path, manifest, entry, place)
        write_shard(place.path(target), arrays, manifest.spec, place, max_error)
    places = [manifest.place(entry) for entry in manifest.entries]
    made = write_manifest(target, manifest.kind, manifest.spec, places)
    for before, after in zip(manifest.entries, made.entries, strict=True):
        digests = [{name: extent.sha256 for name, extent in entry.arrays.items()}
                   for entry in (before, after)]  # fmt: skip
        if digests[0] != digests[1]:
            path = manifest.place(before).path(folder)
            raise MenteeError(f"{path} unpacks to other numbers than were packed: fetch it again")


def _read_archive(folder: Path) -> tuple[Manifest, dict[str, Any]]:
    path = folder / ARCHIVE
    try:
        content = read_bounded_json(path)
        files = content["files"]
        if not all(isinstance(about, dict) for about in files.values()):
            raise ValueError("its files make no sense")
        return parse_manifest(content["manifest"]), files
    except UNPARSABLE as error:
        raise MenteeError(f"{path} is not an archive ({reason(error)}): fetch it again") from None


def _unpack_arrays(
    path: Path, manifest: Manifest, entry: Entry, place: Place
) -> tuple[dict[str, np.ndarray], float]:
    rows = place.stop - place.start
    try:
        with h5py.File(path, "r") as file:
            arrays = {
                name: _unpack_array(file, name, layout, rows)
                for name, layout in layout_of(manifest).items()
            }
            return arrays, float(read_attribute(file, "max_error"))
    except (*UNREADABLE, zlib.error) as error:
        raise MenteeError(f"{path} cannot be unpacked ({reason(error)}): fetch it again") from None


def _unpack_array(file: h5py.File, name: str, layout: Layout, rows: int) -> np.ndarray:
    """One data set, if it is just what its layout says and no larger than its bytes can hold."""
    if not isinstance(file.get(name, getlink=True), h5py.HardLink):
        raise ValueError(f"{name} is not in this file")
    dataset = file[name]
    if not isinstance(dataset, h5py.Dataset) or dataset.is_virtual or dataset.external:
        raise ValueError(f"{name} is not stored in this file")
    settings = dataset.id.get_create_plist()
    if [settings.get_filter(n)[0] for n in range(settings.get_nfilters())] != _FILTERS:
        raise ValueError(f"{name} is not packed with gzip")
    if (dataset.dtype, dataset.shape) != (layout.dtype, layout.shape_of(rows)):
        raise ValueError(f"{name} is {dataset.dtype} {dataset.shape}, not what its spec says")
    stored = min(dataset.id.get_storage_size(), os.fstat(file.id.get_vfd_handle()).st_size)
    if dataset.nbytes > min(MAX_ARRAY_BYTES, stored * MAX_RATIO):
        raise ValueError(f"{name} claims {dataset.nbytes} bytes and stores {stored}")
    chunk = math.prod(dataset.chunks) * dataset.dtype.itemsize
    if chunk > max(CHUNK_BYTES, dataset.nbytes // max(1, len(dataset))):
        raise ValueError(f"{name} has chunks of {chunk} bytes")
    array = np.empty(dataset.shape, dataset.dtype)
    for where in dataset.iter_chunks():
        part = array[where]
        whole = _inflate(dataset, tuple(piece.start for piece in where), chunk)
        part[...] = whole[tuple(slice(size) for size in part.shape)]
    return array


def _inflate(dataset: h5py.Dataset, start: tuple[int, ...], size: int) -> np.ndarray:
    """A whole chunk of `size` bytes. HDF5 itself would inflate it to whatever comes out."""
    if dataset.id.get_chunk_info_by_coord(start).size > 2 * size + 1024:  # gzip adds little
        raise ValueError(f"a chunk of {dataset.name} stores more than it holds")
    skipped, content = dataset.id.read_direct_chunk(start)
    if not skipped & 2:
        stream = zlib.decompressobj()
        content = stream.decompress(content, size)
        if not stream.eof and stream.decompress(stream.unconsumed_tail, 1):
            raise ValueError(f"a chunk of {dataset.name} inflates to more than it holds")
    if len(content) != size:
        raise ValueError(f"a chunk of {dataset.name} holds {len(content)} bytes, not {size}")
    if not skipped & 1:  # the first bytes of all values, then the second ones
        content = np.frombuffer(content, "u1").reshape(dataset.dtype.itemsize, -1).T.tobytes()
    return np.frombuffer(content, dataset.dtype).reshape(dataset.chunks)
