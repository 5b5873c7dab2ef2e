"""How fast, how small and how steady the teacher's cache is, beside what people use today.

    python benchmarks/cache.py            everything, a few minutes on 2 cores
    python benchmarks/cache.py gather     one measurement

Every measurement runs in a process of its own, one after another. What is compared takes turns in
that process, so that a busy machine slows both; the medians of at least five turns are set against
each other. The table is written into docs/benchmarks.md.
"""

import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

REPOSITORY = Path(__file__).parent.parent
PAGE = REPOSITORY / "docs/benchmarks.md"
BEGIN, END = "<!-- table -->\n", "<!-- /table -->\n"
ROUNDS = 7
BATCH, VIEWS = 100, 12
SIZES = {"4 KB": (2048, 3000, 1024), "200 KB": (100_352, 160, 64)}  # values, rows, rows a shard


@dataclass(frozen=True)
class Row:
    """One line of the table: a ratio, what was asked of it, and the absolute figures."""

    what: str
    ratio: float
    target: str
    reached: bool
    figures: str


def medians(turns: dict[str, Callable[[], Any]], rounds: int = ROUNDS) -> dict[str, float]:
    """Median seconds of each, taking turns; one turn before is not counted."""
    times: dict[str, list[float]] = {name: [] for name in turns}
    for turn in range(rounds + 1):
        for name, act in turns.items():
            start = time.perf_counter()
            act()
            if turn:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(taken) for name, taken in times.items()}


def make_features(root: Path, values: int, rows: int, rows_per_shard: int, views: int = VIEWS):
    """A kind of float16 features, written as a dump writes it."""
    from pipeline.cache import schema
    from pipeline.cache.shard import write_shard
    from pipeline.cache.writer import write_manifest

    spec = {
        "format": schema.FORMAT, "split": "labelled", "rows": rows,
        "rows_per_shard": rows_per_shard, "data": {"digest": "0" * 64, "class_names": ["a"]},
        "views": {"seed": 0}, "teacher": {"input_size": 160},
        "kinds": {"features/tap": {"encoding": "float16", "shape": [values]}},
    }  # fmt: skip
    places = list(schema.places({**spec, "views": {"count": views}}))
    generator = np.random.default_rng(0)
    for place in places:
        some = generator.random((place.stop - place.start, values), dtype=np.float32)
        write_shard(place.path(root), {schema.VALUES: some.astype("<f2")}, spec, place)
    write_manifest(root, "features/tap", spec, places)


def gather(scale: float = 1.0) -> list[Row]:
    """Random batches of 100 rows: ours, an array in RAM, h5py, gzip chunks, a file a sample."""
    result = []
    for name, (values, rows, per_shard) in SIZES.items():
        with tempfile.TemporaryDirectory() as folder:
            count = max(2 * per_shard, int(rows * scale))
            make_features(Path(folder) / "kind", values, count, per_shard)
            result += _gather(Path(folder), name, values)
    return result


def _gather(folder: Path, name: str, values: int) -> list[Row]:
    import h5py
    import torch

    from pipeline.cache.reader import Kind

    kind = Kind(folder / "kind")
    ram = np.stack([kind.view(view) for view in range(kind.views)])
    generator = np.random.default_rng(1)
    asked = [
        (generator.integers(kind.views, size=BATCH), generator.integers(kind.rows, size=BATCH))
        for _ in range(60 if values < 10_000 else 12)
    ]
    turns = {
        "ours": lambda: [kind.gather(views, rows) for views, rows in asked],
        "ram": lambda: [ram[views, rows] for views, rows in asked],
    }
    fast = medians(turns, 2 * ROUNDS)
    few = asked[:1]

    # What is slower by far answers one batch; the ratio is of the time a batch takes.
    files = {place: h5py.File(place.path(kind.folder)) for place in kind.places}
    by_place = {(place.view, place.part): files[place]["values"] for place in kind.places}

    def row_by_row() -> None:
        for views, rows in few:
            for view, row in zip(views.tolist(), rows.tolist(), strict=True):
                part, within = divmod(row, kind.rows_per_shard)
                by_place[view, part][within]

    with h5py.File(folder / "gzip.h5", "w") as file:
        shape = (min(64, kind.rows), values)
        file.create_dataset("values", data=ram[0], chunks=shape, compression="gzip")
    packed = h5py.File(folder / "gzip.h5")["values"]

    def from_gzip() -> None:
        for _, rows in few:
            for row in rows[:10].tolist():
                packed[row]

    slow_turns = {"h5py": row_by_row, "gzip": from_gzip}
    cached = _torchdistill(folder, ram[0], torch)
    if cached is not None:
        slow_turns["torchdistill"] = lambda: [cached[row] for _, rows in few for row in rows]
    slow = medians(slow_turns, 5)
    slow["gzip"] *= BATCH / 10

    ours = fast["ours"] / len(asked)
    ram_time = fast["ram"] / len(asked)
    micro = f"{ours * 1e6:.0f} us a batch of {BATCH}"
    made = [
        Row(f"gather {name}: speed against an array in RAM", ram_time / ours, ">= 0.9",
            ram_time / ours >= 0.9, f"{micro}, RAM {ram_time * 1e6:.0f} us"),
        _faster(f"gather {name}: against h5py row by row", slow["h5py"] / ours,
                15 if values < 10_000 else None, f"h5py {slow['h5py'] * 1e3:.2f} ms"),
        _faster(f"gather {name}: against gzip chunks read at random", slow["gzip"] / ours, None,
                f"gzip {slow['gzip'] * 1e3:.0f} ms"),
    ]  # fmt: skip
    if cached is not None:
        made.append(
            _faster(f"gather {name}: against torchdistill 1.1.4, a file a sample",
                    slow["torchdistill"] / ours, 100 if values < 10_000 else None,
                    f"torchdistill {slow['torchdistill'] * 1e3:.1f} ms")
        )  # fmt: skip
    return made


def _faster(what: str, ratio: float, target: int | None, figures: str) -> Row:
    wanted = f">= {target}" if target else "-"
    return Row(what, ratio, wanted, target is None or ratio >= target, figures)


def _torchdistill(folder: Path, values: np.ndarray, torch: Any) -> Any:
    """torchdistill's own data set wrapper over one `torch.save` file a sample, or None."""
    try:
        from torchdistill.datasets.wrapper import CacheableDataset, default_idx2subpath
    except ImportError:
        return None
    root = folder / "torchdistill"
    for row, features in enumerate(values):
        path = root / (default_idx2subpath(row) + ".pt")
        path.parent.mkdir(parents=True, exist_ok=True)
        answers = {"tap": {"output": torch.from_numpy(features.copy())}}
        torch.save(
            {"teacher_outputs": answers["tap"]["output"], "extracted_outputs": answers}, path
        )
    plain = [(0, 0)] * len(values)
    return CacheableDataset(plain, str(root), default_idx2subpath)


def memory(scale: float = 1.0) -> list[Row]:
    """Anonymous and mapped memory while a cache twenty times larger than the limit is read."""
    limit = int((128 << 20) * scale)
    with tempfile.TemporaryDirectory() as folder:
        values = 8192
        rows = 20 * limit // (2 * values) // VIEWS
        make_features(Path(folder) / "kind", values, rows, max(1, rows // 4))
        code = READ_LARGE.format(root=Path(folder) / "kind", limit=limit, views=VIEWS, rows=rows)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(done.stderr)
        first, most = json.loads(done.stdout)
    ratio = most / limit
    return [
        Row("resident memory, reading a cache 20 times a limit, against the limit", ratio,
            "<= 1", ratio <= 1, f"limit {limit / 1e6:.0f} MB, after a tenth of the reading "
            f"{first / 1e6:.0f} MB, at most {most / 1e6:.0f} MB more than before")
    ]  # fmt: skip


READ_LARGE = """
import json, re
from pathlib import Path
import numpy as np
from pipeline.cache import mapping
from pipeline.cache.reader import Kind
mapping.memory_bytes = lambda: {limit}  # as in a container with so much memory
def resident():
    text = Path("/proc/self/status").read_text()
    return int(re.search(r"VmRSS:\\s+(\\d+)", text)[1]) * 1024
kind = Kind(Path("{root}"))
generator = np.random.default_rng(0)
before, seen = resident(), []
for _ in range(600):
    kind.gather(generator.integers({views}, size=100), generator.integers({rows}, size=100))
    seen.append(resident() - before)
print(json.dumps([max(seen[:60]), max(seen)]))
"""


def write(scale: float = 1.0) -> list[Row]:
    """A dump's wall time against the teacher's bare forward passes over the same views."""
    import torch

    from pipeline.compute import choose_compute
    from pipeline.stages import dump as dumping
    from pipeline.teachers import load_teacher

    dumping.latency = lambda *_: {}  # how fast the teacher is, for the report: no part of writing
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        params = _project(int(480 * scale))
        teacher = load_teacher(params.teacher, choose_compute(params.runtime))
        pictures = torch.randint(
            0, 256, (dumping.BATCH_SIZE, 3, params.teacher.input_size, params.teacher.input_size),
            dtype=torch.uint8,
        )  # fmt: skip
        batches = -(-int(480 * scale) // dumping.BATCH_SIZE) * params.views.labelled + 2

        def bare() -> None:
            for _ in range(batches):
                teacher.answer(pictures)

        def dump() -> float:
            """Seconds of a whole dump but for loading the teacher and timing it at the end."""
            shutil.rmtree(".work", ignore_errors=True)
            shutil.rmtree("data/cache", ignore_errors=True)
            start = time.perf_counter()
            load_teacher(params.teacher, choose_compute(params.runtime))
            loading = time.perf_counter() - start
            start = time.perf_counter()
            dumping.dump(params)
            return time.perf_counter() - start - loading

        forward, dumped = [], []
        for turn in range(6):
            start = time.perf_counter()
            bare()
            taken = time.perf_counter() - start
            whole = dump()
            if turn:
                forward.append(taken)
                dumped.append(whole)
    ratio = statistics.median(dumped) / statistics.median(forward)
    return [
        Row("dump's wall time against the bare teacher", ratio, "<= 1.10", ratio <= 1.10,
            f"dump {statistics.median(dumped):.1f} s, teacher {statistics.median(forward):.1f} s")
    ]  # fmt: skip


def _project(labelled: int) -> Any:
    """The repository's params on random images in the current folder."""
    from ruamel.yaml import YAML

    from pipeline.params import load_params
    from pipeline.prepared import PREPARED_FILE, SPLITS, Split, write_prepared

    yaml = YAML()
    content = yaml.load(REPOSITORY / "params.yaml")
    content["views"]["labelled"] = 6
    yaml.dump(content, Path("params.yaml"))
    counts = {"labelled": labelled, "unlabelled": 0, "validation": 64, "test": 64}
    generator = np.random.default_rng(0)
    splits = []
    for name in SPLITS:
        images = generator.integers(256, size=(counts[name], 32, 32, 3), dtype=np.uint8)
        ids = tuple(f"{name}-{row}" for row in range(counts[name]))
        labels = np.zeros(counts[name], dtype=np.int64)
        splits.append(Split(name, images, labels, ids, ("a", "b")))
    write_prepared(PREPARED_FILE, splits)
    return load_params()


def verify(scale: float = 1.0) -> list[Row]:
    """`mentee cache verify` against reading the same files, from the disk and from memory."""
    from pipeline.cache.schema import read_manifest
    from pipeline.cache.verify import verify_kind

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "kind"
        make_features(root, 100_352, max(4, int(400 * scale)), 64)
        os.sync()
        paths = sorted(root.rglob("*.h5"))
        size = sum(path.stat().st_size for path in paths)

        def read() -> None:
            buffer = bytearray(1 << 20)
            for path in paths:
                with open(path, "rb", buffering=0) as file:
                    while file.readinto(buffer):
                        pass

        def check() -> None:
            assert not list(verify_kind(root, read_manifest(root)))

        rows = []
        for state in ("disk", "memory"):
            drop = _drop_page_cache if state == "disk" else (lambda: True)
            if not drop():
                continue
            times: dict[str, list[float]] = {"read": [], "verify": []}
            for _ in range(5):
                for name, act in (("read", read), ("verify", check)):
                    drop()
                    start = time.perf_counter()
                    act()
                    times[name].append(time.perf_counter() - start)
            plain, ours = (statistics.median(times[name]) for name in ("read", "verify"))
            target = ">= 0.5" if state == "disk" else "-"
            rows.append(
                Row(f"verify's speed against plain reading from {state}", plain / ours, target,
                    state != "disk" or plain / ours >= 0.5,
                    f"verify {size / ours / 1e6:,.0f} MB/s, reading {size / plain / 1e6:,.0f} MB/s")
            )  # fmt: skip
    return rows


def _drop_page_cache() -> bool:
    try:
        Path("/proc/sys/vm/drop_caches").write_text("1")
        return True
    except OSError:
        return False


MEASUREMENTS = {"gather": gather, "memory": memory, "write": write, "verify": verify}


def table(rows: list[Row]) -> str:
    lines = ["| measured | ratio | asked | | absolute |", "| --- | ---: | ---: | --- | --- |"]
    for row in rows:
        mark = "" if row.target == "-" else ("yes" if row.reached else "**no**")
        ratio = f"{row.ratio:,.0f}" if row.ratio >= 10 else f"{row.ratio:.2f}"
        lines.append(f"| {row.what} | {ratio} | {row.target} | {mark} | {row.figures} |")
    return "\n".join(lines) + "\n"


def machine() -> str:
    import h5py
    import torch

    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.split(":")[1] for line in info.read_text().splitlines() if "model name" in line
        ]
        model = names[0].strip() if names else model
    return (
        f"{model}, {os.cpu_count()} cores, Python {platform.python_version()}, torch "
        f"{torch.__version__.split('+')[0]}, h5py {h5py.__version__}, NumPy {np.__version__}\n\n"
    )


@click.command()
@click.argument("names", nargs=-1, type=click.Choice([*MEASUREMENTS]))
@click.option("--one", type=click.Choice([*MEASUREMENTS]), hidden=True)
def main(names: tuple[str, ...], one: str | None) -> None:
    """Measure NAMES, or everything, and write the table into docs/benchmarks.md."""
    if one:
        click.echo("\n" + json.dumps([asdict(row) for row in MEASUREMENTS[one]()]))
        return
    rows = []
    for name in names or MEASUREMENTS:
        click.echo(f"measuring {name}", err=True)
        done = subprocess.run([sys.executable, __file__, "--one", name], stdout=subprocess.PIPE)
        if done.returncode:
            raise SystemExit(f"{name} failed")
        rows += [Row(**row) for row in json.loads(done.stdout.splitlines()[-1])]
    click.echo(machine() + table(rows))
    if not names and PAGE.exists():
        before, _, rest = PAGE.read_text().partition(BEGIN)
        after = rest.partition(END)[2]
        PAGE.write_text(before + BEGIN + machine() + table(rows) + END + after)


if __name__ == "__main__":
    main()
