"""The report's pictures, as SVG text that stands in the page."""

import io

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from pipeline.blocks import Mode
from pipeline.mentoring.schedules import value_at
from pipeline.results import Row

# A colour-blind-safe palette (Okabe and Ito), by what a student reads.
COLOURS = {
    "teacher": "#555555",
    "labels": "#999999",
    "logits": "#56b4e9",
    "features": "#0072b2",
    "unlabelled": "#d55e00",
    "teachers": "#009e73",
}
LINES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#555555", "#000000")
STYLE = {
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "mentee",  # the same picture is the same text
}


def accuracy_bars(rows: list[Row]) -> str:
    """Test accuracy of every row, with the single seeds as dots."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7, 0.9 + 0.42 * len(rows)), layout="constrained")
        axes = figure.subplots()
        places = np.arange(len(rows))
        means = [100 * row.mean("test", "accuracy") for row in rows]
        axes.barh(places, means, color=[COLOURS[row.group] for row in rows], height=0.65)
        for place, row, mean in zip(places, rows, means, strict=True):
            values = [100 * value for value in row.values("test", "accuracy")]
            if len(values) > 1:
                axes.plot(values, [place] * len(values), "o", color="black", markersize=3)
            edge = max(values)
            axes.text(edge + 1, place, f"{mean:.1f}", va="center")
        axes.set_yticks(places, [row.title for row in rows])
        axes.invert_yaxis()
        axes.set_xlim(0, 100)
        axes.set_xlabel("test accuracy (%)")
        return _svg(figure)


def learning_curves(curves: dict[str, list[list[tuple[int, float]]]]) -> str:
    """Validation accuracy over steps: a line a title, the mean over its seeds."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7, 3.8), layout="constrained")
        axes = figure.subplots()
        for number, (title, seeds) in enumerate(curves.items()):
            looks = min(map(len, seeds))  # some seeds may have stopped early
            steps = [step for step, _ in seeds[0][:looks]]
            values = 100 * np.array([[value for _, value in curve[:looks]] for curve in seeds])
            colour = LINES[number % len(LINES)]
            axes.plot(steps, values.mean(0), color=colour, label=title)
            if len(seeds) > 1:
                axes.fill_between(
                    steps, values.min(0), values.max(0), color=colour, alpha=0.15, linewidth=0
                )
        axes.set_xlabel("step")
        axes.set_ylabel("validation accuracy (%)")
        axes.set_xlim(left=0)
        figure.legend(loc="outside right center", frameon=False)
        return _svg(figure)


def mode_weights(modes: dict[str, Mode]) -> str:
    """alpha, beta and gamma of every mode over training, on a logarithmic scale."""
    times = np.linspace(0, 1, 201)
    terms = (("alpha", "labels"), ("beta", "probes"), ("gamma", "soft targets"))
    with matplotlib.rc_context(STYLE):
        columns = min(2, len(modes))
        lines = -(-len(modes) // columns)
        figure = Figure(figsize=(7, 0.7 + 1.8 * lines), layout="constrained")
        grid = list(figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).flat)
        for axes, (name, mode) in zip(grid, modes.items(), strict=False):
            for (term, meaning), colour in zip(terms, LINES, strict=False):
                weights = np.array([value_at(getattr(mode, term), t) for t in times])
                weights[weights == 0] = np.nan  # a term that is off has no line
                axes.plot(times, weights, color=colour, label=f"{term} ({meaning})")
            axes.set_title(name, fontsize=10)
            axes.set_yscale("log")
        for number in range(len(modes), len(grid)):
            grid[number].set_visible(False)
            grid[number - columns].tick_params(labelbottom=True)  # those above end the column
        figure.supxlabel("share of training", fontsize=10)
        figure.supylabel("weight", fontsize=10)
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False)
        return _svg(figure)


def _svg(figure: Figure) -> str:
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()[text.getvalue().index("<svg") :]
