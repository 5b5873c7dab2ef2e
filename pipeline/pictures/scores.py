"""What networks reach on the task, and at what cost."""

from collections.abc import Sequence
from statistics import fmean

import numpy as np

from pipeline.pictures.style import SMALL, WIDTH, Look, drawn, plain_log, svg
from pipeline.results import Row
from pipeline.variants import TEACHER

LABEL = 0.046  # of the height: a line of text in the picture of the cost


def accuracy_bars(rows: Sequence[Row], look: dict[str, Look]) -> str:
    """Test accuracy of every row, with the single seeds as dots."""
    with drawn(WIDTH, 0.8 + 0.42 * len(rows)) as figure:
        axes = figure.subplots()
        places = range(len(rows))
        means = [100 * fmean(row.values("test", "accuracy")) for row in rows]
        axes.barh(places, means, color=[look[row.title].colour for row in rows], height=0.65)
        for place, row, mean in zip(places, rows, means, strict=True):
            values = [100 * value for value in row.values("test", "accuracy")]
            if len(values) > 1:
                axes.plot(
                    values, [place] * len(values), "o", color="black", markersize=3.5,
                    markeredgecolor="white", markeredgewidth=0.7,
                )  # fmt: skip
            axes.text(max(values) + 1.5, place, f"{mean:.1f}", va="center")
        axes.set_yticks(places, [broken(row.title) for row in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlim(0, 100)
        axes.set_xticks(range(0, 101, 25))
        axes.set_xlabel("test accuracy (%)")
        return svg(figure)


def cost(rows: Sequence[Row], look: dict[str, Look]) -> str:
    """Test accuracy over the time that one image takes, labels apart from each other."""
    times = [row.latency(1) for row in rows]
    accuracies = [100 * fmean(row.values("test", "accuracy")) for row in rows]
    low, high = min(accuracies), max(accuracies)
    span = max(high - low, 1.0)
    height = max(3.0, 0.3 * len(rows) + 0.8)
    with drawn(WIDTH, height) as figure:
        axes = figure.subplots()
        room = span / (1 - 2 * LABEL) * 0.2 / height * 4.5
        # Between 0 and 100 % there is room for all: the height grows with them.
        gap = min(max(span / 14, room / 2), 100 / len(rows))
        places = spread_out(accuracies, gap, gap / 2, 100 - gap / 2)
        axes.set_xscale("log")
        students = [time for time, row in zip(times, rows, strict=True) if row.group != TEACHER]
        column = 1.6 * max(students, default=times[0])
        for row, time, accuracy, place in zip(rows, times, accuracies, places, strict=True):
            colour = look[row.title].colour
            axes.plot([time], [accuracy], "o", color=colour, markersize=7, clip_on=False)
            on_the_left = row.group == TEACHER and time > column
            axes.annotate(
                row.title, (time, accuracy),
                (time / 1.25 if on_the_left else column, place),
                va="center", ha="right" if on_the_left else "left",
                arrowprops={
                    "arrowstyle": "-", "color": colour, "linewidth": 0.7,
                    "relpos": (1 if on_the_left else 0, 0.5),
                },
            )  # fmt: skip
        axes.set_xlim(min(times) / 1.6, max(max(times) * 1.6, column * 40))
        margin = span / 12
        axes.set_ylim(max(min(*places, low) - margin, 0), min(max(*places, high) + margin, 100))
        axes.set_xlabel("time to answer one image (ms)")
        axes.set_ylabel("test accuracy (%)")
        plain_log(axes.xaxis)
        return svg(figure)


def spread_out(
    values: Sequence[float], gap: float, low: float = -np.inf, high: float = np.inf
) -> list[float]:
    """Places near these values, in their order, at least `gap` apart and from low to high.

    Neighbours that are too near form a block around their mean, as in isotonic regression (pool
    adjacent violators).
    """
    order = np.argsort(values, kind="stable")
    blocks: list[list[float]] = []  # of values less the gaps below them: equal where they touch
    for rank, index in enumerate(order):
        blocks.append([values[index] - rank * gap])
        while len(blocks) > 1 and np.mean(blocks[-2]) >= np.mean(blocks[-1]):
            last = blocks.pop()
            blocks[-1] += last
    means = [float(np.mean(block)) for block in blocks for _ in block]
    level = np.clip(means, low, high - (len(values) - 1) * gap).tolist()
    places = [0.0] * len(values)
    for rank, index in enumerate(order):
        places[index] = level[rank] + rank * gap
    return places


def reliability_diagram(
    title: str, bins: dict[str, np.ndarray], ece: float | None, colour: str
) -> str:
    """Accuracy over confidence by bin, and how many answers are in each as the dots' size."""
    heading = broken(title)
    if ece is not None:
        heading += f"\nerror {100 * ece:.1f} %"  # not within: a line may be anywhere
    with drawn(SMALL, 2.2 + 0.17 * len(heading.splitlines())) as figure:
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color="#bbbbbb", linewidth=1, linestyle="--")
        filled = bins["count"] > 0
        confidence, accuracy = bins["confidence"][filled], bins["accuracy"][filled]
        share = bins["count"][filled] / bins["count"].sum()
        axes.plot(confidence, accuracy, color=colour, linewidth=1)
        axes.scatter(confidence, accuracy, s=6 + 120 * share, color=colour)
        axes.set_xlim(0, 1.04)
        axes.set_ylim(0, 1.04)
        axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
        axes.set_yticks([0, 0.5, 1], ["0", "0.5", "1"])
        axes.set_aspect("equal")
        axes.set_xlabel("confidence")
        axes.set_ylabel("accuracy")
        axes.set_title(heading)
        return svg(figure)


def broken(title: str) -> str:
    """A long title on two lines: obedient + / unlabelled."""
    return title.replace(" + ", " +\n", 1) if len(title) > 20 else title
