"""Which learning rates a mode bears, and how its gradients go."""

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np

from pipeline.pictures.style import SCALE, WIDTH, drawn, plain_log, svg

Shares = dict[tuple[str, int], dict[float, tuple[int, int]]]


def shares_map(shares: Shares) -> str:
    """Seeds that train, by mode and depth (a line) and learning rate (a column)."""
    rates = sorted({rate for line in shares.values() for rate in line})
    with drawn(WIDTH, 1.0 + 0.36 * len(shares)) as figure:
        axes = figure.subplots()
        values = np.full((len(shares), len(rates)), np.nan)
        for line, by_rate in enumerate(shares.values()):
            for rate, (trained, of) in by_rate.items():
                column = rates.index(rate)
                values[line, column] = trained / of
                axes.text(
                    column, line, f"{trained}/{of}", ha="center", va="center",
                    color="white" if trained / of < 0.55 else "black",
                )  # fmt: skip
        axes.imshow(values, vmin=0, vmax=1, cmap=SCALE, aspect="auto")
        axes.set_xticks(range(len(rates)), [f"{rate:g}" for rate in rates])
        axes.set_yticks(range(len(shares)), names(shares))
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set_xlabel("learning rate")
        return svg(figure)


def names(shares: Shares) -> list[str]:
    """The mode, and its depth where there are several."""
    several = len({depth for _, depth in shares}) > 1
    return [f"{mode}, depth {depth}" if several else mode for mode, depth in shares]


def gradient_norms(attempts: Sequence[dict[str, Any]], shares: Shares) -> str:
    """The norm of the gradient over steps, an axes a mode and depth: a line a run, by its rate."""
    rates = sorted({attempt["learning_rate"] for attempt in attempts})
    colours = matplotlib.colormaps[SCALE](np.linspace(0, 0.9, len(rates)))
    columns = min(2, len(shares))
    lines = -(-len(shares) // columns)
    with drawn(WIDTH, 0.9 + 1.6 * lines) as figure:
        grid = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
        for axes, name, (mode, depth) in zip(grid.flat, names(shares), shares, strict=False):
            for attempt in attempts:
                if (attempt["mode"], attempt["depth"]) == (mode, depth) and attempt["curve"]:
                    steps = [look["step"] for look in attempt["curve"]]
                    values = [look["gradient_norm"] for look in attempt["curve"]]
                    colour = colours[rates.index(attempt["learning_rate"])]
                    axes.plot(steps, np.array(values, float), color=colour, linewidth=1)
            axes.set_yscale("log")
            plain_log(axes.yaxis)
            axes.set_title(name)
        for number in range(len(shares), grid.size):
            grid.flat[number].set_visible(False)
            grid.flat[number - columns].tick_params(labelbottom=True)
        for axes in grid.flat[max(0, len(shares) - columns) : len(shares)]:
            axes.set_xlabel("step")
        handles = [matplotlib.lines.Line2D([], [], color=colour) for colour in colours]
        figure.legend(
            handles, [f"{rate:g}" for rate in rates], loc="outside lower left", ncols=5,
            title="learning rate", alignment="left", handlelength=1,
        )  # fmt: skip
        for axes in grid[:, 0]:
            axes.set_ylabel("gradient's norm")
        return svg(figure)
