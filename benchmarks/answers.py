"""Caches of made-up answers, written by the real writer, and the page cache emptied of them."""

import os
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.cache import schema
from pipeline.cache.encodings import encoding_of
from pipeline.cache.schema import VALUES
from pipeline.cache.shard import write_shard
from pipeline.cache.writer import write_manifest

KIND = "features/some"
VIEWS = 12
SHAPES = {"4 KB": (2048,), "200 KB": (512, 14, 14)}  # of rows, in float16


def spec_of(
    shape: tuple[int, ...], rows: int, rows_per_shard: int, encoding: str = "float16"
) -> dict[str, Any]:
    return {
        "format": schema.FORMAT,
        "split": "labelled",
        "rows": rows,
        "rows_per_shard": rows_per_shard,
        "data": {"digest": "0" * 64, "class_names": []},
        "views": {"count": VIEWS},
        "teacher": {"input_size": 224},
        "kinds": {KIND: {"encoding": encoding, "shape": list(shape)}},
    }


def random_answers(shape: tuple[int, ...], rows: int, seed: int) -> np.ndarray:
    """Float32 numbers like those after a ReLU: half of them zero."""
    values = np.random.default_rng(seed).standard_normal((rows, *shape), dtype=np.float32)
    return np.maximum(values, 0)


def write_kind(folder: Path, spec: dict[str, Any]) -> np.ndarray:
    """A kind in `folder`; returns what it holds as an array `(views, rows, ...)`."""
    own = schema.shard_spec(spec, KIND)
    encoding = encoding_of(spec["kinds"][KIND])
    shape = tuple(spec["kinds"][KIND]["shape"])
    values = np.empty((VIEWS, spec["rows"], *shape), dtype=np.float16)
    for seed, place in enumerate(schema.places(spec)):
        part = random_answers(shape, place.stop - place.start, seed)
        arrays = encoding.encode(part)
        write_shard(place.path(folder), arrays, own, place)
        values[place.view, place.start : place.stop] = part
    write_manifest(folder, KIND, own, list(schema.places(spec)))
    return values


def write_large_kind(folder: Path, shape: tuple[int, ...], size: int) -> int:
    """At least `size` bytes of float16 answers, the same in every shard; returns the bytes."""
    row = 2 * prod(shape)
    rows = -(-size // (row * VIEWS))
    spec = spec_of(shape, rows, -(-rows // 2))
    own = schema.shard_spec(spec, KIND)
    part = random_answers(shape, spec["rows_per_shard"], seed=0).astype("<f2")
    for place in schema.places(spec):
        write_shard(place.path(folder), {VALUES: part[: place.stop - place.start]}, own, place)
    write_manifest(folder, KIND, own, list(schema.places(spec)))
    return VIEWS * rows * row


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def drop(folder: Path) -> None:
    """Have the system forget what it holds of these files, so that the disk is read again.

    Only of files that no process has mapped, and not of what a virtual machine's host holds.
    """
    for path in files(folder):
        with open(path, "rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
