"""How all pictures look: their sizes, their colours, and SVG that is small and stands alone."""

import io
import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from pipeline.files import digest_text
from pipeline.results import Row
from pipeline.variants import TEACHER, UNTRAINED

# Inches. The page shows a picture as wide as a phone, 324 units on some 330 pixels, so that text
# keeps its size there; small ones stand two beside each other.
WIDTH = 4.5
SMALL = 2.2
LEGEND_LINE = 0.22
STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 10.5,
    "axes.titlesize": 10.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.linewidth": 1.8,
    "legend.frameon": False,
    "legend.handlelength": 1.5,
    "legend.columnspacing": 1.0,
    "legend.borderpad": 0.2,
    "svg.fonttype": "none",
    "svg.hashsalt": "mentee",  # the same picture is the same text
}
# Colour-blind safe (Okabe and Ito), but for their yellow, which is pale on white.
LINES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
GREYS = ("#777777", "#a6a6a6", "#4d4d4d")
DASHES = ("-", "--", ":", "-.")
SCALE = "cividis"  # of heat maps

Dashes = str | tuple[int, tuple[float, ...]]  # as matplotlib spells them


@dataclass(frozen=True)
class Look:
    """A network's colour and line, the same in every picture."""

    colour: str
    dashes: Dashes = "-"

    @property
    def line(self) -> dict[str, Any]:
        return {"color": self.colour, "linestyle": self.dashes}


def looks(rows: Sequence[Row]) -> dict[str, Look]:
    """By title: who learns from a teacher is in colour, who does not is grey, the teacher black."""
    chosen = {TEACHER: Look("#222222"), UNTRAINED: Look("#222222", ":")}
    lone = [row.title for row in rows if row.group == "labels"]
    mentored = [row.title for row in rows if row.group not in ("labels", TEACHER, UNTRAINED)]
    for titles, colours in ((lone, GREYS), (mentored, LINES)):
        for number, title in enumerate(titles):
            chosen[title] = Look(colours[number % len(colours)], dashes(number // len(colours)))
    return chosen


def dashes(number: int) -> Dashes:
    """The four that have a name, then a dash with ever more dots, short to fit into a legend."""
    if number < len(DASHES):
        return DASHES[number]
    return 0, (3, 0.8, *(1, 0.8) * (number - 2))


@contextmanager
def drawn(width: float, height: float, names: Collection[str] = ()) -> Iterator[Figure]:
    """A figure of so many inches to draw in, and of more below for a legend of these names."""
    height += LEGEND_LINE * -(-len(names) // legend_columns(names))
    with matplotlib.rc_context(STYLE):
        yield Figure(figsize=(width, height), layout="constrained")


def legend_columns(names: Collection[str]) -> int:
    """Two, or one where a name is too long for half of the width."""
    return 1 if any(len(name) > 22 for name in names) else 2


def legend_below(figure: Figure, axes: Axes) -> None:
    """Every line of these axes by its name."""
    handles, names = axes.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower left", ncols=legend_columns(names))


def plain_log(axis: Axis) -> None:
    """A logarithmic axis with numbers such as 0.1 and 100 instead of powers."""
    low, high = axis.get_view_interval()
    steps = (1, 2, 5) if high < 100 * low else (1,)
    axis.set_major_locator(LogLocator(subs=steps, numticks=6))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())


def svg(figure: Figure) -> str:
    """The figure's SVG without what a page need not have, its ids those of this picture alone."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"\s*<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->\s*", "", text)
    text = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font-size: \1", text)  # the page says which font
    used = set(re.findall(r"#([\w-]+)", text))
    prefix = digest_text(text)[:6]

    def rename(match: re.Match[str]) -> str:
        return f' id="{prefix}{match[1]}"' if match[1] in used else ""

    text = re.sub(r' id="([^"]+)"', rename, text)
    text = re.sub(r"(url\(|href=\")#", rf"\g<1>#{prefix}", text)
    return text.replace("<svg ", '<svg role="img" ', 1)
