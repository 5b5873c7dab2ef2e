"""Reading a kind of a cache: rows of any views in any order, from maps of its shards."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.cache.schema import VALUES
from pipeline.cache.shard import Shard, open_shard
from pipeline.errors import MenteeError


class Kind:
    """All shards of one kind of a split, like data/cache/labelled/logits.

    The arrays are memory maps: opening costs nothing however large the cache is, and any number
    of processes share the pages that they read.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        paths = sorted(folder.glob("v[0-9]*/p[0-9]*.h5"))
        if not paths:
            raise MenteeError(
                f"{folder} holds no shards: run `mentee dump` and `mentee head`, or `dvc pull` them"
            )
        shards = [open_shard(path) for path in paths]
        self.spec: dict[str, Any] = shards[0].spec
        self.fingerprint = shards[0].fingerprint
        self.rows: int = self.spec["rows"]
        self.rows_per_shard: int = self.spec["rows_per_shard"]
        for shard in shards:
            if shard.fingerprint != self.fingerprint:
                raise MenteeError(
                    f"{shard.path} is of another dump than {shards[0].path}: dump again"
                )
            if shard.path != shard.place.path(folder):
                raise MenteeError(
                    f"{shard.path} holds what belongs into {shard.place.path(folder)}: dump again"
                )
        self._parts = self._by_place(shards)
        self._check_values()
        self.views = len(self._parts)

    def _by_place(self, shards: list[Shard]) -> list[list[Shard]]:
        """Shards by view and part; a gap is a MenteeError that names the missing file."""
        places = {(shard.place.view, shard.place.part): shard for shard in shards}
        views = 1 + max(view for view, _ in places)
        parts = -(-self.rows // self.rows_per_shard)
        for view in range(views):
            for part in range(parts):
                if (view, part) not in places:
                    missing = self.folder / f"v{view:03}" / f"p{part:05}.h5"
                    raise MenteeError(f"{missing} is missing: dump again, or `dvc pull` it")
        return [[places[view, part] for part in range(parts)] for view in range(views)]

    def _check_values(self) -> None:
        """Compare the arrays' types and shapes, which no digest covers, with the spec."""
        described = next(iter(self.spec.get("kinds", {}).values()), {})
        if "dtype" not in described:
            return
        wanted = np.dtype(described["dtype"]).newbyteorder("<"), tuple(described["shape"])
        for shard in self.shards():
            values = shard.arrays.get(VALUES)
            if values is None or (values.dtype, values.shape[1:]) != wanted:
                raise MenteeError(f"{shard.path} does not hold the values of its spec: dump again")

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one row."""
        return self._parts[0][0].arrays[VALUES].shape[1:]

    def shards(self) -> Iterator[Shard]:
        """Every shard, view by view."""
        for parts in self._parts:
            yield from parts

    def gather(self, views: np.ndarray, rows: np.ndarray, array: str = VALUES) -> np.ndarray:
        """The rows `rows[i]` of the views `views[i]`: `(n,)` and `(n,)` -> `(n, ...)`."""
        first = self._parts[0][0].arrays[array]
        out = np.empty((len(rows), *first.shape[1:]), dtype=first.dtype)
        part = rows // self.rows_per_shard
        place = views * len(self._parts[0]) + part
        for number in np.unique(place):
            chosen = np.flatnonzero(place == number)
            view, part_number = divmod(int(number), len(self._parts[0]))
            shard = self._parts[view][part_number]
            out[chosen] = shard.arrays[array][rows[chosen] - shard.place.start]
        return out

    def view(self, number: int, array: str = VALUES) -> np.ndarray:
        """Every row of one view: `(rows, ...)`."""
        if not 0 <= number < self.views:
            raise MenteeError(f"{self.folder} has views 0 to {self.views - 1}, not {number}")
        return np.concatenate([shard.arrays[array] for shard in self._parts[number]])

    def statistics(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and deviation of every channel over view 0: float32 `(C,)` each.

        Rows are `(C,)` or `(C, h, w)`. View 0 alone, so that more views change nothing; a channel
        that never moves has deviation 1, so that dividing by it leaves zeros.
        """
        features = self.view(0)
        axes = (0, *range(2, features.ndim))
        mean = features.mean(axes, dtype=np.float64)
        std = features.std(axes, dtype=np.float64)
        std[std < 1e-4] = 1
        return mean.astype(np.float32), std.astype(np.float32)
