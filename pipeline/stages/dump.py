"""dump (stage one): every view of every sample through the teacher, once -> HDF5 shards."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.cache import schema
from pipeline.cache.writer import Scratch, write_index, write_manifest
from pipeline.compute import choose_compute
from pipeline.errors import MenteeError
from pipeline.files import write_json
from pipeline.latency import latency
from pipeline.lessons import CACHE
from pipeline.params import Params
from pipeline.prepared import PREPARED_FILE, SPLITS, Split, read_split
from pipeline.progress import Progress, say
from pipeline.teachers import Answers, Teacher, load_teacher
from pipeline.views import draw, pixel_digests, replay

SCRATCH = Path(".work/cache")
RUN_FILE = Path("runs/dump.json")
# Fixed, and the last batch is filled up: kernels may round differently at another batch size.
BATCH_SIZE = 64


def dump(params: Params) -> None:
    compute = choose_compute(params.runtime)
    splits = [read_split(PREPARED_FILE, name) for name in SPLITS]
    teacher = load_teacher(params.teacher, compute)
    specs = {split.name: describe(split, params, teacher) for split in splits}
    scratch = Scratch(SCRATCH)
    with scratch.locked():
        work = [
            (split, place, missing)
            for split in splits
            for place in schema.places(specs[split.name])
            if (missing := scratch.missing(specs[split.name], place))
        ]
        count = sum(place.stop - place.start for _, place, _ in work)
        say(f"teacher {params.teacher.model} on {compute}: {count} views to answer")
        start = time.perf_counter()
        with Progress("teacher answers", count) as progress:
            for split, place, missing in work:
                arrays = answer(teacher, split, place, params, progress)
                for kind in missing:
                    scratch.write(specs[split.name], kind, place, arrays[kind])
        seconds = time.perf_counter() - start
        for split in splits:
            publish(split, specs[split.name], scratch)
    size = params.teacher.input_size
    write_json(
        RUN_FILE,
        {
            "teacher": params.teacher.model,
            "device": str(compute),
            "views_answered": count,
            "seconds": round(seconds, 1),
            "parameters": sum(p.numel() for p in teacher.network.parameters()),
            "latency_ms": latency(teacher.answer, size, compute.device),
        },
    )


def describe(split: Split, params: Params, teacher: Teacher) -> dict[str, Any]:
    """spec.json: everything that decides the numbers of a split's cache."""
    counts = {"labelled": params.views.labelled, "unlabelled": params.views.unlabelled}
    size = params.teacher.input_size
    example = teacher.answer(torch.zeros(1, 3, size, size, dtype=torch.uint8))
    dtype = params.cache.dtype
    kinds: dict[str, Any] = {
        schema.VIEWS: {},
        schema.LOGITS: {"dtype": dtype, "shape": list(example.logits.shape[1:])},
    }
    for tap, place in params.teacher.taps.items():
        shape = list(example.features[tap].shape[1:])
        kinds[schema.features_kind(tap)] = {**place.model_dump(), "dtype": dtype, "shape": shape}
    return {
        "format": schema.FORMAT,
        "split": split.name,
        "rows": len(split),
        "rows_per_shard": params.cache.rows_per_shard,
        "data": {"digest": split.digest(), "class_names": list(split.class_names)},
        "views": {
            # Evaluation images are shown as they are: one view, the plain one.
            "count": counts.get(split.name, 1),
            **params.views.model_dump(exclude={"labelled", "unlabelled"}),
            "image_size": list(split.image_size),
        },
        "teacher": {
            "model": params.teacher.model,
            "weights_sha256": teacher.weights_digest,
            "input_size": size,
            "resize": "bicubic, antialiased, uint8",
            "preprocessing": teacher.preprocessing,
            "device": teacher.compute.device.type,
            "precision": teacher.compute.precision,
            "batch_size": BATCH_SIZE,
        },
        "kinds": kinds,
    }


def answer(
    teacher: Teacher, split: Split, place: schema.Place, params: Params, progress: Progress
) -> dict[str, dict[str, np.ndarray]]:
    """The arrays of every kind for one place: what was shown, logits, features by tap."""
    ids = split.ids[place.start : place.stop]
    regions = draw(ids, place.view, params.views, split.image_size)
    images = torch.from_numpy(split.images[place.start : place.stop])
    digests, answers = [], []
    for start in range(0, len(ids), BATCH_SIZE):
        batch = slice(start, start + BATCH_SIZE)
        pictures = replay(
            images[batch], torch.from_numpy(regions[batch]), params.teacher.input_size
        )
        digests.append(pixel_digests(pictures))
        answers.append(answer_filled_up(teacher, pictures))
        progress.advance(len(pictures))
    dtype = np.dtype(params.cache.dtype).newbyteorder("<")
    arrays = {
        schema.VIEWS: {
            schema.REGIONS: regions.astype("<i4"), schema.PIXELS: np.concatenate(digests),
        },
        schema.LOGITS: {schema.VALUES: joined([a.logits for a in answers], dtype)},
    }  # fmt: skip
    for tap in teacher.taps:
        values = joined([a.features[tap] for a in answers], dtype)
        arrays[schema.features_kind(tap)] = {schema.VALUES: values}
    for kind in arrays.keys() - {schema.VIEWS}:
        check_finite(arrays[kind][schema.VALUES], kind, ids, place.view)
    return arrays


def answer_filled_up(teacher: Teacher, pictures: torch.Tensor) -> Answers:
    """Answer a batch of at most BATCH_SIZE pictures as one of exactly BATCH_SIZE."""
    count = len(pictures)
    filling = pictures[-1:].expand(BATCH_SIZE - count, -1, -1, -1)
    answers = teacher.answer(torch.cat([pictures, filling]))
    features = {tap: values[:count].cpu() for tap, values in answers.features.items()}
    return Answers(answers.logits[:count].cpu(), features)


def joined(parts: list[torch.Tensor], dtype: np.dtype) -> np.ndarray:
    with np.errstate(over="ignore"):  # an overflow is found, and named, by check_finite
        return torch.cat(parts).numpy().astype(dtype)


def check_finite(values: np.ndarray, kind: str, ids: tuple[str, ...], view: int) -> None:
    finite = np.isfinite(values).reshape(len(values), -1).all(axis=1)
    if not finite.all():
        row = int(np.argmin(finite))
        raise MenteeError(
            f"{kind} of sample {ids[row]}, view {view}, is not finite in {values.dtype.name}: "
            f"set cache.dtype to float32, or check the teacher's weights"
        )


def publish(split: Split, spec: dict[str, Any], scratch: Scratch) -> None:
    """Move a split's finished shards to where DVC and the students look for them."""
    root = CACHE / split.name
    entries = [
        entry for kind in spec["kinds"] for entry in scratch.publish(spec, kind, root / kind)
    ]
    write_index(root / "index.h5", split.ids, split.labels)
    write_manifest(root, spec, entries)
    size = sum(entry["bytes"] for entry in entries) / 1e6
    say(f"{root}: {spec['views']['count']} views of {len(split)} images, {size:.0f} MB")
