"""Answers as NumPy or torch files, for those who do not use this project."""

from pathlib import Path

import numpy as np

from pipeline.cache.kinds import find_kinds
from pipeline.cache.reader import VIEWS_LAYOUT, Kind
from pipeline.cache.schema import VALUES, VIEWS
from pipeline.errors import MenteeError


def export(source: Path, target: Path, form: str) -> None:
    """Every kind of `source`, decoded, as `<kind>.npy` or `.pt` of `(views, rows, ...)`.

    The views' kind becomes two files, regions and pixels. Files are written piece by piece, so
    that memory stays bounded.
    """
    for path, (folder, manifest) in find_kinds(source).items():
        if not manifest.entries:
            continue
        kind = Kind(folder)
        if manifest.kind == VIEWS:
            for name in VIEWS_LAYOUT:
                _write(kind, name, target / path / f"{name}.npy", form)
        else:
            name = f"{folder.name if path == '.' else Path(path).name}.npy"
            _write(kind, VALUES, target / Path(path).parent / name, form)
    if not target.exists():
        raise MenteeError(f"{source} holds no answers: its splits are empty")


def _write(kind: Kind, array: str, path: Path, form: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    first = kind.part(kind.places[0], array)
    shape = (kind.views, kind.rows, *first.shape[1:])
    out = np.lib.format.open_memmap(path, "w+", first.dtype, shape)
    for place, rows in kind.parts(array):
        out[place.view, place.start : place.stop] = rows
    out.flush()
    if form == "torch":
        import torch

        torch.save(torch.from_numpy(out), path.with_suffix(".pt"))
        path.unlink()
