"""Image files of whatever format as pixels, alike for the prepared images and for predictions."""

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image, ImageOps

from pipeline.errors import MenteeError, reason
from pipeline.threads import in_order, own_cores

Result = TypeVar("Result")

MOST_READERS = 16  # threads that read images: a large photograph takes 100 MB
SMALL_FILE = 4000  # bytes: a JPEG of 100 x 100 pixels, a PNG of 40 x 40
SUFFIXES = {
    ".avif", ".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm",
    ".tif", ".tiff", ".webp",
}  # fmt: skip

# A large picture is no attack. For good, as threads that read share what is ignored.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def is_picture(path: Path) -> bool:
    """Whether a file is one by its name."""
    return path.suffix.lower() in SUFFIXES


def files_below(folder: Path) -> list[Path]:
    """All files below `folder` in order, and the links to folders, which are not followed.

    What is hidden is left out: `._a.jpg` holds a Mac's notes, `.thumbnails` copies of pictures. An
    OSError where a folder may not be read.
    """
    found = []
    for place, folders, files in os.walk(folder, onerror=_raise):  # rglob takes those for empty
        folders[:] = [name for name in folders if not name.startswith(".")]
        links = [name for name in folders if os.path.islink(os.path.join(place, name))]
        found += [Path(place, name) for name in (*files, *links) if not name.startswith(".")]
    return sorted(found)


def _raise(error: OSError) -> None:
    raise error


def of_each(function: Callable[[Path], Result], paths: Sequence[Path]) -> Iterator[Result]:
    """`function`, which reads an image file, of every path in order, by as many threads as cores.

    By one where files are small on average: several would wait for each other's Python.
    """
    sizes = [os.path.getsize(path) for path in paths if os.path.isfile(path)]  # of any path
    if sum(sizes) <= SMALL_FILE * len(sizes):
        return map(function, paths)
    return in_order(function, paths, min(own_cores(), MOST_READERS))


def open_picture(path: Path) -> Image.Image:
    """One image file as it is meant to be seen, in RGB; a MenteeError names one that is broken."""
    try:
        with Image.open(path) as picture:
            return upright(picture)
    except FileNotFoundError:
        raise MenteeError(f"{path}: there is no such file") from None
    except Image.DecompressionBombError:
        raise MenteeError(
            f"{path}: too large, about 13,000 x 13,000 pixels are the most: scale it down"
        ) from None
    except Exception as error:  # Pillow's many readers raise whatever damage leads them to
        raise MenteeError(
            f"{path}: not a readable image ({reason(error) or type(error).__name__}); repair or "
            f"remove this file"
        ) from None


def read_picture(path: Path, size: int) -> np.ndarray:
    """One image file as uint8 `(size, size, 3)`; a MenteeError names a file that is broken."""
    return to_square(open_picture(path), size)


def upright(picture: Image.Image) -> Image.Image:
    """Any picture in RGB, turned as EXIF says, transparent pixels white.

    Of 16-bit grey the upper 8 bits are kept. A ValueError says that floating-point pixels have no
    known range.
    """
    picture = ImageOps.exif_transpose(picture)
    if picture.mode == "F":
        raise ValueError("its pixels are floating-point numbers: save it with 8 or 16 bits each")
    if picture.mode.startswith("I"):  # I;16 and its kin; I holds 16 bits in files of PGM
        grey = np.asarray(picture).clip(0, 2**16 - 1) >> 8
        picture = Image.fromarray(grey.astype(np.uint8))
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        paper = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(paper, picture)
    return picture.convert("RGB")


def to_square(picture: Image.Image, size: int) -> np.ndarray:
    """An RGB picture as uint8 `(size, size, 3)`: cropped to its centre and resampled."""
    if picture.size != (size, size):
        picture = ImageOps.fit(picture, (size, size), Image.Resampling.BICUBIC)
    return np.asarray(picture)
