"""evaluate: one student, or the teacher with its head, on the test split."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.cache.reader import Kind
from pipeline.cache.schema import MANIFEST, TASK_LOGITS, features_kind
from pipeline.compute import Compute, choose_compute
from pipeline.cost import latency, multiply_adds
from pipeline.files import write_json, write_text
from pipeline.gallery import attention, disagreements, first_filters, to_grid
from pipeline.lessons import CACHE, open_kind
from pipeline.likeness import agreement, cka, divergence, gram
from pipeline.metrics import confidence_and_right, reliability, score
from pipeline.params import Params
from pipeline.prepared import PREPARED_FILE, Split, read_split
from pipeline.progress import say
from pipeline.results import SIZES, read_numbers
from pipeline.stages.train import STUDENTS
from pipeline.students import WEIGHTS_FILE, Student, load_student
from pipeline.training import predict_features, predict_logits
from pipeline.variants import TEACHER, Variant

METRICS = Path("metrics")
EVIDENCE = Path("evidence/evaluate")
DUMP_RUN = Path("runs/dump.json")
# Validation images whose features are compared: memory grows with their square. Those of the test
# split would be most of what a team pulls that trains on another's logits.
COMPARED = 2000
COMPARED_GRID = 4  # maps are averaged to it, as the teacher's are in its cache
LOOKED_AT = 6  # test images whose attention is kept


def evaluate(params: Params, variant: Variant) -> None:
    """Scores on validation and test, size and speed of one student, and its likeness."""
    compute = choose_compute(params.runtime)
    folder = STUDENTS / variant.name
    student = load_student(folder).to(compute.device)
    splits = {name: read_split(PREPARED_FILE, name) for name in ("validation", "test")}
    answers = {
        name: predict_logits(student, split.images, compute, f"answers to {name}")
        for name, split in splits.items()
    }
    scores = {name: score(answers[name], split.labels) for name, split in splits.items()}
    test, logits = splits["test"], answers["test"]

    @torch.inference_mode()
    def answer(pictures: torch.Tensor) -> torch.Tensor:
        with compute.autocast():
            return student(pictures)

    size = student.card.input_size
    evidence: dict[str, Any] = {
        "reliability": reliability(*confidence_and_right(logits, test.labels)),
        **what_it_sees(student, test, compute),
    }
    likeness = {}
    if told := cached(test, TASK_LOGITS):
        teacher = told.view(0)
        likeness = {"agreement": agreement(logits, teacher), "kl": divergence(logits, teacher)}
        evidence["disagreements"] = disagreements(test, logits, teacher)
    evidence["cka"] = compare_features(student, splits["validation"], params.teacher.taps, compute)
    content = {
        **scores,
        **({"likeness": likeness} if likeness else {}),
        "parameters": student.count_parameters(),
        "bytes": (folder / WEIGHTS_FILE).stat().st_size,
        "multiply_adds": multiply_adds(answer, size, compute.device),
        "latency_ms": latency(answer, size, compute.device),
    }
    write_evidence(variant.name, evidence)
    write_json(METRICS / f"{variant.name}.json", content)
    say(f"{variant.name}: test accuracy {scores['test']['accuracy']:.1%}")


def evaluate_teacher() -> None:
    """The same scores from the teacher's cached logits; size and speed as the dump saw them."""
    scores = {}
    for name in ("validation", "test"):
        split = read_split(PREPARED_FILE, name)
        logits = open_kind(CACHE, split, TASK_LOGITS).view(0)
        scores[name] = score(logits, split.labels)
    run = read_numbers(DUMP_RUN, "mentee dump", (*SIZES, ("bytes",), ("multiply_adds",)))
    size = {key: run[key] for key in ("parameters", "bytes", "multiply_adds", "latency_ms")}
    evidence = {"reliability": reliability(*confidence_and_right(logits, split.labels))}
    write_evidence(TEACHER, evidence)
    write_json(METRICS / f"{TEACHER}.json", {**scores, **size})
    STUDENTS.mkdir(exist_ok=True)  # DVC wants the folder for the report, also without any student
    say(f"teacher: test accuracy {scores['test']['accuracy']:.1%}")


def write_evidence(name: str, evidence: dict[str, Any]) -> None:
    """Taps stay in the order of depth."""
    write_text(EVIDENCE / f"{name}.json", json.dumps(evidence) + "\n")


def cached(split: Split, kind: str) -> Kind | None:
    """A kind of a split's cache, or None: who trains on others' caches may not have fetched it."""
    there = (CACHE / split.name / kind / MANIFEST).exists()
    return open_kind(CACHE, split, kind) if there else None


def what_it_sees(student: Student, test: Split, compute: Compute) -> dict[str, Any]:
    """For the report's gallery: attention `(n, h, w)` by tap on some test images, and filters."""
    rows = spread(len(test), LOOKED_AT)
    taps = student.depth_taps()
    features = predict_features(student, test.images[rows], taps, compute)
    maps = {tap: attention(features[tap]) for tap in taps if features[tap].dim() == 4}
    return {
        "attention": {"rows": rows.tolist(), "taps": maps},
        "filters": first_filters(student),
    }


def compare_features(
    student: Student, split: Split, taps: Iterable[str], compute: Compute
) -> dict[str, dict[str, float]]:
    """CKA of every teacher tap that is in the cache with every student tap, by their names."""
    rows = spread(len(split), COMPARED)
    told = {tap: kind for tap in taps if (kind := cached(split, features_kind(tap)))}
    if not told or len(rows) <= 3:
        return {}
    own = predict_features(
        student, split.images[rows], student.depth_taps(), compute,
        keep=lambda maps: to_grid(maps, COMPARED_GRID),
    )  # fmt: skip
    grams = {tap: gram(features) for tap, features in own.items()}
    likeness = {}
    for tap, kind in told.items():
        values = kind.gather(np.zeros_like(rows), rows)
        taught = gram(torch.from_numpy(values).float().to(compute.device))
        likeness[tap] = {name: cka(taught, seen) for name, seen in grams.items()}
    return likeness


def spread(count: int, wanted: int) -> np.ndarray:
    """Up to `wanted` rows of `count`, evenly: files may be in the order of their classes."""
    return np.unique(np.linspace(0, count - 1, min(count, wanted)).round().astype(np.int64))
