"""A dump of real views by the real teacher, against the teacher's forward passes alone."""

import os
import shutil
import time
from contextlib import chdir
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from clock import seconds_of
from rows import Row, ratios, row

from pipeline.cache.schema import Place
from pipeline.compute import choose_compute
from pipeline.params import Params, load_params
from pipeline.prepared import PREPARED_FILE, Split, write_prepared
from pipeline.stages import dump as dumping
from pipeline.teachers import Teacher, load_teacher
from pipeline.views_ahead import show

ROUNDS = 5
# Of the labelled split, so that a round takes seconds; 64 images are for validation and 64 to test.
IMAGES, VIEWS = {"cpu": 384, "cuda": 19_200}, 3


def writing(folder: Path, scale: float = 1.0) -> list[Row]:
    """Dumps and bare forward passes over the same views in turns.

    The forward passes are of pictures that already lie on the device, and nothing of their answers
    is copied. What a dump does once, however large it is, is left out: loading the teacher, and
    measuring its latency for the report.
    """
    torch.set_num_threads(os.cpu_count() or 1)
    params = load_params()
    compute = choose_compute(params.runtime)
    images = max(int(IMAGES[compute.device.type] * scale) // 64 * 64, 64)
    params = params.model_copy(update={
        "views": params.views.model_copy(update={"labelled": VIEWS}),
        "cache": params.cache.model_copy(update={"rows_per_shard": max(images // 2, 64)}),
    })  # fmt: skip
    teacher = load_teacher(params.teacher, compute)
    counts = {"labelled": images, "unlabelled": 0, "validation": 64, "test": 64}
    splits = [random_split(name, count, params) for name, count in counts.items()]
    with chdir(folder):
        write_prepared(PREPARED_FILE, splits)
        shown = show(
            places(splits, params), params.views, params.teacher.input_size, compute.device
        )
        pictures = [batch.pictures.to(compute.device) for batch in shown]
        views = sum(map(len, pictures))
        bare, dumped = [], []
        for number in range(ROUNDS + 1 if scale == 1 else 2):
            seconds = forward_seconds(teacher, pictures), dump_seconds(teacher, params)
            if number:
                bare.append(seconds[0])
                dumped.append(seconds[1])
    rates = [views / sorted(times)[len(times) // 2] for times in (dumped, bare)]
    measured = f"{rates[0]:,.0f} against {rates[1]:,.0f} views a second"
    what = f"time of a dump against the bare teacher's, {params.teacher.model}"
    return [row(what, ratios(dumped, bare), measured, target=1.1, at_most=True)]


def random_split(name: str, count: int, params: Params, classes: int = 2) -> Split:
    pixels = params.data.image_size
    generator = np.random.default_rng(count)
    images = generator.integers(256, size=(count, pixels, pixels, 3), dtype=np.uint8)
    ids = tuple(f"{name}-{number}" for number in range(count))
    names = tuple(f"class {number}" for number in range(classes))
    return Split(name, images, np.arange(count) % classes, ids, names)


def places(splits: list[Split], params: Params) -> list[tuple[Split, Place]]:
    """Every view of every split, as one place each."""
    return [
        (split, Place(view, 0, 0, len(split)))
        for split in splits
        for view in range(dumping.views_of_split(params, split.name))
    ]


def forward_seconds(teacher: Teacher, pictures: list[torch.Tensor]) -> float:
    def answer_all() -> None:
        for batch in pictures:
            dumping.answer_filled_up(teacher, batch)

    return seconds_of(answer_all, teacher.compute.device)


def dump_seconds(teacher: Teacher, params: Params) -> float:
    """A dump into an empty folder."""
    for made in (dumping.SCRATCH, dumping.CACHE):
        shutil.rmtree(made, ignore_errors=True)
    with (
        patch.object(dumping, "load_teacher", lambda *_: teacher),
        patch.object(dumping, "latency", lambda *_: {}),
    ):
        start = time.perf_counter()
        dumping.dump(params)
        return time.perf_counter() - start
