"""The numbers behind the pictures, by title: from the evidence of every seed."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.params import Params
from pipeline.reporting.evidence import found, read_evidence
from pipeline.results import CURVES, Row, read_logged

CORRUPTIONS = ("gaussian_noise", "gaussian_blur", "contrast", "jpeg")

# A mean over seeds may be taken along the first axis.
ByTitle = dict[str, np.ndarray]


def reliability(rows: Sequence[Row]) -> dict[str, dict[str, np.ndarray]]:
    """Confidence, accuracy and count of each bin by title, the answers of all seeds together."""
    pooled = {}
    for row in rows:
        bins = found(row, "evaluate", "reliability").values()
        if not bins:
            continue
        counts = np.array([one["count"] for one in bins], float)
        count = counts.sum(0)
        pooled[row.title] = {"count": count}
        for part in ("confidence", "accuracy"):
            values = np.nan_to_num(np.array([one[part] for one in bins], float))
            with np.errstate(invalid="ignore"):
                pooled[row.title][part] = (values * counts).sum(0) / count
    return pooled


def corruptions(rows: Sequence[Row]) -> dict[str, ByTitle]:
    """Accuracy by corruption and title: `(seeds, 6)`, the clean images first."""
    series: dict[str, ByTitle] = {}
    for row in rows:
        seeds = list(found(row, "examine", "corruptions").values())
        for corruption in CORRUPTIONS if seeds else ():
            values = [[seed["clean"], *seed[corruption]] for seed in seeds]
            series.setdefault(corruption, {})[row.title] = np.array(values)
    return series


def transfer(rows: Sequence[Row]) -> dict[tuple[str, str], dict[str, dict[str, list[float]]]]:
    """Accuracy by (target, labels a class), title and tap: a number a seed, the mean over draws.

    Taps are in the order of depth.
    """
    series: dict[tuple[str, str], dict[str, dict[str, list[float]]]] = {}
    for row in rows:
        for targets in found(row, "examine", "targets").values():
            for target, content in targets.items():
                for tap, budgets in content["taps"].items():
                    for budget, draws in budgets.items():
                        titles = series.setdefault((target, budget), {})
                        taps = titles.setdefault(row.title, {})
                        taps.setdefault(tap, []).append(float(np.mean(draws)))
    return series


def retrained(rows: Sequence[Row]) -> dict[str, dict[str, dict[str, list[float]]]]:
    """Accuracy by target, title and the tap after which all was trained again: one a seed."""
    series: dict[str, dict[str, dict[str, list[float]]]] = {}
    for row in rows:
        for targets in found(row, "examine", "targets").values():
            for target, content in targets.items():
                for tap, accuracy in content.get("retrained", {}).items():
                    taps = series.setdefault(target, {}).setdefault(row.title, {})
                    taps.setdefault(tap, []).append(accuracy)
    return series


def corrupted_images(rows: Sequence[Row]) -> list[int]:
    """How many images were corrupted: several numbers where networks were shown other many."""
    parts = (found(row, "examine", "corruptions").values() for row in rows)
    return sorted({seed["images"] for seeds in parts for seed in seeds})


def likeness(rows: Sequence[Row]) -> dict[str, tuple[list[str], list[str], np.ndarray]]:
    """CKA by title: the teacher's and the student's taps that all seeds have, and means over them.

    They may have others where the network, or the teacher's taps, changed between two trainings.
    """
    series = {}
    for row in rows:
        seeds = list(found(row, "evaluate", "cka").values())
        if not seeds:
            continue
        taught = [tap for tap in seeds[0] if all(tap in seed for seed in seeds)]
        lines = [seed[tap] for seed in seeds for tap in taught]
        own = [name for name in lines[0] if all(name in line for line in lines)] if lines else []
        if own:
            values = [[[seed[tap][name] for name in own] for tap in taught] for seed in seeds]
            series[row.title] = (taught, own, np.mean(values, axis=0))
    return series


def norms(rows: Sequence[Row], what: str) -> dict[str, list[list[tuple[int, float]]]]:
    """Step and norm of `gradient` or `weights` over training, by title a curve a seed."""
    path = CURVES / "norm" / f"{what}.tsv"
    by_title = {row.title: [read_logged(name, path) for name in row.names] for row in rows}
    return {title: kept for title, curves in by_title.items() if (kept := [c for c in curves if c])}


def efficiency(params: Params, rows: Sequence[Row]) -> dict[str, dict[int, list[float]]]:
    """Test accuracy by title and labels a class: a number a seed, those with all labels last.

    A network for which nothing but all labels was tried is left out, and so is one without a row.
    """
    series: dict[str, dict[int, list[float]]] = {}
    titles = {row.title for row in rows}
    for budget in params.budgets():
        if budget.variant.title not in titles:
            continue
        if scores := read_evidence("efficiency", budget.name):
            by_labels = series.setdefault(budget.variant.title, {})
            by_labels.setdefault(budget.labels, []).append(scores["test"]["accuracy"])
    for row in rows:
        if row.title in series:
            series[row.title][params.data.labelled_per_class] = row.values("test", "accuracy")
    return {title: dict(sorted(by_labels.items())) for title, by_labels in series.items()}


def shares_that_train(
    attempts: Sequence[dict[str, Any]], trains_at: float
) -> dict[tuple[str, int], dict[float, tuple[int, int]]]:
    """How many of how many seeds train, by (mode, depth) and learning rate.

    A run has trained that ends `trains_at` of the way from chance to the best accuracy of all
    these runs; one that diverged has not.
    """
    if not attempts:
        return {}
    chance = attempts[0]["chance"]
    best = max(attempt["accuracy"] for attempt in attempts)
    needed = chance + trains_at * (best - chance)
    shares: dict[tuple[str, int], dict[float, tuple[int, int]]] = {}
    for attempt in attempts:
        trained = attempt["diverged"] is None and attempt["accuracy"] >= needed and best > chance
        rates = shares.setdefault((attempt["mode"], attempt["depth"]), {})
        many, of = rates.get(attempt["learning_rate"], (0, 0))
        rates[attempt["learning_rate"]] = (many + trained, of + 1)
    return shares
