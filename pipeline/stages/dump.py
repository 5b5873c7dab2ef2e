"""dump (stage one): every view of every sample through the teacher, once -> HDF5 shards."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.cache import schema
from pipeline.cache.encodings import encoding_of, features_encoding, logits_encoding
from pipeline.cache.writer import Beside, Scratch, write_root
from pipeline.compute import choose_compute
from pipeline.errors import MenteeError
from pipeline.files import remove_partial, write_json
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
AHEAD = 4  # batches that may wait to be written: what a killed dump loses besides one shard


def dump(params: Params) -> None:
    compute = choose_compute(params.runtime)
    splits = [read_split(PREPARED_FILE, name) for name in SPLITS]
    teacher = load_teacher(params.teacher, compute)
    specs = {split.name: describe(split, params, teacher) for split in splits}
    scratch = Scratch(SCRATCH)
    with scratch.locked():
        for split in splits:
            for kind in specs[split.name]["kinds"]:
                scratch.adopt(specs[split.name], kind, CACHE / split.name / kind)
        work = [
            (split, place, missing)
            for split in splits
            for place in schema.places(specs[split.name])
            if (missing := scratch.missing(specs[split.name], place))
        ]
        count = sum(place.stop - place.start for _, place, _ in work)
        say(f"teacher {params.teacher.model} on {compute}: {count} views to answer")
        start = time.perf_counter()
        with Progress("teacher answers", count) as progress, Beside(AHEAD) as beside:
            for split, place, missing in work:
                ids = split.ids[place.start : place.stop]
                regions = draw(ids, place.view, params.views, split.image_size)
                collector = Collector(specs[split.name], split, place, regions)
                for rows, pictures, answers in answered(teacher, split, place, regions):
                    beside.put(collector.add, rows, pictures, answers)
                    progress.advance(len(pictures))
                beside.put(collector.write, scratch, missing)
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


def views_of_split(params: Params, name: str) -> int:
    """How many views of an image there are; evaluation images are shown as they are, once."""
    counts = {"labelled": params.views.labelled, "unlabelled": params.views.unlabelled}
    return counts.get(name, 1)


def describe(split: Split, params: Params, teacher: Teacher) -> dict[str, Any]:
    """spec.json: everything that decides the numbers of a split's cache."""
    size = params.teacher.input_size
    example = teacher.answer(torch.zeros(1, 3, size, size, dtype=torch.uint8))
    classes = example.logits.shape[1]
    kinds: dict[str, Any] = {
        schema.VIEWS: {},
        schema.LOGITS: {
            "encoding": logits_encoding(params.cache.logits, classes), "shape": [classes],
        },
    }  # fmt: skip
    encoding = features_encoding(params.cache.features)
    for tap, place in params.teacher.taps.items():
        shape = list(example.features[tap].shape[1:])
        kinds[schema.features_kind(tap)] = {
            **place.model_dump(), "encoding": encoding, "shape": shape,
        }  # fmt: skip
    return {
        "format": schema.FORMAT,
        "split": split.name,
        "rows": len(split),
        "rows_per_shard": params.cache.rows_per_shard,
        "data": {"digest": split.digest(), "class_names": list(split.class_names)},
        "views": {
            "count": views_of_split(params, split.name),
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


class Collector:
    """Gathers a place's answers, batch by batch, and writes them as a shard of every kind."""

    def __init__(
        self, spec: dict[str, Any], split: Split, place: schema.Place, regions: np.ndarray
    ):
        self.spec, self.place = spec, place
        self.ids = split.ids[place.start : place.stop]
        self.regions = regions
        self.pixels = np.empty(len(regions), dtype="<u8")
        self.values: dict[str, np.ndarray] = {
            kind: np.empty((len(regions), *described["shape"]), dtype=np.float32)
            for kind, described in spec["kinds"].items()
            if kind != schema.VIEWS
        }

    def add(self, rows: slice, pictures: torch.Tensor, answers: Answers) -> None:
        self.pixels[rows] = pixel_digests(pictures)
        self.values[schema.LOGITS][rows] = answers.logits
        for tap, features in answers.features.items():
            self.values[schema.features_kind(tap)][rows] = features

    def write(self, scratch: Scratch, kinds: list[str]) -> None:
        encoded = {kind: self.encoded(kind) for kind in kinds}  # all are checked before any
        for kind, (arrays, max_error) in encoded.items():
            scratch.write(self.spec, kind, self.place, arrays, max_error)

    def encoded(self, kind: str) -> tuple[dict[str, np.ndarray], float]:
        """The arrays of a kind's shard, and how far a stored value is off at most."""
        if kind == schema.VIEWS:
            regions = self.regions.astype("<i4")
            return {schema.REGIONS: regions, schema.PIXELS: self.pixels}, 0.0
        values = self.values[kind]
        self.check_finite(values, kind, "float32")
        encoding = encoding_of(self.spec["kinds"][kind])
        arrays = encoding.encode(values)
        with np.errstate(over="ignore", invalid="ignore"):
            max_error = encoding.max_error(values, arrays)
            if not np.isfinite(max_error):  # 8 bits may overflow too, where they are decoded
                name = self.spec["kinds"][kind]["encoding"]
                self.check_finite(encoding.decode(arrays), kind, name)
        return arrays, max_error

    def check_finite(self, values: np.ndarray, kind: str, stored: str) -> None:
        finite = np.isfinite(values).reshape(len(values), -1).all(axis=1)
        if not finite.all():
            sample, view = self.ids[int(np.argmin(finite))], self.place.view
            raise MenteeError(
                f"{kind} of sample {sample}, view {view}, is not finite in {stored}: set "
                f"cache.{'logits' if kind == schema.LOGITS else 'features'} to float32, or check "
                f"the teacher's weights"
            )


def answered(
    teacher: Teacher, split: Split, place: schema.Place, regions: np.ndarray
) -> Iterator[tuple[slice, torch.Tensor, Answers]]:
    """The rows of each batch of a place, its pictures and what the teacher says of them."""
    images = torch.from_numpy(split.images[place.start : place.stop])
    for start in range(0, len(regions), BATCH_SIZE):
        rows = slice(start, min(start + BATCH_SIZE, len(regions)))
        cut = torch.from_numpy(regions[rows])
        pictures = replay(images[rows], cut, teacher.input_size)
        yield rows, pictures, answer_filled_up(teacher, pictures)


def answer_filled_up(teacher: Teacher, pictures: torch.Tensor) -> Answers:
    """Answer a batch of at most BATCH_SIZE pictures as one of exactly BATCH_SIZE."""
    count = len(pictures)
    filling = pictures[-1:].expand(BATCH_SIZE - count, -1, -1, -1)
    answers = teacher.answer(torch.cat([pictures, filling]))
    features = {tap: values[:count].cpu() for tap, values in answers.features.items()}
    return Answers(answers.logits[:count].cpu(), features)


def publish(split: Split, spec: dict[str, Any], scratch: Scratch) -> None:
    """Move a split's finished shards to where DVC and the students look for them."""
    root = CACHE / split.name
    remove_partial(root)  # of a dump that was killed right here
    manifests = [scratch.publish(spec, kind, root / kind) for kind in spec["kinds"]]
    write_root(root, spec, split.ids, split.labels)
    size = sum(entry.bytes for manifest in manifests for entry in manifest.entries) / 1e6
    say(f"{root}: {spec['views']['count']} views of {len(split)} images, {size:.0f} MB")
