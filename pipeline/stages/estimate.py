"""What a dump will cost, before it runs: bytes, hours, and how many students pay for it."""

import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.cache import schema
from pipeline.cache.encodings import encoding_of
from pipeline.cache.reader import VIEWS_LAYOUT
from pipeline.cache.shard import write_shard
from pipeline.compute import choose_compute
from pipeline.params import Params
from pipeline.prepared import PREPARED_FILE, SPLITS, Split, read_split
from pipeline.stages.dump import SCRATCH, answer_filled_up, describe
from pipeline.teachers import load_teacher
from pipeline.tuned import find_tuned
from pipeline.views_ahead import BATCH_SIZE, show

BATCHES = 5  # batches that are timed, after one to warm up
WRITTEN = 32 << 20  # bytes that are written to measure how fast shards are


@dataclass(frozen=True)
class Estimate:
    """What a dump costs.

    views: how many, by split; row_bytes: of one view, by kind; teacher_seconds: for one view;
    write_rate: bytes a second; online_views: that one student sees in training.
    """

    teacher: str
    input_size: int
    compute: str
    views: dict[str, int]
    row_bytes: dict[str, int]
    teacher_seconds: float
    write_rate: float
    online_views: int

    @property
    def bytes(self) -> int:
        return sum(self.views.values()) * sum(self.row_bytes.values())

    @property
    def seconds(self) -> float:
        """The writer runs beside the teacher, so the slower of the two decides."""
        return max(sum(self.views.values()) * self.teacher_seconds, self.bytes / self.write_rate)

    @property
    def students(self) -> int:
        """From how many students on the dump costs less than a teacher in every training."""
        online = self.online_views * self.teacher_seconds
        return 1 + int(self.seconds / online)

    def content(self) -> dict[str, Any]:
        """All of it, for other programs."""
        whole = {"bytes": self.bytes, "seconds": self.seconds, "students": self.students}
        return {**asdict(self), **whole}


def estimate(params: Params) -> Estimate:
    """The estimate for params.yaml as it stands; measures the teacher and the disk."""
    compute = choose_compute(params.runtime)
    splits = [read_split(PREPARED_FILE, name) for name in SPLITS]
    teacher = load_teacher(params.teacher, compute, find_tuned(params, splits[0]))
    specs = {split.name: describe(split, params, teacher) for split in splits}
    largest = max(splits, key=len)
    return Estimate(
        teacher=params.teacher.model,
        input_size=params.teacher.input_size,
        compute=str(compute),
        views={split.name: len(split) * specs[split.name]["views"]["count"] for split in splits},
        row_bytes=row_bytes(specs[largest.name]),
        teacher_seconds=seconds_a_view(teacher, largest, params),
        write_rate=write_rate(),
        online_views=params.training.steps * params.training.batch_size,
    )


def estimate_lines(cost: Estimate) -> Iterator[str]:
    """The same for people."""
    views = sum(cost.views.values())
    yield f"{cost.teacher} at {cost.input_size} pixels on {cost.compute}"
    for name, count in cost.views.items():
        yield f"  {name:12} {count:>12,} views"
    for kind, size in cost.row_bytes.items():
        yield f"  {kind:22} {size:>8,} bytes a view {views * size / 1e6:>12,.1f} MB"
    yield f"  {'together':22} {sum(cost.row_bytes.values()):>8,} bytes a view " \
          f"{cost.bytes / 1e6:>12,.1f} MB"  # fmt: skip
    yield (
        f"  {cost.teacher_seconds * 1000:.2f} ms a view (measured), shards at "
        f"{cost.write_rate / 1e6:,.0f} MB/s (measured): {duration(cost.seconds)}"
    )
    online = cost.online_views * cost.teacher_seconds
    yield (
        f"  with the teacher in the loop each student would spend {duration(online)} on it: the "
        f"dump pays from {cost.students} student{'s' if cost.students > 1 else ''} on"
    )


def duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def row_bytes(spec: dict[str, Any]) -> dict[str, int]:
    """Bytes of one view by kind, its checksum included; what a shard has once is left out."""
    sizes = {}
    for kind, described in spec["kinds"].items():
        layout = VIEWS_LAYOUT if kind == schema.VIEWS else encoding_of(described).layout
        sizes[kind] = sum(array.bytes for array in layout.values() if array.by_row) + 4
    return sizes


def seconds_a_view(teacher: Any, split: Split, params: Params) -> float:
    """Median over a few batches of real views, drawing and replaying them included."""
    count = (BATCHES + 1) * BATCH_SIZE
    rows = np.resize(np.arange(len(split)), count)
    some = Split(
        split.name, split.images[rows], split.labels[rows],
        tuple(split.ids[row] for row in rows), split.class_names,
    )  # fmt: skip
    shown = show(
        [(some, schema.Place(1, 0, 0, count))], params.views, teacher.input_size,
        teacher.compute.device,
    )  # fmt: skip
    times, before = [], time.perf_counter()
    for batch in shown:
        answer_filled_up(teacher, batch.pictures).cpu()
        now = time.perf_counter()
        times.append((now - before) / BATCH_SIZE)
        before = now
    return statistics.median(times[1:])


def write_rate() -> float:
    """Bytes a second at which a shard is written, read back, synced and renamed."""
    SCRATCH.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(0).random((WRITTEN >> 12, 2048), dtype=np.float32)
    place = schema.Place(0, 0, 0, len(values))
    with tempfile.TemporaryDirectory(dir=SCRATCH, prefix="estimate-") as folder:
        start = time.perf_counter()
        write_shard(Path(folder) / "p.h5", {schema.VALUES: values.astype("<f2")}, {}, place)
        return WRITTEN / (time.perf_counter() - start)
