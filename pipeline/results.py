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
EXAMINED = METRICS / "examine"
STUDENTS = Path("students")
CURVES = Path("live/plots/metrics")
CURVE = CURVES / "validation/accuracy.tsv"
# What the report cannot do without.
SIZES = (("parameters",), ("latency_ms", "1"), ("latency_ms", "64"))
NEEDED = (("test", "accuracy"), ("validation", "accuracy"), *SIZES)


@dataclass(frozen=True)
class Row:
    """One line of the table: the scores of all seeds of a mode with its settings."""

    title: str
    group: str
    names: tuple[str, ...]
    seeds: tuple[int, ...]
    scores: tuple[dict[str, Any], ...]

    def values(self, *keys: str) -> list[float]:
        """One number of each seed's scores, by the keys that lead to it; of those that have it."""
        found = (_reach(scores, keys) for scores in self.scores)
        return [value for value in found if value is not None]

    def by_seed(self, *keys: str) -> dict[int, float]:
        """The same by seed; the teacher has none."""
        pairs = zip(self.seeds, self.scores, strict=False)
        found = {seed: _reach(scores, keys) for seed, scores in pairs}
        return {seed: value for seed, value in found.items() if value is not None}

    def mean(self, *keys: str) -> float | None:
        """None if no seed has this number."""
        values = self.values(*keys)
        return statistics.fmean(values) if values else None

    def spread(self, *keys: str) -> float | None:
        """Standard deviation over seeds; None for a single one."""
        values = self.values(*keys)
        return statistics.stdev(values) if len(values) > 1 else None

    def latency(self, batch: int) -> float:
        """Milliseconds for a batch, the median over seeds."""
        return statistics.median(self.values("latency_ms", str(batch)))


def _reach(scores: dict[str, Any], keys: Iterable[str]) -> float | None:
    value: Any = scores
    for key in keys:
        value = value.get(key, {})
    return None if value == {} else value


def here_and_absent(params: Params) -> tuple[list[Variant], list[Variant]]:
    """The students of the sweep whose results are in this folder, and the others.

    `dvc repro --pull --allow-missing` leaves in the remote what it does not train again.
    """
    here: list[Variant] = []
    absent: list[Variant] = []
    for variant in params.variants():
        files = (_scores_file(variant.name), curve_file(variant.name, CURVE))
        (here if all(map(Path.exists, files)) else absent).append(variant)
    return here, absent


def gather_rows(params: Params, variants: list[Variant]) -> list[Row]:
    """The teacher and then these students, in their order."""
    rows = [Row(TEACHER, TEACHER, (TEACHER,), (), (_read_scores(TEACHER),))]
    by_title: dict[str, list[Variant]] = {}
    for variant in variants:
        by_title.setdefault(variant.title, []).append(variant)
    for title, variants in by_title.items():
        first = variants[0]
        group = group_of(params.modes[first.mode], params.settings[first.settings])
        names = tuple(variant.name for variant in variants)
        seeds = tuple(variant.seed for variant in variants)
        rows.append(Row(title, group, names, seeds, tuple(map(_read_scores, names))))
    return rows


def _scores_file(name: str) -> Path:
    return METRICS / f"{name}.json"


def curve_file(name: str, curve: Path) -> Path:
    return STUDENTS / name / curve


def _read_scores(name: str) -> dict[str, Any]:
    """What evaluate and, under `examine`, examine measured."""
    scores = read_numbers(_scores_file(name), "mentee evaluate", NEEDED)
    examined = EXAMINED / f"{name}.json"
    if examined.exists():
        scores["examine"] = read_numbers(examined, "mentee examine", ())
    return scores


def read_numbers(path: Path, command: str, needed: Iterable[tuple[str, ...]]) -> dict[str, Any]:
    """What `command` wrote; a MenteeError if it is not there, or not with the numbers needed."""
    try:
        content = read_json(path)
        is_whole = isinstance(content, dict) and all(
            isinstance(_reach(content, keys), int | float) for keys in needed
        )
    except FileNotFoundError:
        raise MenteeError(f"{path} is missing: run `dvc repro`, or `{command}`") from None
    except (ValueError, AttributeError):  # no JSON, or a number where others should be
        is_whole = False
    if not is_whole:
        raise MenteeError(f"{path} is damaged: run `dvc repro`, or `{command}`")
    return content


def read_curve(variant: Variant) -> list[tuple[int, float]]:
    """Step and validation accuracy, as training saw them."""
    curve = read_logged(variant.name, CURVE)
    if not curve:
        path = curve_file(variant.name, CURVE)
        raise MenteeError(f"{path} is missing: run `dvc repro`, or `mentee train`")
    return curve


def read_logged(name: str, curve: Path) -> list[tuple[int, float]]:
    """Step and value of what training logged; empty if this student has no such curve."""
    path = curve_file(name, curve)
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.reader(file, delimiter="\t"))[1:]
        return [(int(step), float(value)) for step, value in rows]
    except FileNotFoundError:
        return []
    except (ValueError, csv.Error):  # no text, or no two numbers in a line
        raise MenteeError(f"{path} is damaged: run `dvc repro`, or `mentee train`") from None


def best(rows: Iterable[Row], groups: Iterable[str]) -> Row | None:
    """The row of these groups that validation likes best; the test split has no say."""
    chosen = [row for row in rows if row.group in groups]
    return max(chosen, key=lambda row: row.mean("validation", "accuracy") or 0, default=None)
