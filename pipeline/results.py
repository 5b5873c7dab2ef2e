"""The results of a sweep as rows: one for the teacher, one for every kind of student."""

import csv
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import MenteeError
from pipeline.files import read_json
from pipeline.params import Params, group_of
from pipeline.variants import TEACHER, Variant

METRICS = Path("metrics")
STUDENTS = Path("students")
CURVE = Path("live/plots/metrics/validation/accuracy.tsv")


@dataclass(frozen=True)
class Row:
    """One line of the table: the scores of all seeds of a mode with its settings."""

    title: str
    group: str
    seeds: tuple[int, ...]
    scores: tuple[dict[str, Any], ...]

    def values(self, split: str, score: str) -> list[float]:
        return [scores[split][score] for scores in self.scores]

    def mean(self, split: str, score: str) -> float:
        return statistics.fmean(self.values(split, score))

    def spread(self, split: str, score: str) -> float | None:
        """Standard deviation over seeds; None for a single one."""
        values = self.values(split, score)
        return statistics.stdev(values) if len(values) > 1 else None

    @property
    def parameters(self) -> int:
        return self.scores[0]["parameters"]

    def latency(self, batch: int) -> float:
        """Milliseconds for a batch, the median over seeds."""
        return statistics.median(scores["latency_ms"][str(batch)] for scores in self.scores)


def here_and_absent(params: Params) -> tuple[list[Variant], list[Variant]]:
    """The students of the sweep whose results are in this folder, and the others.

    `dvc repro --pull --allow-missing` leaves in the remote what it does not train again.
    """
    here, absent = [], []
    for variant in params.variants():
        files = (_scores_file(variant.name), _curve_file(variant))
        (here if all(map(Path.exists, files)) else absent).append(variant)
    return here, absent


def gather_rows(params: Params, variants: list[Variant]) -> list[Row]:
    """The teacher and then these students, in their order."""
    rows = [Row(TEACHER, TEACHER, (), (_read_scores(TEACHER),))]
    by_title: dict[str, list[Variant]] = {}
    for variant in variants:
        by_title.setdefault(variant.title, []).append(variant)
    for title, seeds in by_title.items():
        first = seeds[0]
        group = group_of(params.modes[first.mode], params.settings[first.settings])
        scores = tuple(_read_scores(variant.name) for variant in seeds)
        rows.append(Row(title, group, tuple(variant.seed for variant in seeds), scores))
    return rows


def _scores_file(name: str) -> Path:
    return METRICS / f"{name}.json"


def _curve_file(variant: Variant) -> Path:
    return STUDENTS / variant.name / CURVE


def _read_scores(name: str) -> dict[str, Any]:
    path = _scores_file(name)
    try:
        return read_json(path)
    except FileNotFoundError:
        raise MenteeError(f"{path} is missing: run `dvc repro`, or `mentee evaluate`") from None


def read_curve(variant: Variant) -> list[tuple[int, float]]:
    """Step and validation accuracy, as training saw them."""
    path = _curve_file(variant)
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file, delimiter="\t"))
    except FileNotFoundError:
        raise MenteeError(f"{path} is missing: run `dvc repro`, or `mentee train`") from None
    return [(int(row["step"]), float(row["accuracy"])) for row in rows]


def best(rows: Iterable[Row], groups: set[str]) -> Row | None:
    """The row of these groups that validation likes best; the test split has no say."""
    chosen = [row for row in rows if row.group in groups]
    return max(chosen, key=lambda row: row.mean("validation", "accuracy"), default=None)


def headline(rows: list[Row], unlabelled_images: int, absent: list[Variant]) -> str:
    """What mentoring bought, in a sentence or two with numbers; and which students are missing."""
    lone = best(rows, {"labels"})
    mentored = best(rows, {"logits", "features"})
    extended = best(rows, {"unlabelled"})
    sentences = []
    if lone:
        sentences.append(
            f"Without a teacher the student reaches {_accuracy(lone)} on the test set."
        )
    if mentored:
        sentences.append(f"Taught on the same labelled images ({mentored.title}) it reaches "
                         f"{_accuracy(mentored)}{_gain(mentored, lone)}.")  # fmt: skip
    if extended:
        sentences.append(f"With {unlabelled_images:,} unlabelled images ({extended.title}) it "
                         f"reaches {_accuracy(extended)}{_gain(extended, lone)}.")  # fmt: skip
    teacher = next(row for row in rows if row.group == TEACHER)
    sentences.append(f"Its teacher reaches {_accuracy(teacher)}.")
    if absent:
        names = ", ".join(variant.name for variant in absent)
        sentences.append(f"Not in this folder, so left out: {names}.")
    return " ".join(sentences)


def _accuracy(row: Row) -> str:
    return percent(row.mean("test", "accuracy"), row.spread("test", "accuracy"))


def _gain(row: Row, lone: Row | None) -> str:
    if lone is None:
        return ""
    points = 100 * (row.mean("test", "accuracy") - lone.mean("test", "accuracy"))
    return f", {abs(points):.1f} points {'more' if points >= 0 else 'less'}"


def percent(mean: float, spread: float | None) -> str:
    """61.2 % or, over seeds, 61.2 ± 0.4 %."""
    return f"{100 * mean:.1f}" + (f" ± {100 * spread:.1f}" if spread is not None else "") + " %"
