"""examine: what a network can do beyond its task: corrupted images, and other data sets."""

import json
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.compute import Compute, choose_compute
from pipeline.corruptions import CORRUPTIONS
from pipeline.errors import MenteeError, near
from pipeline.examined import Examined, ExaminedStudent
from pipeline.files import write_json, write_text
from pipeline.params import Params
from pipeline.prepared import PREPARED_FILE, TARGETS, Split, read_split
from pipeline.progress import say, track
from pipeline.stages.train import STUDENTS
from pipeline.students import Card, Student, load_student
from pipeline.transfer import drawn_rows, head_accuracy
from pipeline.transplants import Transplant, retrain
from pipeline.variants import TEACHER, UNTRAINED, Variant

EVIDENCE = Path("evidence/examine")
SUMMARIES = Path("metrics/examine")
SEED = 0  # of which test images are corrupted


def examine(params: Params, variant: Variant) -> None:
    """Write what a network does beyond its task to EVIDENCE, and the means of it to SUMMARIES."""
    compute = choose_compute(params.runtime)
    names = {TEACHER: TEACHER, UNTRAINED: f"{UNTRAINED}-{variant.seed}"}
    name = names.get(variant.mode, variant.name)
    network = open_network(params, variant, compute)
    evidence: dict[str, Any] = {}
    if params.examine.corrupted and variant.mode != UNTRAINED:
        test = read_split(PREPARED_FILE, "test")
        evidence["corruptions"] = withstand(network, test, params.examine.corrupted)
    evidence["targets"] = {
        target: transfer(params, network, target, variant.seed) for target in params.examine.targets
    }
    # Not sorted, as other JSON is: taps stand in the order of depth.
    write_text(EVIDENCE / f"{name}.json", json.dumps(evidence, indent=2) + "\n")
    summary = summarise(evidence)
    write_json(SUMMARIES / f"{name}.json", summary)
    say(f"{name}: {json.dumps(summary)}")


def open_network(params: Params, variant: Variant, compute: Compute) -> Examined:
    if variant.mode == TEACHER:
        # Not above: students are examined where no teacher is installed.
        from pipeline.stages.examine_teacher import examined_teacher

        return examined_teacher(params, compute)
    if variant.mode == UNTRAINED:
        student = untrained(params, variant.seed)
    else:
        student = load_student(STUDENTS / variant.name)
    taps = student.depth_taps()
    for tap in params.examine.retrain_after:
        if tap not in taps:
            raise MenteeError(
                f"examine.retrain_after: {tap!r} is none of the student's taps by depth"
                f"{near(tap, taps)}; there are: {', '.join(taps)}"
            )
    return ExaminedStudent(student.to(compute.device), compute)


def untrained(params: Params, seed: int) -> Student:
    """The student as its training would begin."""
    torch.manual_seed(seed)
    labelled = read_split(PREPARED_FILE, "labelled")
    images = torch.from_numpy(labelled.images)
    about = {"mode": UNTRAINED, "seed": seed}
    return Student(Card.of(params.student, 0.0, labelled.class_names, images, about)).eval()


def withstand(network: Examined, test: Split, count: int) -> dict[str, Any]:
    """Accuracy on so many test images as they are, and under each corruption, weakest first."""
    # By lot, since a file may be in the order of its classes, or deal them out in turn.
    rows = np.sort(np.random.default_rng(SEED).permutation(len(test))[:count])
    images, labels = test.images[rows], test.labels[rows]

    def accuracy(shown: np.ndarray) -> float:
        return float((network.answer(shown) == labels).mean())

    found: dict[str, Any] = {"images": len(rows), "clean": accuracy(images)}
    for kind, (corrupt, strengths) in track(CORRUPTIONS.items(), "corruptions", len(CORRUPTIONS)):
        found[kind] = [accuracy(corrupt(images, strength)) for strength in strengths]
    return found


def transfer(params: Params, network: Examined, name: str, seed: int) -> dict[str, Any]:
    """How well features serve a target: accuracies by tap, and after training from there on."""
    settings = params.examine
    path = TARGETS / f"{name}.h5"
    labelled, test = (read_split(path, part, "targets") for part in ("labelled", "test"))
    drawn = draw_all(params, name, labelled)
    # Just the images of any draw: a target may have very many more.
    rows_of_any = np.unique(np.concatenate([rows for draws in drawn.values() for rows in draws]))
    fitted_on = network.features(labelled.images[rows_of_any])
    tested_on = network.features(test.images)

    def accuracy_of(tap: str, rows: np.ndarray) -> float:
        features = fitted_on[tap][np.searchsorted(rows_of_any, rows)]
        return head_accuracy(features, labelled.labels[rows], tested_on[tap], test.labels)

    taps = {
        tap: {key: [accuracy_of(tap, rows) for rows in draws] for key, draws in drawn.items()}
        for tap in track(fitted_on, f"heads for {name}", len(fitted_on))
    }
    retrained = {}
    if settings.retrain_after and isinstance(network, ExaminedStudent):
        training = params.training_of("examine.retrain_steps", steps=settings.retrain_steps)
        compute = network.compute
        for tap in settings.retrain_after:
            fresh = Transplant(network.student, tap, labelled.class_names, seed).to(compute.device)
            retrained[tap] = retrain(
                fresh, labelled, test, training, params.views, seed, compute,
                params.runtime.resident_share,
            )  # fmt: skip
    return {"taps": taps, "retrained": retrained}


def draw_all(params: Params, name: str, labelled: Split) -> dict[str, list[np.ndarray]]:
    """The rows of every draw, by labels a class as a word; all there are can be drawn once only."""
    drawn = {}
    counts = np.bincount(labelled.labels)
    for per_class in params.examine.per_class:
        if per_class is None:
            drawn["all"] = [drawn_rows(labelled.labels, None, 0)]
            continue
        if per_class > counts.min():
            raise MenteeError(
                f"examine.per_class: {per_class} is more than the {counts.min()} training images "
                f"of class {labelled.class_names[counts.argmin()]!r} of {name}: take fewer, or null"
            )
        drawn[str(per_class)] = [
            drawn_rows(labelled.labels, per_class, draw) for draw in range(params.examine.draws)
        ]
    return drawn


def summarise(evidence: dict[str, Any]) -> dict[str, Any]:
    """For `dvc metrics show`: means over corruptions and strengths, and over draws at the end."""
    summary: dict[str, Any] = {"targets": {}}
    if "corruptions" in evidence:
        summary["corrupted"] = statistics.fmean(
            accuracy for kind in CORRUPTIONS for accuracy in evidence["corruptions"][kind]
        )
    for name, found in evidence["targets"].items():
        last: dict[str, list[float]] = next(reversed(found["taps"].values()), {})
        summary["targets"][name] = {key: statistics.fmean(draws) for key, draws in last.items()}
    return summary
