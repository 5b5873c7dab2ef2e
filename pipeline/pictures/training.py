"""How training went: accuracy and norms over steps, and what each mode listens to."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from pipeline.blocks import Mode
from pipeline.mentoring.schedules import value_at
from pipeline.pictures.style import LINES, WIDTH, Look, drawn, legend_below, plain_log, svg

Curve = list[tuple[int, float]]


def learning_curves(curves: dict[str, list[Curve]], look: dict[str, Look]) -> str:
    """Validation accuracy over steps: a line a title, the mean over its seeds."""
    in_percent = {
        title: [[(step, 100 * value) for step, value in curve] for curve in seeds]
        for title, seeds in curves.items()
    }
    return over_steps(in_percent, look, "validation accuracy (%)")


def over_steps(
    curves: dict[str, list[Curve]], look: dict[str, Look], label: str, log: bool = False
) -> str:
    """A line a title, the mean over its seeds, in a band that spans them."""
    with drawn(WIDTH, 2.9, curves) as figure:
        axes = figure.subplots()
        for title, seeds in curves.items():
            _band(axes, title, seeds, look[title])
        if log:
            axes.set_yscale("log")
            plain_log(axes.yaxis)
        axes.set_xlabel("step")
        axes.set_ylabel(label)
        axes.set_xlim(left=0)
        legend_below(figure, axes)
        return svg(figure)


def _band(axes: Axes, title: str, seeds: Sequence[Curve], look: Look) -> None:
    by_step = [dict(curve) for curve in seeds]
    # Some seeds may have stopped early, or been trained with other steps or validations.
    steps = [step for step in by_step[0] if all(step in curve for curve in by_step)]
    if not steps:
        by_step, steps = by_step[:1], list(by_step[0])
    values = np.array([[curve[step] for step in steps] for curve in by_step])
    axes.plot(steps, values.mean(0), label=title, **look.line)
    if len(by_step) > 1:
        axes.fill_between(
            steps, values.min(0), values.max(0), color=look.colour, alpha=0.15, linewidth=0
        )


def small_curve(seeds: Sequence[Curve], look: Look) -> str:
    """Validation accuracy over steps of one kind of student, each seed a line."""
    with drawn(WIDTH - 0.4, 1.9) as figure:  # it stands in a frame
        axes = figure.subplots()
        for curve in seeds:
            steps, values = zip(*curve, strict=True)
            axes.plot(steps, [100 * value for value in values], color=look.colour, linewidth=1.2)
        axes.set_xlim(left=0)
        axes.set_xlabel("step")
        axes.set_ylabel("validation\naccuracy (%)")
        return svg(figure)


def mode_weights(modes: dict[str, Mode]) -> str:
    """alpha, beta and gamma of every mode over training, on a logarithmic scale."""
    times = np.linspace(0, 1, 201)
    terms = {"alpha": "alpha (labels)", "beta": "beta (probes)", "gamma": "gamma (soft targets)"}
    columns = min(2, len(modes))
    lines = -(-len(modes) // columns)
    with drawn(WIDTH, 0.4 + 1.6 * lines, terms.values()) as figure:
        grid = list(figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).flat)
        for axes, (name, mode) in zip(grid, modes.items(), strict=False):
            for (term, label), colour in zip(terms.items(), LINES, strict=False):
                weights = np.array([value_at(getattr(mode, term), t) for t in times])
                weights[weights == 0] = np.nan  # a term that is off has no line
                axes.plot(times, weights, color=colour, label=label)
            axes.set_title(name)
            axes.set_yscale("log")
            plain_log(axes.yaxis)
        for number in range(len(modes), len(grid)):
            grid[number].set_visible(False)
            grid[number - columns].tick_params(labelbottom=True)  # those above end the column
        for axes in grid[max(0, len(modes) - columns) : len(modes)]:
            axes.set_xlabel("share of training")
        for axes in grid[: len(modes) : columns]:
            axes.set_ylabel("weight")
        legend_below(figure, figure.axes[0])
        return svg(figure)
