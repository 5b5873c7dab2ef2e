"""What ImageNet-1k with 10 views costs, from rates that are measured here -> docs/scaling.md.

python benchmarks/scaling.py, some two minutes; be alone on the machine.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from answers import VIEWS, spec_of, write_kind
from rows import machine, replace_between

from pipeline.blocks import Runtime
from pipeline.cache import schema
from pipeline.cache.encodings import features_encoding, logits_encoding
from pipeline.cache.reader import Kind
from pipeline.compute import choose_compute
from pipeline.files import write_text
from pipeline.params import load_params
from pipeline.prepared import Split
from pipeline.stages.estimate import row_bytes, seconds_a_view, write_rate
from pipeline.teachers import load_teacher
from pipeline.views_ahead import BATCH_SIZE

PAGE = Path(__file__).parent.parent / "docs/scaling.md"
IMAGES, VIEWS_EACH, CLASSES, EPOCHS = 1_281_167, 10, 1000, 100
SIZE = 224  # pixels of teacher and student
POOLED, SMALL_MAP, WHOLE_MAP = (1280,), (112, 4, 4), (1280, 7, 7)
STUDENT_BATCH, GATHERED_BATCH, ROUNDS = 16, 256, 7
# Nobody has measured these for us: what such networks are known to reach in bfloat16.
ASSUMED_TEACHER, ASSUMED_STUDENT = 3000.0, 2500.0  # views a second on one GPU

# What is stored of a view: its name, its encoding and its shape.
KINDS: dict[str, tuple[str, tuple[int, ...]]] = {
    "logits, float16": (logits_encoding("float16", CLASSES), (CLASSES,)),
    "logits, the 10 largest": (logits_encoding("top10", CLASSES), (CLASSES,)),
    "pooled 1280, float16": (features_encoding("float16"), POOLED),
    "pooled 1280, 4 bits": (features_encoding("uint4"), POOLED),
    "spatial 112 x 4 x 4, float16": (features_encoding("float16"), SMALL_MAP),
    "spatial 1280 x 7 x 7, float16": (features_encoding("float16"), WHOLE_MAP),
    "spatial 1280 x 7 x 7, 4 bits": (features_encoding("uint4"), WHOLE_MAP),
    "attention 1 x 7 x 7, float16": (features_encoding("float16"), (1, 7, 7)),
}


def teacher_rate() -> float:
    """Views a second of the default teacher at 224 pixels, drawing and replaying included."""
    params = load_params()
    chosen = params.teacher.model_copy(update={"input_size": SIZE})
    teacher = load_teacher(chosen, choose_compute(params.runtime), None)
    images = np.random.default_rng(0).integers(256, size=(BATCH_SIZE, 256, 256, 3), dtype=np.uint8)
    ids = tuple(map(str, range(BATCH_SIZE)))
    split = Split("labelled", images, np.zeros(BATCH_SIZE, np.int64), ids, ("any",))
    return 1 / seconds_a_view(teacher, split, params)


def student_rate() -> float:
    """Images a second that ResNet-18 trains on at 224 pixels, whatever it is taught."""
    compute = choose_compute(Runtime(device="auto", threads=0))
    network = torchvision.models.resnet18().to(compute.device, memory_format=torch.channels_last)
    pictures = torch.randn(STUDENT_BATCH, 3, SIZE, SIZE, device=compute.device)

    def step() -> None:
        with compute.autocast():
            network(pictures).square().mean().backward()

    return STUDENT_BATCH / seconds(step)


def gather_rate(shape: tuple[int, ...], rows: int) -> float:
    """Bytes a second of random rows of random views, from a cache that lies in memory."""
    generator = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        write_kind(Path(folder), spec_of(shape, rows, rows))
        kind = Kind(Path(folder))

        def read() -> None:
            views, chosen = (generator.integers(top, size=GATHERED_BATCH) for top in (VIEWS, rows))
            kind.gather(views, chosen)

        return GATHERED_BATCH * 2 * float(np.prod(shape)) / seconds(read)


def seconds(act: Callable[[], Any]) -> float:
    """Median over rounds, after one to warm up."""
    times = []
    for _ in range(ROUNDS + 1):
        start = time.perf_counter()
        act()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def view_bytes() -> dict[str, int]:
    """Bytes of a view by kind, checksums included, from the layouts of the format."""
    kinds = {
        name: {"encoding": encoding, "shape": list(shape)}
        for name, (encoding, shape) in KINDS.items()
    }
    return row_bytes({"kinds": {schema.VIEWS: {}, **kinds}})


def size(count: float) -> str:
    for unit, name in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= unit:
            return f"{count / unit:,.1f} {name}"
    return f"{count:.0f} B"


def hours(count: float) -> str:
    if count < 3600:
        return f"{count / 60:.1f} min"
    return f"{count / 3600:,.0f} h" if count >= 36000 else f"{count / 3600:.1f} h"


def report(rates: dict[str, float]) -> str:
    """The tables of the page; rates a second: teacher and student views, the others bytes."""
    views = IMAGES * VIEWS_EACH
    lines = [
        f"Measured on: {machine()}.", "",
        "| rate | here | on one GPU (not measured: an assumption) |", "| --- | ---: | ---: |",
        f"| teacher, EfficientNet-Lite0 at {SIZE} pixels | {rates['teacher']:,.0f} views/s | "
        f"{ASSUMED_TEACHER:,.0f} views/s |",
        f"| student, ResNet-18 at {SIZE} pixels | {rates['student']:,.0f} images/s | "
        f"{ASSUMED_STUDENT:,.0f} images/s |",
        f"| shards written, synced and checked | {size(rates['write'])}/s | |",
        f"| random rows from memory, 2.6 kB | {size(rates['pooled'])}/s | |",
        f"| random rows from memory, 125 kB | {size(rates['spatial'])}/s | |",
        "",
        f"{views:,} views: the teacher takes {hours(views / rates['teacher'])} here, "
        f"{hours(views / ASSUMED_TEACHER)} of a GPU (not measured). With the teacher in the loop, "
        f"{EPOCHS} epochs of one student would take it "
        f"{hours(IMAGES * EPOCHS / ASSUMED_TEACHER)} of a GPU, and again for every student.",
        "",
        "| stored of a view | bytes | 10 views | time to write | a student here reads | on one GPU "
        "(not measured) | on eight (not measured) |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]  # fmt: skip
    for name, count in view_bytes().items():
        name = "views: what was shown" if name == schema.VIEWS else name
        reads = (count * rate for rate in (rates["student"], ASSUMED_STUDENT, 8 * ASSUMED_STUDENT))
        lines.append(
            f"| {name} | {count:,} | {size(views * count)} | "
            f"{hours(views * count / rates['write'])} | "
            + " | ".join(f"{size(rate)}/s" for rate in reads) + " |"
        )  # fmt: skip
    return "\n".join(lines)


def main() -> None:
    rates = {
        "teacher": teacher_rate(), "student": student_rate(), "write": write_rate(),
        "pooled": gather_rate(POOLED, 8192), "spatial": gather_rate(WHOLE_MAP, 200),
    }  # fmt: skip
    text = report(rates)
    print(text)
    write_text(PAGE, replace_between(PAGE.read_text(encoding="utf-8"), text, "scaling"))


if __name__ == "__main__":
    main()
