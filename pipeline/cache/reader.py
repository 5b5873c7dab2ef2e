"""Reading a kind of a cache: rows of any views in any order, from maps of its shards."""

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.cache import schema
from pipeline.cache.encodings import Arrays, Layout, encoding_of
from pipeline.cache.mapping import Piece, Region
from pipeline.cache.schema import (
    CHECKSUMS,
    MANIFEST,
    PIXELS,
    REGIONS,
    VALUES,
    VIEWS,
    Manifest,
    Place,
    read_manifest,
)
from pipeline.cache.shard import Shard, open_shard
from pipeline.errors import MenteeError
from pipeline.files import digest_file

VIEWS_LAYOUT = {
    REGIONS: Layout(np.dtype("<i4"), (5,)),
    PIXELS: Layout(np.dtype("<u8"), ()),
}
_AT_ONCE = 16 << 20  # bytes, as float64, that statistics are taken of at a time


class Kind:
    """All shards of one kind of a split, like data/cache/labelled/logits.

    Opening compares every file with its digest. The arrays are memory maps, so that any number of
    processes share the pages that they read; each process opens its own, and a kind that is sent
    to another process opens itself again there.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.manifest = read_manifest(folder)
        check_files(folder, self.manifest)
        self.spec: dict[str, Any] = self.manifest.spec
        self.fingerprint = self.manifest.fingerprint
        self.rows: int = self.spec["rows"]
        self.rows_per_shard: int = self.spec["rows_per_shard"]
        self.places = self._places()
        self.views = 1 + self.places[-1].view
        self._layout = layout_of(self.manifest)
        self._by_row = [name for name, layout in self._layout.items() if layout.by_row]
        self._is_encoded = list(self._layout) != [VALUES] and self.manifest.kind != VIEWS
        if self._is_encoded:
            self._encoding = encoding_of(self.spec["kinds"][self.manifest.kind])
        shards = [open_kind_shard(folder, self.manifest, place) for place in self.places]
        plain = self._layout[VALUES].dtype if VALUES in self._layout else np.dtype("<f4")
        self._decoded_dtype = np.dtype("<f4") if self._is_encoded else plain
        self._regions = {name: self._region(shards, name) for name in self._by_row}
        self._shared = self._shared_arrays(shards)

    def __reduce__(self) -> tuple[type["Kind"], tuple[Path]]:
        return Kind, (self.folder,)

    def _places(self) -> list[Place]:
        """Where the shards stand, view by view; a gap is a MenteeError that names the file.

        Whole views that are not here, the last ones, were not pulled: the others serve.
        """
        if not self.manifest.entries:
            raise MenteeError(f"{self.folder} holds no shards: its split is empty")
        places, absent = [], None
        for entry in self.manifest.entries:
            place = self.manifest.place(entry)
            path = place.path(self.folder)
            if not path.parent.is_dir() and place.view:
                absent = path if absent is None else absent
            elif absent or not path.is_file():
                raise MenteeError(f"{absent or path} is missing: dump again, or `dvc pull` it")
            else:
                places.append(place)
        return places

    def _region(self, shards: list[Shard], name: str) -> Region:
        pieces = [
            Piece(shard.path, shard.extents[name].offset, shard.place.stop - shard.place.start)
            for shard in shards
        ]
        return Region(pieces, self._layout[name])

    def _shared_arrays(self, shards: list[Shard]) -> Arrays:
        """What belongs to a shard as a whole, one row a shard."""
        names = [name for name in self._layout if not self._layout[name].by_row]
        return {name: np.stack([shard.arrays[name] for shard in shards]) for name in names}

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one row."""
        return tuple(self.spec["kinds"][self.manifest.kind]["shape"])

    @property
    def decoded_bytes(self) -> int:
        """Bytes of all rows of all views as `gather` would return them."""
        row = self._decoded_dtype.itemsize * math.prod(self.shape)
        return self.views * self.rows * row

    def gather(self, views: np.ndarray, rows: np.ndarray, array: str = VALUES) -> np.ndarray:
        """The rows `rows[i]` of the views `views[i]`: `(n,)` and `(n,)` -> `(n, ...)`.

        Answers are decoded: float16 where they are stored so, else float32.
        """
        views, rows = (
            views.astype(np.int64, copy=False),
            rows.astype(np.int64, copy=False),
        )  # they are multiplied below
        if len(rows) and (
            min(rows.min(), views.min()) < 0 or rows.max() >= self.rows or views.max() >= self.views
        ):
            raise IndexError(f"{self.folder} has {self.views} views of {self.rows} rows")
        if array != VALUES or not self._is_encoded:
            return self._take(array, views, rows)
        arrays = {name: self._take(name, views, rows) for name in self._by_row}
        if self._shared:
            shard = views * schema.parts(self.spec) + rows // self.rows_per_shard
            arrays |= {name: shared[shard] for name, shared in self._shared.items()}
        return self._encoding.decode(arrays)

    def _take(self, name: str, views: np.ndarray, rows: np.ndarray) -> np.ndarray:
        region = self._regions[name]
        index = views * (schema.parts(self.spec) * region.stride) + rows
        if gap := region.stride - self.rows_per_shard:
            index += rows // self.rows_per_shard * gap
        return region.take(index)

    def part(self, place: Place, array: str = VALUES) -> np.ndarray:
        """Every row of one shard, decoded: `(rows, ...)`."""
        number = self.places.index(place)
        if array != VALUES or not self._is_encoded:
            return self._slice(array, number)
        arrays = {name: self._slice(name, number) for name in self._by_row}
        arrays |= {name: shared[number] for name, shared in self._shared.items()}
        return self._encoding.decode(arrays)

    def _slice(self, name: str, number: int) -> np.ndarray:
        place, region = self.places[number], self._regions[name]
        start = number * region.stride
        return region.part(start, start + place.stop - place.start)

    def parts(self, array: str = VALUES) -> Iterator[tuple[Place, np.ndarray]]:
        """Every shard's place and rows, view by view."""
        for place in self.places:
            yield place, self.part(place, array)

    def view(self, number: int, array: str = VALUES) -> np.ndarray:
        """Every row of one view: `(rows, ...)`."""
        if not 0 <= number < self.views:
            raise MenteeError(f"{self.folder} has views 0 to {self.views - 1}, not {number}")
        return np.concatenate(
            [self.part(place, array) for place in self.places if place.view == number]
        )

    def statistics(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and deviation of every channel over view 0: float32 `(C,)` each.

        Rows are `(C,)` or `(C, h, w)`. View 0 alone, so that more views change nothing; a channel
        that never moves has deviation 1, so that dividing by it leaves zeros. Memory is bounded
        whatever the number of rows.
        """
        axes = (0, *range(2, 1 + len(self.shape)))
        count = self.rows * math.prod(self.shape[1:])
        mean = sum(rows.sum(axes, dtype=np.float64) for rows in self._plain_rows()) / count
        shift = mean.reshape(-1, *[1] * (len(self.shape) - 1))
        variance = sum(np.square(rows - shift).sum(axes) for rows in self._plain_rows()) / count
        std = np.sqrt(variance)
        std[std < 1e-4] = 1
        return mean.astype(np.float32), std.astype(np.float32)

    def _plain_rows(self) -> Iterator[np.ndarray]:
        """View 0, some rows at a time: `(n, ...)`."""
        step = max(1, _AT_ONCE // (8 * math.prod(self.shape)))
        for start in range(0, self.rows, step):
            rows = np.arange(start, min(start + step, self.rows))
            yield self.gather(np.zeros_like(rows), rows)


def layout_of(manifest: Manifest) -> dict[str, Layout]:
    """The arrays that every shard of a kind must hold, checksums aside."""
    if manifest.kind == VIEWS:
        return VIEWS_LAYOUT
    try:
        return encoding_of(manifest.spec["kinds"][manifest.kind]).layout
    except ValueError as error:
        raise MenteeError(f"the cache of {manifest.kind}: {error}: use a newer version") from None


def open_kind_shard(folder: Path, manifest: Manifest, place: Place) -> Shard:
    """Open the shard of a place; it must be of this kind and hold what its spec says."""
    shard = open_shard(place.path(folder))
    if shard.fingerprint != manifest.fingerprint:
        raise MenteeError(f"{shard.path} is of another dump than {folder / MANIFEST}: dump again")
    if shard.place != place:
        raise MenteeError(
            f"{shard.path} holds what belongs into {shard.place.path(folder)}: dump again"
        )
    rows = place.stop - place.start
    wanted = {name: (layout.dtype, layout.shape_of(rows))
              for name, layout in layout_of(manifest).items()}  # fmt: skip
    wanted[CHECKSUMS] = (np.dtype("<u4"), (rows,))
    held = {name: (array.dtype, array.shape) for name, array in shard.arrays.items()}
    if held != wanted:
        raise MenteeError(f"{shard.path} does not hold the arrays of its spec: dump again")
    if manifest.kind != VIEWS:
        try:
            encoding_of(manifest.spec["kinds"][manifest.kind]).check(shard.arrays)
        except ValueError as error:
            raise MenteeError(f"{shard.path}: {error}: dump again") from None
    return shard


def check_files(folder: Path, manifest: Manifest) -> None:
    """Compare every file that is here with its digest in the manifest, before HDF5 opens it."""
    paths = [manifest.place(entry).path(folder) for entry in manifest.entries]
    here = [(path, entry) for path, entry in zip(paths, manifest.entries, strict=True)
            if path.is_file()]  # fmt: skip
    with ThreadPoolExecutor(2) as pool:
        digests = pool.map(digest_file, (path for path, _ in here))
        for (path, entry), digest in zip(here, digests, strict=True):
            if digest != entry.sha256:
                raise MenteeError(
                    f"{path} is damaged, or of another dump than {MANIFEST} beside it: "
                    f"`mentee cache verify` says more; pull or dump it again"
                )
