"""dump (stage one): every view of every sample through the teacher, once -> HDF5 shards."""

import time
from contextlib import nullcontext
from itertools import islice, tee
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.cache import schema
from pipeline.cache.encodings import encoding_of, features_encoding, logits_encoding
from pipeline.cache.writer import Beside, Scratch, write_root
from pipeline.compute import choose_compute
from pipeline.cost import latency, multiply_adds
from pipeline.errors import MenteeError
from pipeline.files import canonical_json, digest_text, remove_partial, write_json
from pipeline.lessons import CACHE
from pipeline.params import Params
from pipeline.prepared import PREPARED_FILE, SPLITS, Split, read_split
from pipeline.progress import Progress, say
from pipeline.ranks import Ranks, joined
from pipeline.teachers import Answers, Teacher, load_teacher
from pipeline.tuned import find_tuned
from pipeline.views import COLUMNS
from pipeline.views_ahead import BATCH_SIZE, Shown, batches, show
from pipeline.watched import warn_of_unwatched

SCRATCH = Path(".work/cache")
RUN_FILE = Path("runs/dump.json")
AHEAD = 4  # batches that may wait to be written: what a killed dump loses besides one shard

# Where shards are missing, and of which kinds.
Work = tuple[Split, schema.Place, list[str]]


def dump(params: Params) -> None:
    """Answer every view that no whole shard holds yet, then publish all under CACHE."""
    with joined() as ranks:
        compute = choose_compute(params.runtime)
        splits = [read_split(PREPARED_FILE, name) for name in SPLITS]
        teacher = load_teacher(params.teacher, compute, find_tuned(params, splits[0]))
        specs = {split.name: describe(split, params, teacher) for split in splits}
        ranks.refuse_difference(digest_text(canonical_json(specs)))
        scratch = Scratch(SCRATCH)
        with scratch.locked() if ranks.is_first else nullcontext():
            if ranks.is_first:
                for key, path in params.teacher.files():
                    warn_of_unwatched(f"teacher.{key}", path, "dump")
                scratch.begin(specs.values())
                for split in splits:
                    for kind in specs[split.name]["kinds"]:
                        scratch.adopt(specs[split.name], kind, CACHE / split.name / kind)
            ranks.wait()
            work = find_missing(splits, specs, scratch, ranks)
            count = sum(place.stop - place.start for _, place, _ in work)
            say(
                f"teacher {params.teacher.model} on {compute}{ranks.several}: {count} views to "
                f"answer"
            )
            start = time.perf_counter()
            answer_missing(work, specs, params, teacher, scratch, ranks)
            ranks.wait()
            seconds = time.perf_counter() - start
            if not ranks.is_first:
                return
            for split in splits:
                publish(split, specs[split.name], scratch)
            scratch.end()
    size = params.teacher.input_size
    write_json(
        RUN_FILE,
        {
            "teacher": params.teacher.model,
            "device": f"{compute}{ranks.several}",
            "views_answered": count,
            "seconds": round(seconds, 1),
            "parameters": sum(p.numel() for p in teacher.network.parameters()),
            "bytes": sum(value.nbytes for value in teacher.network.state_dict().values()),
            "multiply_adds": multiply_adds(teacher.answer, size, compute.device),
            "latency_ms": latency(teacher.answer, size, compute.device),
        },
    )


def find_missing(
    splits: list[Split], specs: dict[str, Any], scratch: Scratch, ranks: Ranks
) -> list[Work]:
    """What the teacher must answer, the same on every rank; each looks at its share of shards."""
    places = [(split, place) for split in splits for place in schema.places(specs[split.name])]
    kinds = list(specs[splits[0].name]["kinds"])  # all splits have the same
    found = torch.zeros(len(places[ranks.own()]), len(kinds), dtype=torch.uint8)
    for lacks, (split, place) in zip(found, places[ranks.own()], strict=True):
        missing = scratch.missing(specs[split.name], place)
        lacks.copy_(torch.tensor([kind in missing for kind in kinds]))
    return [
        (split, place, [kinds[number] for number in lacks.nonzero()])
        for lacks, (split, place) in zip(ranks.whole(found, len(places)), places, strict=True)
        if lacks.any()
    ]


def answer_missing(
    work: list[Work], specs: dict[str, Any], params: Params, teacher: Teacher, scratch: Scratch,
    ranks: Ranks,
) -> None:  # fmt: skip
    """The teacher answers what is missing, place by place; a rank takes the next that is left."""
    count = sum(place.stop - place.start for _, place, _ in work)
    answered = ranks.counter()
    shown_ahead, dealt = tee(ranks.deal(work))
    shown = show(
        ((split, place) for split, place, _ in shown_ahead), params.views, teacher.input_size,
        teacher.compute.device,
    )  # fmt: skip
    with Progress("teacher answers", count) as progress, Beside(AHEAD) as beside:
        for split, place, missing in dealt:
            collector = Collector(specs[split.name], split, place)
            for batch in islice(shown, len(batches(place))):
                beside.put(collector.add, batch, answer_filled_up(teacher, batch.pictures))
                progress.advance(answered.add(len(batch.pictures)) - progress.done)
            beside.put(collector.write, scratch, missing)


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
            **place.described(), "encoding": encoding, "shape": shape,
        }  # fmt: skip
    return {
        "format": schema.FORMAT,
        "split": split.name,
        "rows": len(split),
        "rows_per_shard": params.cache.rows_per_shard,
        "data": {"digest": split.digest, "class_names": list(split.class_names)},
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

    def __init__(self, spec: dict[str, Any], split: Split, place: schema.Place):
        self.spec, self.place = spec, place
        self.ids = split.ids[place.start : place.stop]
        count = len(self.ids)
        self.regions = np.empty((count, len(COLUMNS)), dtype="<i4")
        self.pixels = np.empty(count, dtype="<u8")
        self.values: dict[str, np.ndarray] = {
            kind: np.empty((count, *described["shape"]), dtype=np.float32)
            for kind, described in spec["kinds"].items()
            if kind != schema.VIEWS
        }

    def add(self, batch: Shown, answers: Answers) -> None:
        """Beside the teacher, which goes on: here a GPU is waited for."""
        answers = answers.cpu()
        self.regions[batch.rows], self.pixels[batch.rows] = batch.regions, batch.pixels
        self.values[schema.LOGITS][batch.rows] = answers.logits
        for tap, features in answers.features.items():
            self.values[schema.features_kind(tap)][batch.rows] = features

    def write(self, scratch: Scratch, kinds: list[str]) -> None:
        encoded = {kind: self.encoded(kind) for kind in kinds}  # all are checked before any
        for kind, (arrays, max_error) in encoded.items():
            scratch.write(self.spec, kind, self.place, arrays, max_error)

    def encoded(self, kind: str) -> tuple[dict[str, np.ndarray], float]:
        """The arrays of a kind's shard, and how far a stored value is off at most."""
        if kind == schema.VIEWS:
            return {schema.REGIONS: self.regions, schema.PIXELS: self.pixels}, 0.0
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
        """A MenteeError names the first sample whose values `(n, ...)` are not all finite."""
        finite = np.isfinite(values).reshape(len(values), -1).all(axis=1)
        if not finite.all():
            sample, view = self.ids[int(np.argmin(finite))], self.place.view
            raise MenteeError(
                f"{kind} of sample {sample}, view {view}, is not finite in {stored}: set "
                f"cache.{'logits' if kind == schema.LOGITS else 'features'} to float32, or check "
                f"the teacher's weights"
            )


def answer_filled_up(teacher: Teacher, pictures: torch.Tensor) -> Answers:
    """Answer a batch of at most BATCH_SIZE pictures as one of exactly BATCH_SIZE, on the device."""
    count = len(pictures)
    if count < BATCH_SIZE:
        filling = pictures[-1:].expand(BATCH_SIZE - count, -1, -1, -1)
        pictures = torch.cat([pictures, filling])
    answers = teacher.answer(pictures)
    features = {tap: values[:count] for tap, values in answers.features.items()}
    return Answers(answers.logits[:count], features)


def publish(split: Split, spec: dict[str, Any], scratch: Scratch) -> None:
    """Move a split's finished shards to where DVC and the students look for them."""
    root = CACHE / split.name
    remove_partial(root)  # of a dump that was killed right here
    manifests = [scratch.publish(spec, kind, root / kind) for kind in spec["kinds"]]
    write_root(root, spec, split.ids, split.labels)
    size = sum(entry.bytes for manifest in manifests for entry in manifest.entries) / 1e6
    say(f"{root}: {spec['views']['count']} views of {len(split)} images, {size:.0f} MB")
