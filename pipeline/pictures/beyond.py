"""What networks do beyond their task: corrupted images, other data sets, and likeness."""

import numpy as np
from matplotlib.ticker import MaxNLocator

from pipeline.pictures.style import SCALE, WIDTH, Look, drawn, legend_below, plain_log, svg
from pipeline.variants import TEACHER


def corrupted(series: dict[str, dict[str, np.ndarray]], look: dict[str, Look]) -> str:
    """Accuracy by strength, one axes a corruption: the mean of `(seeds, strengths)`."""
    titles = list(next(iter(series.values())))
    lines = -(-len(series) // 2)
    with drawn(WIDTH, 0.4 + 1.75 * lines, titles) as figure:
        grid = figure.subplots(lines, 2, sharex=True, sharey=True, squeeze=False)
        for axes, (corruption, networks) in zip(grid.flat, series.items(), strict=False):
            for title, seeds in networks.items():
                axes.plot(100 * seeds.mean(0), label=title, **look[title].line)
            axes.set_title(corruption.replace("_", " "))
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        grid.flat[0].set_ylim(bottom=0)  # of all axes, once their lines are drawn: it fixes the top
        for axes in grid[-1]:
            axes.set_xlabel("strength")
        for axes in grid[:, 0]:
            axes.set_ylabel("accuracy (%)")
        legend_below(figure, grid.flat[0])
        return svg(figure)


def transferred(
    heading: str, networks: dict[str, dict[str, list[float]]], look: dict[str, Look]
) -> str:
    """Accuracy on another data set by the depth at which features are read, of all networks."""
    students = [taps for title, taps in networks.items() if title != TEACHER]
    names = list(students[0] if students else networks[TEACHER])
    with drawn(WIDTH, 2.7, networks) as figure:
        axes = figure.subplots()
        for title, taps in networks.items():
            mean = [100 * np.mean(accuracies) for accuracies in taps.values()]
            # Networks of another depth are spread over the same width.
            places = (np.arange(len(taps)) + 1) * len(names) / len(taps) - 1
            marker = "o" if len(taps) < 3 else None
            axes.plot(places, mean, label=title, marker=marker, **look[title].line)
            if any(len(accuracies) > 1 for accuracies in taps.values()):
                low, high = (
                    [100 * end(accuracies) for accuracies in taps.values()] for end in (min, max)
                )
                axes.fill_between(
                    places, low, high, color=look[title].colour, alpha=0.12, linewidth=0
                )
        axes.set_xticks(range(len(names)), names)
        if len(names) > 6 or max(map(len, names)) > 7:
            axes.tick_params(axis="x", rotation=60)
        axes.set_title(heading)
        axes.set_ylabel("accuracy (%)")
        legend_below(figure, axes)
        return svg(figure)


def with_labels(networks: dict[str, dict[int, list[float]]], look: dict[str, Look]) -> str:
    """Test accuracy over labels a class, a line a network, in a band that spans its seeds."""
    with drawn(WIDTH, 3.2, networks) as figure:
        axes = figure.subplots()
        for title, by_labels in networks.items():
            percent = [100 * np.array(accuracies) for accuracies in by_labels.values()]
            labels = list(by_labels)
            axes.plot(
                labels, [values.mean() for values in percent], label=title, marker="o",
                markersize=3, **look[title].line,
            )  # fmt: skip
            axes.fill_between(
                labels, [values.min() for values in percent], [values.max() for values in percent],
                color=look[title].colour, alpha=0.15, linewidth=0,
            )  # fmt: skip
        axes.set_xscale("log")
        plain_log(axes.xaxis)
        ticks = sorted({labels for by_labels in networks.values() for labels in by_labels})
        axes.set_xticks(ticks, map(str, ticks))
        axes.set_xlabel("labels a class")
        axes.set_ylabel("test accuracy (%)")
        axes.set_ylim(0, 100)
        legend_below(figure, axes)
        return svg(figure)


def cka_map(title: str, taught: list[str], own: list[str], values: np.ndarray) -> str:
    """Likeness of every teacher tap (a line) with every student tap (a column), 0 .. 1."""
    with drawn(WIDTH, 1.1 + 0.36 * len(taught)) as figure:
        axes = figure.subplots()
        axes.imshow(values, vmin=0, vmax=1, cmap=SCALE, aspect="auto")
        for (line, column), value in np.ndenumerate(values):
            axes.text(
                column, line, f"{value:.2f}", ha="center", va="center",
                color="white" if value < 0.55 else "black",
            )  # fmt: skip
        axes.set_xticks(range(len(own)), own)
        if len(own) > 6 or max(map(len, own)) > 7:
            axes.tick_params(axis="x", rotation=60)
        axes.set_yticks(range(len(taught)), taught)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set_xlabel("student's tap")
        axes.set_ylabel("teacher's tap")
        axes.set_title(title)
        return svg(figure)
