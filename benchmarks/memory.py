"""How much memory a process takes that reads a cache larger than it may have memory."""

import multiprocessing
import os
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from answers import SHAPES, VIEWS, drop, write_large_kind
from rows import Row, row

from pipeline.cache.reader import Kind

LIMIT = 96 << 20  # bytes of memory; Python, NumPy and h5py take a half of it
TIMES = 20  # so much larger is the cache
SECONDS = 10.0
GROUPS = Path("/sys/fs/cgroup")


def memory(folder: Path, scale: float = 1.0) -> list[Row]:
    """How a process grows that reads a cache 20 times larger than it may have memory."""
    made = []
    for size, shape in SHAPES.items():
        limit = LIMIT if can_limit_memory() else None
        length = write_large_kind(folder / size, shape, int(TIMES * LIMIT * scale))
        drop(folder / size)
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, mp_context=context) as alone:
            read = alone.submit(read_within, folder / size, limit, SECONDS * min(scale * 4, 1))
            curve = read.result()
        third = len(curve) // 3
        peaks = [max(curve[:third]), max(curve[third : 2 * third]), max(curve[2 * third :])]
        said = f"a limit of {LIMIT >> 20} MiB" if limit else "no limit (none may be set here)"
        measured = (
            f"{peaks[2] / 2**20:.0f} MiB resident, {length / 2**20:,.0f} MiB of cache, {said}, "
            f"{len(curve)} batches"
        )
        made.append(
            row(f"peak memory of the last third of reading against the first, {size} a row",
                [peaks[2] / peaks[0]], measured, target=1.1, at_most=True)
        )  # fmt: skip
    return made


def read_within(folder: Path, limit: int | None, seconds: float) -> list[int]:
    """Gather random batches for a while; the bytes that are resident after each."""
    with limited(limit):
        kind = Kind(folder)
        generator = np.random.default_rng(0)
        curve: list[int] = []
        end = time.monotonic() + seconds
        while time.monotonic() < end or len(curve) < 9:
            kind.gather(
                generator.integers(VIEWS, size=100), generator.integers(kind.rows, size=100)
            )
            curve.append(resident())
    return curve


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def group_root() -> Path:
    """Where control groups of memory are made: version 1 has a tree of its own for it."""
    return GROUPS / "memory" if (GROUPS / "memory").is_dir() else GROUPS


def can_limit_memory() -> bool:
    try:
        with limited(LIMIT):
            return True
    except OSError:
        return False


@contextmanager
def limited(limit: int | None) -> Iterator[None]:
    """This process in a control group with so much memory, files that it reads included."""
    if limit is None:
        yield
        return
    root = group_root()
    group = root / f"mentee-benchmark-{os.getpid()}"
    group.mkdir()
    name = "memory.limit_in_bytes" if root.name == "memory" else "memory.max"
    before = _own_group(root)
    try:
        (group / name).write_text(str(limit))
        (group / "cgroup.procs").write_text(str(os.getpid()))
        yield
    finally:
        (before / "cgroup.procs").write_text(str(os.getpid()))
        group.rmdir()


def _own_group(root: Path) -> Path:
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if ("memory" in controllers.split(",")) == (root.name == "memory"):
            return root / path.lstrip("/")
    return root
