"""What the gallery shows: pictures of the test split, what networks say of them and see in them."""

import base64
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from PIL import Image

from pipeline.prepared import PREPARED_FILE, read_split
from pipeline.reporting.evidence import read_evidence
from pipeline.reporting.headline import EXTENDED, LONE, MENTORED, SEVERAL, STUDENTS
from pipeline.results import Row, best

LARGEST = 96  # pixels of a picture's side in the page: larger ones would make it heavy
COLOURS = "cividis"  # as readable to the colour-blind
COLUMNS = 8  # filters beside each other


@dataclass(frozen=True)
class Disagreement:
    picture: str
    label: str
    student: tuple[str, str]  # the answer, and how sure
    teacher: tuple[str, str]


@dataclass(frozen=True)
class Sight:
    """What one network sees: a line a test image, its picture and then a map a tap."""

    name: str
    taps: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Gallery:
    """All pictures are data URIs. Empty parts are those that this folder has nothing for."""

    student: str
    disagreements: tuple[Disagreement, ...]
    sights: tuple[Sight, ...]
    filters: dict[str, str]


def make_gallery(rows: list[Row]) -> Gallery | None:
    """Of the student that validation likes best, and of a lone one beside it."""
    favourite = _favourite(best(rows, STUDENTS))
    if favourite is None:
        return None
    lone = _favourite(best(rows, LONE))
    mentored = _favourite(best(rows, (*MENTORED, *EXTENDED, *SEVERAL)))
    names = dict.fromkeys(name for name in (lone, mentored) if name)
    found = {name: read_evidence("evaluate", name) for name in {favourite: None, **names}}
    gallery = Gallery(
        student=favourite,
        disagreements=_disagreements(found[favourite].get("disagreements", [])),
        sights=tuple(
            sight for name in names if (sight := _sight(name, found[name].get("attention")))
        ),
        filters={
            name: mosaic(kernels) for name in names if (kernels := found[name].get("filters"))
        },
    )
    return gallery if gallery.disagreements or gallery.sights or gallery.filters else None


def _favourite(row: Row | None) -> str | None:
    """The seed of a row that validation likes best, by its name."""
    if row is None:
        return None
    accuracies = row.values("validation", "accuracy")
    return row.names[int(np.argmax(accuracies))]


def _disagreements(entries: list[dict[str, Any]]) -> tuple[Disagreement, ...]:
    pictures = _test_pictures([entry["row"] for entry in entries])
    return tuple(
        Disagreement(
            pictures[entry["row"]],
            entry["label"],
            *((entry[who][0], f"{100 * entry[who][1]:.0f} %") for who in ("student", "teacher")),
        )
        for entry in entries
        if entry["row"] in pictures
    )


def _sight(name: str, attention: dict[str, Any] | None) -> Sight | None:
    if not attention or not attention["taps"]:
        return None
    pictures = _test_pictures(attention["rows"])
    lines = tuple(
        (pictures[row], *(heat(np.array(maps[number])) for maps in attention["taps"].values()))
        for number, row in enumerate(attention["rows"])
        if row in pictures
    )
    return Sight(name, tuple(attention["taps"]), lines) if lines else None


def _test_pictures(rows: list[int], path: Path = PREPARED_FILE) -> dict[int, str]:
    """These rows of the test split as data URIs; none where the prepared file is not here."""
    if not path.exists():
        return {}
    images = read_split(path, "test").images
    return {row: png(images[row]) for row in rows if row < len(images)}


def heat(look: np.ndarray) -> str:
    """A map of 0 .. 1 `(h, w)` in colours."""
    return png(matplotlib.colormaps[COLOURS](look, bytes=True)[..., :3])


def mosaic(filters: list[list[list[list[int]]]]) -> str:
    """Small RGB pictures, 0 .. 255, in rows of eight with a white line between."""
    pictures = np.array(filters, np.uint8)
    count, height, width, _ = pictures.shape
    lines = -(-count // COLUMNS)
    sheet = np.full((lines * (height + 1) - 1, COLUMNS * (width + 1) - 1, 3), 255, np.uint8)
    for number, picture in enumerate(pictures):
        top, left = number // COLUMNS * (height + 1), number % COLUMNS * (width + 1)
        sheet[top : top + height, left : left + width] = picture
    return png(sheet)


def png(pixels: np.ndarray) -> str:
    """uint8 `(h, w, 3)` as the data URI of a PNG, scaled down where it is large."""
    picture = Image.fromarray(pixels)
    picture.thumbnail((LARGEST, LARGEST))
    buffer = io.BytesIO()
    picture.save(buffer, "png", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
