"""Answers as NumPy or torch files, for those who do not use this project."""

from pathlib import Path

import numpy as np

from pipeline.cache.kinds import Found
from pipeline.cache.reader import VIEWS_LAYOUT, Kind
from pipeline.cache.schema import VALUES, VIEWS
from pipeline.files import written_whole


def export(kinds: Found, target: Path, form: str) -> None:
    """Every kind, decoded, as `<kind>.npy` or `.pt` of `(views, rows, ...)`.

    The views' kind becomes two files, regions and pixels. Files are written piece by piece, so
    that memory stays bounded.
    """
    for path, (folder, manifest) in kinds.items():
        if not manifest.entries:
            continue
        kind = Kind(folder)
        if manifest.kind == VIEWS:
            for name in VIEWS_LAYOUT:
                _write(kind, name, target / path / f"{name}.npy", form)
        else:
            _write(kind, VALUES, target / Path(path).parent / f"{folder.name}.npy", form)


def _write(kind: Kind, array: str, path: Path, form: str) -> None:
    first = kind.part(kind.places[0], array)
    header = {
        "descr": np.lib.format.dtype_to_descr(first.dtype),
        "fortran_order": False,
        "shape": (kind.views, kind.rows, *first.shape[1:]),
    }
    # Not mapped: a disk that fills up under a map kills the process.
    with written_whole(path) as partial, open(partial, "wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for _, rows in kind.parts(array):
            file.write(np.ascontiguousarray(rows).data)
    if form == "torch":
        _write_torch(np.load(path, mmap_mode="c"), path.with_suffix(".pt"))
        path.unlink()


def _write_torch(values: np.ndarray, path: Path) -> None:
    import torch

    with written_whole(path) as partial, open(partial, "wb") as file:
        try:
            torch.save(torch.from_numpy(values), file)
        except RuntimeError as error:  # torch goes on after a write that failed, and trips later
            raise error.__context__ or error from None
