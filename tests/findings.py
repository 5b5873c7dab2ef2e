"""What evaluate, examine, stability and train leave behind, in their form, with made-up numbers."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from projects import REPOSITORY, edit_params
from sklearn.datasets import load_digits

from pipeline.metrics import reliability
from pipeline.params import Params, load_params
from pipeline.prepared import PREPARED_FILE, Split, write_prepared
from pipeline.reporting.series import CORRUPTIONS
from pipeline.variants import TEACHER, UNTRAINED

TAPS = ("conv1", "conv2", "conv3", "conv4", "conv5", "pooled")
LEVELS = {TEACHER: 0.82, "independent": 0.5, UNTRAINED: 0.1}  # test accuracy; all others 0.6
# Five modes and three seeds.
SWEEP: dict[str, Any] = {
    "sweep": {
        "seeds": [0, 1, 2],
        "labels": {"modes": ["independent"], "settings": ["plain", "dropout"]},
        "features": {"modes": ["adamant", "obedient", "gullible"], "settings": ["plain"]},
        "unlabelled": {"modes": ["gullible_first"], "settings": ["unlabelled_first"]},
    },
    "efficiency": {"labels": [10, 25]},
    "stability": {"modes": ["independent", "obedient"]},
}


def level(name: str) -> float:
    """About what a network reaches, by its name."""
    return 0.73 if "-unlabelled" in name else LEVELS.get(name.split("-")[0], 0.6)


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def write_metrics(folder: Path, name: str, random: np.random.Generator) -> None:
    accuracy = level(name) + random.normal(0, 0.006)
    scores = {
        "accuracy": round(accuracy, 4), "nll": 1.9 * (1 - accuracy) + 0.5,
        "brier": 1.3 * (1 - accuracy), "ece": 0.3 * (1 - accuracy),
    }  # fmt: skip
    teacher = name == TEACHER
    content = {
        "test": scores,
        "validation": {**scores, "accuracy": accuracy + random.normal(0, 0.01)},
        "parameters": 4652008 if teacher else 279466,
        "bytes": 18_690_000 if teacher else 1_121_000,
        "multiply_adds": 197_000_000 if teacher else 15_300_000,
        "latency_ms": {
            "1": (62.9 if teacher else 1.2) * random.uniform(0.9, 1.1),
            "64": (1500 if teacher else 30) * random.uniform(0.9, 1.1),
        },
    }
    if not teacher:
        content["likeness"] = {"agreement": accuracy - 0.03, "kl": 1.2 - accuracy}
    write(folder / f"metrics/{name}.json", content)


def write_curves(folder: Path, name: str, random: np.random.Generator) -> None:
    """Validation accuracy and both norms at ten steps."""
    steps = np.arange(100, 1001, 100)
    logged = {
        "validation/accuracy": level(name) * (1 - np.exp(-steps / 250)),
        "norm/gradient": 40 * level(name) * np.exp(-steps / 400) * random.uniform(0.7, 1.3, 10),
        "norm/weights": 20 + 4 * level(name) * np.sqrt(steps / 100),
    }
    for key, values in logged.items():
        path = folder / f"students/{name}/live/plots/metrics/{key}.tsv"
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = (f"{step}\t{value}" for step, value in zip(steps, values, strict=True))
        path.write_text("\n".join([f"step\t{key.split('/')[1]}", *lines]) + "\n")


def write_evaluated(
    folder: Path, name: str, classes: tuple[str, ...], random: np.random.Generator
) -> None:
    confidence = random.uniform(1 / len(classes), 1, 500)
    right = random.random(500) < confidence * level(name) * 1.2
    content: dict[str, Any] = {"reliability": reliability(confidence, right)}
    if name != TEACHER:
        content["cka"] = {
            tap: {own: (0.3 + 0.1 * depth) * level(name) for depth, own in enumerate(TAPS)}
            for tap in ("middle", "pooled")
        }
        content["disagreements"] = [
            {"row": 3 * number, "label": classes[number % len(classes)],
             "student": [classes[1], 0.93], "teacher": [classes[0], 0.88]}
            for number in range(12)
        ]  # fmt: skip
        content["attention"] = {
            "rows": list(range(6)),
            "taps": {
                tap: random.random((6, side, side)).round(3).tolist()
                for tap, side in zip(TAPS, (16, 8, 8, 4, 4), strict=False)
            },
        }
        content["filters"] = random.integers(0, 256, (32, 3, 3, 3)).tolist()
    write(folder / f"evidence/evaluate/{name}.json", content)


def write_examined(folder: Path, name: str, random: np.random.Generator) -> None:
    taps = ("middle", "pooled") if name == TEACHER else TAPS
    reached = level(name)
    content: dict[str, Any] = {"targets": {"digits": {
        "taps": {
            tap: {
                "10": [0.4 + 0.4 * reached + 0.02 * depth + random.normal(0, 0.02)
                       for _ in range(3)],
                "all": [0.6 + 0.4 * reached * depth / len(taps)],
            }
            for depth, tap in enumerate(taps)
        },
        "retrained": {},
    }}}  # fmt: skip
    summary: dict[str, Any] = {"targets": {"digits": {"10": 0.7, "all": 0.9}}}
    if not name.startswith(UNTRAINED):
        falling = {
            corruption: [reached * (1 - 0.12 * strength) for strength in range(1, 6)]
            for corruption in CORRUPTIONS
        }
        content["corruptions"] = {"images": 500, "clean": reached, **falling}
        summary["corrupted"] = float(np.mean(list(falling.values())))
    write(folder / f"evidence/examine/{name}.json", content)
    write(folder / f"metrics/examine/{name}.json", summary)


def write_budgets(folder: Path, params: Params, random: np.random.Generator) -> None:
    """Half of the labels cost a tenth."""
    for budget in params.budgets():
        share = 1 - 0.1 * np.log2(params.data.labelled_per_class / budget.labels)
        accuracy = level(budget.variant.name) * share + random.normal(0, 0.006)
        scores = {split: {"accuracy": accuracy} for split in ("validation", "test")}
        write(folder / f"evidence/efficiency/{budget.name}.json", scores)


def write_attempts(folder: Path, params: Params, random: np.random.Generator) -> None:
    """The lone student trains at a middling rate alone; every other at two more."""
    for attempt in params.attempts():
        bears = (1e-2,) if attempt.mode == "independent" else (1e-3, 1e-2, 1e-1)
        trains = attempt.learning_rate in bears
        diverged = {"step": 40, "term": "labels"} if attempt.learning_rate >= 1 else None
        curve = [
            {"step": 15 * look, "accuracy": 0.02 * look, "weight_norm": 20.0,
             "gradient_norm": attempt.learning_rate**0.5 * look * random.uniform(0.5, 2)}
            for look in range(1, 3 if diverged else 21)
        ]  # fmt: skip
        write(folder / f"evidence/stability/{attempt.name}.json", {
            "mode": attempt.mode, "learning_rate": attempt.learning_rate,
            "depth": attempt.depth, "seed": attempt.seed,
            "accuracy": (0.45 if trains else 0.12) + random.normal(0, 0.01), "chance": 0.1,
            "diverged": diverged, "curve": curve,
        })  # fmt: skip


def write_findings(folder: Path, params: Params, classes: tuple[str, ...]) -> None:
    """All of it for every network of the sweep."""
    random = np.random.default_rng(0)
    students = [variant.name for variant in params.variants()]
    for name in (TEACHER, *students):
        write_metrics(folder, name, random)
        write_evaluated(folder, name, classes, random)
        write_examined(folder, name, random)
    for name in students:
        write_curves(folder, name, random)
    for seed in params.sweep.seeds:
        write_examined(folder, f"{UNTRAINED}-{seed}", random)
    write_budgets(folder, params, random)
    write_attempts(folder, params, random)


def make_project(folder: Path, **changes: Any) -> Params:
    """A folder with scikit-learn's digits prepared and all findings of a sweep; params as told."""
    shutil.copy(REPOSITORY / "params.yaml", folder)
    edit_params(folder / "params.yaml", {**SWEEP, **changes})
    params = load_params(folder / "params.yaml")
    prepared = load_digits()
    images = np.repeat((prepared.images * 15).astype(np.uint8)[..., None], 3, axis=3)
    classes = tuple(map(str, prepared.target_names))
    labels = prepared.target.astype(np.int64)
    splits = [
        Split(name, images[start:stop], labels[start:stop],
              tuple(map(str, range(start, stop))), classes)
        for name, start, stop in (
            ("labelled", 0, 100), ("validation", 100, 200), ("test", 200, 300),
        )
    ]  # fmt: skip
    write_prepared(folder / PREPARED_FILE, splits)
    write_findings(folder, params, classes)
    return params
