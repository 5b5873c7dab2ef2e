"""The images of one's own: a folder for each class, or a CSV file of paths and labels."""

import csv
import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from PIL import Image

from pipeline.errors import MenteeError, reason
from pipeline.images import files_below, is_picture, of_each, open_picture
from pipeline.prepared import NO_LABEL
from pipeline.progress import track, warn

Look = TypeVar("Look")

UNLABELLED = ("unlabelled", "unlabeled")  # folders that are no class
SPLITS = {"train", "training", "test", "testing", "val", "valid", "validation"}  # nor are these
COLUMNS = ("path", "label")
HOW = {"folder": "one folder a class", "csv": "a path and its class a line"}


@dataclass(frozen=True)
class Sample:
    """An image file; `name` identifies it wherever the folder lies; the label may be NO_LABEL."""

    path: Path
    name: str
    label: int


@dataclass(frozen=True)
class Listing:
    """All image files that there should be, those with labels first.

    ignored: files that are no images by their names.
    """

    samples: tuple[Sample, ...]
    class_names: tuple[str, ...]
    ignored: tuple[Path, ...] = ()


@dataclass
class Problems:
    """What was wrong with image files: lines for the user."""

    broken: list[str] = field(default_factory=list)
    copies: list[str] = field(default_factory=list)  # of an image that is there already
    conflicts: list[str] = field(default_factory=list)  # copies that carry another label

    def settle(self, skip_broken: bool) -> None:
        """Name what is left out; a MenteeError where that is not for us to decide."""
        kinds = {"broken": self.broken, "conflict": self.conflicts, "copy": self.copies}
        for kind, lines in kinds.items():
            for line in lines:
                warn(f"{kind}: {line}")
        if self.conflicts:
            raise MenteeError(f"{_first(self.conflicts)}: keep the one that is right")
        if self.broken and not skip_broken:
            raise MenteeError(
                f"{_first(self.broken)}, or leave such files out: data.skip_broken: true, which "
                f"`mentee init --skip-broken` writes"
            )
        if self.broken or self.copies:
            warn(f"left out: {len(self.broken)} broken image files, {len(self.copies)} copies")


def _first(lines: list[str]) -> str:
    return lines[0] + (f" (and {len(lines) - 1} more, listed above)" if len(lines) > 1 else "")


def list_images(source: str) -> Listing:
    """The images of `folder:PATH` or `csv:PATH`, in an order that the names alone decide."""
    kind, _, path = source.partition(":")
    _check_name(Path(path))
    listing = {"folder": _list_folder, "csv": _list_table}[kind](Path(path))
    if ignored := listing.ignored:
        names = ", ".join(str(file) for file in ignored[:5]) + ", ..." * (len(ignored) > 5)
        warn(f"not used: {len(ignored)} files in {path} that are no images of a class: {names}")
    _check_classes(Path(path), listing, HOW[kind])
    return listing


def look_at_all(
    listing: Listing, problems: Problems, look: Callable[[Image.Image], Look]
) -> Iterator[tuple[Sample, Look]]:
    """What `look` says of every image that can be read, in RGB, once for those of the same pixels.

    What cannot be read and what is there twice goes to `problems`. Several images are read at a
    time; `look` is called in threads.
    """

    def read(path: Path) -> tuple[bytes, Look] | MenteeError:
        try:
            picture = open_picture(path)
        except MenteeError as error:
            return error
        digest = hashlib.blake2b(picture.tobytes(), digest_size=16)
        digest.update(repr(picture.size).encode())
        return digest.digest(), look(picture)

    samples = listing.samples
    read_all = of_each(read, [sample.path for sample in samples])
    all_found = track(read_all, "reading images", len(samples))
    seen: dict[bytes, Sample] = {}
    for sample, found in zip(samples, all_found, strict=True):
        if isinstance(found, MenteeError):
            problems.broken.append(str(found))
            continue
        digest, looked = found
        first = seen.setdefault(digest, sample)
        if first is sample:
            yield sample, looked
        elif sample.label in (first.label, NO_LABEL):
            problems.copies.append(f"{sample.path} is the same image as {first.path}")
        else:
            names = [listing.class_names[each.label] for each in (first, sample)]
            problems.conflicts.append(
                f"{sample.path} of class {names[1]!r} is the same image as {first.path} of class "
                f"{names[0]!r}"
            )


def _list_folder(folder: Path) -> Listing:
    if not folder.is_dir():
        raise MenteeError(f"{folder} is not a folder")
    shown = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    folders = {entry.name: files_below(entry) for entry in shown if entry.is_dir()}
    files = [entry for entry in shown if not entry.is_dir()]
    for name in folders:
        _check_name(folder / name)
    class_names = tuple(name for name in folders if name.lower() not in UNLABELLED)
    labels = {name: label for label, name in enumerate(class_names)}
    ordered = [*class_names, *(name for name in folders if name not in labels)]
    samples = tuple(
        Sample(path, path.relative_to(folder).as_posix(), labels.get(name, NO_LABEL))
        for name in ordered
        for path in folders[name]
        if is_picture(path)
    )
    for sample in samples:
        _check_name(sample.path)
    is_deep = any(sample.label != NO_LABEL and sample.name.count("/") > 1 for sample in samples)
    if is_deep and SPLITS.issuperset(map(str.lower, labels)):
        raise MenteeError(
            f"{folder} must hold one folder a class; these are splits, not classes: "
            f"{', '.join(labels)}: name one of them"
        )
    others = [path for found in (files, *folders.values()) for path in found]
    used = {sample.path for sample in samples}
    ignored = tuple(path.relative_to(folder) for path in others if path not in used)
    return Listing(samples, class_names, ignored)


def _check_name(path: Path) -> None:
    """Names are kept as UTF-8; disks of older systems have others."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        shown = os.fsencode(path).decode(errors="backslashreplace")
        raise MenteeError(f"{shown}: this name is not in UTF-8: rename it") from None


def _list_table(table: Path) -> Listing:
    """Paths are relative to the table; a row without a label is an unlabelled image."""
    read = 0  # lines
    try:
        with open(table, encoding="utf-8-sig", newline="") as file:
            # Strict: a quote that is never closed would make one label of all lines after it.
            reader = csv.DictReader(file, strict=True)
            named = list(reader.fieldnames or ())
            if not set(COLUMNS) <= set(named):
                raise MenteeError(
                    f"{table}: its first line must name the columns path and label, with a comma "
                    f"between them"
                )
            if twice := [name for name in COLUMNS if named.count(name) > 1]:
                raise MenteeError(f"{table}: its first line names the column {twice[0]} twice")
            rows = []
            for row in reader:
                path, label = row["path"] or "", (row["label"] or "").strip()
                if "\0" in path + label:
                    raise csv.Error("line contains NUL")  # as Python 3.10 does by itself
                if any(map(str.strip, row.get(reader.restkey) or ())):
                    raise MenteeError(
                        f"{table}: line {reader.line_num} has more columns than the first line "
                        f"names: put quotes around a path or label with a comma in it"
                    )
                if path.strip():
                    rows.append((path, label))
                elif label:  # without one it is a blank line of a spreadsheet
                    raise MenteeError(f"{table}: line {reader.line_num} has a label but no path")
                read = reader.line_num
    except FileNotFoundError:
        raise MenteeError(f"{table}: there is no such file") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise MenteeError(
            f"{table} is no CSV file in UTF-8 ({reason(error)}): look from line {read + 1} on"
        ) from None
    class_names = tuple(sorted({label for _, label in rows if label}))
    labels = {name: label for label, name in enumerate(class_names)} | {"": NO_LABEL}
    samples = [Sample(table.parent / path, path, labels[label]) for path, label in rows]
    samples.sort(key=lambda sample: (sample.label == NO_LABEL, sample.name))
    return Listing(tuple(samples), class_names)


def _check_classes(source: Path, listing: Listing, how: str) -> None:
    labelled = sum(sample.label != NO_LABEL for sample in listing.samples)
    if len(listing.class_names) < 2 or not labelled:
        names = f" ({', '.join(listing.class_names)})" if listing.class_names else ""
        raise MenteeError(
            f"{source} must hold images of at least two classes, {how}; found {labelled} images "
            f"of {len(listing.class_names)} classes{names}"
        )
