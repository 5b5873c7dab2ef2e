"""The numbers of the pictures as CSV for `dvc plots show`: a file a picture, a line a point."""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.files import replaced_whole, write_text
from pipeline.params import Params
from pipeline.reporting.series import (
    corruptions,
    efficiency,
    reliability,
    shares_that_train,
    transfer,
)
from pipeline.results import Row
from pipeline.variants import TEACHER

WHERE = ("network", "part")  # `part`: the axes that a point belongs to


def write_plots(
    folder: Path, params: Params, rows: Sequence[Row], attempts: Sequence[dict[str, Any]]
) -> None:
    """Every file is there, with its head alone where there is nothing to show."""
    files = {
        "reliability": (("confidence", "mean_confidence", "accuracy"), _reliable(rows)),
        "corruptions": (("strength", "accuracy"), _corrupted(rows)),
        "transfer": (("tap", "accuracy"), _transferred(rows)),
        "efficiency": (("labels", "accuracy"), _with_labels(params, rows)),
        "stability": (("learning_rate", "share"), _trained(attempts, params.stability.trains_at)),
    }
    with replaced_whole(folder) as fresh:
        for name, (columns, points) in files.items():
            buffer = io.StringIO()
            writer = csv.writer(buffer, lineterminator="\n")
            writer.writerow((*WHERE, *columns))
            writer.writerows((*where, round(float(value), 4)) for *where, value in points)
            write_text(fresh / f"{name}.csv", buffer.getvalue())


def _reliable(rows: Sequence[Row]) -> Iterable[tuple[Any, ...]]:
    """The middle of each bin, which all networks share, beside the mean confidence in it."""
    for title, bins in reliability(rows).items():
        for number in np.flatnonzero(bins["count"]):
            middle = (number + 0.5) / len(bins["count"])
            mean = round(bins["confidence"][number], 4)
            yield title, title, round(middle, 3), mean, bins["accuracy"][number]


def _corrupted(rows: Sequence[Row]) -> Iterable[tuple[Any, ...]]:
    for corruption, titles in corruptions(rows).items():
        for title, seeds in titles.items():
            for strength, accuracy in enumerate(seeds.mean(0)):
                yield title, corruption, strength, accuracy


def _transferred(rows: Sequence[Row]) -> Iterable[tuple[Any, ...]]:
    """Students first: the order of taps is that in which they come."""
    ordered = sorted(rows, key=lambda row: row.title == TEACHER)
    for (target, budget), titles in transfer(ordered).items():
        for title, taps in titles.items():
            for tap, accuracies in taps.items():
                yield title, f"{target}, {budget} labels a class", tap, np.mean(accuracies)


def _with_labels(params: Params, rows: Sequence[Row]) -> Iterable[tuple[Any, ...]]:
    for title, by_labels in efficiency(params, rows).items():
        for labels, accuracies in by_labels.items():
            yield title, "test", labels, np.mean(accuracies)


def _trained(attempts: Sequence[dict[str, Any]], trains_at: float) -> Iterable[tuple[Any, ...]]:
    for (mode, depth), rates in shares_that_train(attempts, trains_at).items():
        for rate, (trained, of) in rates.items():
            yield mode, f"depth {depth}", rate, trained / of
