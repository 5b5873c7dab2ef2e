"""The report's gallery as sheets: what a page can show that holds no pictures of its own."""

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from PIL import Image

from pipeline.pictures.style import drawn, svg
from pipeline.reporting.showcase import Disagreement, Gallery, Sight

ACROSS, DOWN = 4, 2  # disagreements in a sheet
TALLEST = 4  # test images of which a sheet shows what the taps see


def sheets(gallery: Gallery) -> dict[str, str]:
    """SVG by name."""
    made = {"disagreements": disagreeing(gallery.disagreements[: ACROSS * DOWN])}
    made |= {f"sight-{sight.name}": seen(sight) for sight in gallery.sights}
    return made | {"filters": filters(gallery.filters)}


def disagreeing(found: Sequence[Disagreement]) -> str:
    with drawn(1.6 * ACROSS, 2.1 * DOWN) as figure:
        every = figure.subplots(DOWN, ACROSS, squeeze=False).flat
        for axes, one in zip(every, found, strict=False):
            show(axes, one.picture)
            (student, sure), (teacher, surely) = one.student, one.teacher
            axes.set_title(f"{one.label}\nstudent: {student} {sure}\nteacher: {teacher} {surely}",
                           fontsize=8.5)  # fmt: skip
        for axes in every:
            axes.set_axis_off()
        return svg(figure)


def seen(sight: Sight) -> str:
    lines = sight.lines[:TALLEST]
    with drawn(0.95 * len(lines[0]), 0.95 * len(lines) + 0.3) as figure:
        for line, row in zip(lines, figure.subplots(len(lines), len(lines[0]), squeeze=False),
                             strict=True):  # fmt: skip
            for axes, picture in zip(row, line, strict=True):
                show(axes, picture)
            if line is lines[0]:
                for axes, name in zip(row, ("image", *sight.taps), strict=True):
                    axes.set_title(name)
        return svg(figure)


def filters(found: dict[str, str]) -> str:
    with drawn(2.9 * len(found), 1.9) as figure:
        figure.get_layout_engine().set(wspace=0.2)
        for axes, (name, mosaic) in zip(
            figure.subplots(1, len(found), squeeze=False)[0], found.items(), strict=True
        ):
            show(axes, mosaic)
            axes.set_title(name)
        return svg(figure)


def show(axes: Axes, uri: str) -> None:
    """Draw the PNG of a data URI, its pixels as they are."""
    content = base64.b64decode(uri.partition(",")[2])
    picture: Any = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    axes.imshow(picture, interpolation="nearest")
    axes.set_axis_off()
