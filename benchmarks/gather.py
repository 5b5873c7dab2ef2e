"""Random rows of random views: our reader against RAM, h5py, a file a sample and gzip."""

import shutil
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import torch
from answers import SHAPES, VIEWS, spec_of, write_kind
from rows import Row, ratios, row

from pipeline.cache.reader import Kind
from pipeline.cache.schema import VALUES

BATCH = 100
ROUNDS = 7
ROWS = {"4 KB": 4096, "200 KB": 192}  # a view: some 200 and 460 MB together
PARTS = 3  # of a view
# Batches a round; those that are slow take few, of the same size.
FAST = {"4 KB": 1000, "200 KB": 30}
SLOW, SLOWEST = 3, 1

Read = Callable[[np.ndarray, np.ndarray], object]  # views `(n,)`, rows `(n,)`


def gather(folder: Path, scale: float = 1.0) -> list[Row]:
    made = []
    for size, shape in SHAPES.items():
        rows = max(int(ROWS[size] * scale), 8)
        spec = spec_of(shape, rows, rows_per_shard=-(-rows // PARTS))
        times: dict[str, list[float]] = defaultdict(list)
        many = max(int(FAST[size] * scale), 2)
        for number in range(ROUNDS):
            # Written anew: where the system puts files and arrays, and on pages of which size,
            # moves a round of large rows by a fifth either way.
            home = folder / size / str(number)
            array = write_kind(home / "ours", spec)
            kind = Kind(home / "ours")
            flat = array.reshape(-1, *shape)
            fast: dict[str, Read] = {
                "ours": kind.gather,
                "array": lambda views, rows, array=array: array[views, rows],
                "take": lambda views, rows, flat=flat, n=rows: flat.take(views * n + rows, axis=0),
            }
            check_alike([*fast.values()], rows)
            time_each(fast, many, rows, times)
            if number < ROUNDS - 1:
                shutil.rmtree(home)
        slow: dict[str, Read] = {"h5py": read_h5py(kind)}
        if torchdistill := write_torchdistill(folder / size / "files", array):
            slow["torchdistill"] = torchdistill
        slowest = {"gzip": read_gzip(folder / size / "gzip", array)} if size == "4 KB" else {}
        check_alike([kind.gather, *slow.values(), *slowest.values()], rows)
        for _ in range(ROUNDS):
            time_each(slow, SLOW, rows, times)
            time_each(slowest, SLOWEST, rows, times)
        made += rows_of(size, times)
    return made


def rows_of(size: str, times: dict[str, list[float]]) -> list[Row]:
    def against(name: str, what: str, target: float | None = None) -> Row:
        measured = f"{scaled(times['ours'])} against {scaled(times[name])}"
        return row(f"{what}, {size} a row", ratios(times[name], times["ours"]), measured,
                   target=target)  # fmt: skip

    small = size == "4 KB"
    made = [
        against("array", "gathering 100 random rows: speed against an array in RAM", 0.9),
        against("take", "... against `take` from a flat array in RAM"),
        against("h5py", "... against h5py row by row", 15 if small else None),
    ]
    if "torchdistill" in times:
        made.append(against("torchdistill", "... against torchdistill's file a sample", 100))
    if "gzip" in times:
        made.append(against("gzip", "... against gzip chunks of h5py's own choice"))
    return made


def scaled(seconds: list[float]) -> str:
    middle = statistics.median(seconds)
    return f"{middle * 1e6:,.0f} µs" if middle < 0.1 else f"{middle:.2f} s"


def check_alike(readers: list[Read], rows: int) -> None:
    """All must bring the same numbers; torchdistill keeps them as float32."""
    generator = np.random.default_rng(1)
    views, chosen = generator.integers(VIEWS, size=5), generator.integers(rows, size=5)
    first, *others = (np.asarray(read(views, chosen), np.float32) for read in readers)
    for other in others:
        np.testing.assert_array_equal(other, first)


def time_each(
    readers: dict[str, Read], batches: int, rows: int, times: dict[str, list[float]]
) -> None:
    """Add a median of seconds a batch to each reader's times; they take turns batch by batch.

    Everyone draws batches of their own: nobody finds in the processor's cache what another read.
    """
    generator = np.random.default_rng(0)
    for is_warm in (False, True):
        spent: dict[str, list[float]] = {name: [] for name in readers}
        for _ in range(batches):
            for name in generator.permutation(list(readers)):
                views = generator.integers(VIEWS, size=BATCH)
                chosen = generator.integers(rows, size=BATCH)
                start = time.perf_counter()
                readers[name](views, chosen)
                spent[name].append(time.perf_counter() - start)
        if is_warm:
            for name in readers:
                times[name].append(statistics.median(spent[name]))


def read_h5py(kind: Kind) -> Read:
    """Files stay open, a row is one `dataset[row]`."""
    sets = {(place.view, place.part): h5py.File(place.path(kind.folder))[VALUES]
            for place in kind.places}  # fmt: skip
    part = kind.rows_per_shard

    def read(views: np.ndarray, rows: np.ndarray) -> np.ndarray:
        pairs = zip(views.tolist(), rows.tolist(), strict=True)
        return np.stack([sets[view, row // part][row % part] for view, row in pairs])

    return read


def read_gzip(folder: Path, array: np.ndarray) -> Read:
    """A file a view, `compression="gzip"` and nothing else said."""
    folder.mkdir(parents=True)
    sets = []
    for view, values in enumerate(array):
        file = h5py.File(folder / f"{view}.h5", "w")
        sets.append(file.create_dataset(VALUES, data=values, compression="gzip"))

    def read(views: np.ndarray, rows: np.ndarray) -> np.ndarray:
        pairs = zip(views.tolist(), rows.tolist(), strict=True)
        return np.stack([sets[view][row] for view, row in pairs])

    return read


def write_torchdistill(folder: Path, array: np.ndarray) -> Read | None:
    """torchdistill's own dataset over files as its own training box writes them.

    None where it is not installed: pip install -e '.[bench]'
    """
    try:
        import torchvision.datasets  # noqa: F401  torchdistill expects it to be imported
        from torchdistill.datasets.wrapper import CacheableDataset, default_idx2subpath
    except ImportError:
        return None
    dataset = CacheableDataset(_Images(), str(folder), idx2subpath_func=default_idx2subpath)
    count = array.shape[1]
    for number, values in enumerate(array.reshape(-1, *array.shape[2:])):
        path = folder / (default_idx2subpath(number) + dataset.ext)
        path.parent.mkdir(parents=True, exist_ok=True)
        answers = torch.Tensor(values.astype(np.float32))
        torch.save({"teacher_outputs": answers, "extracted_outputs": {}}, path)

    def read(views: np.ndarray, rows: np.ndarray) -> torch.Tensor:
        chosen = [dataset[number] for number in (views * count + rows).tolist()]
        return torch.stack([extra["cached_data"]["teacher_outputs"] for *_, extra in chosen])

    return read


class _Images:
    """A data set whose images cost nothing, so that the cache alone is timed."""

    def __getitem__(self, index: int) -> tuple[int, int]:
        return 0, 0
