"""What the scratch folder keeps and nobody asks for any more."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pipeline.cache.kinds import find_kinds
from pipeline.cache.schema import Manifest
from pipeline.cache.writer import Scratch


@dataclass(frozen=True)
class Garbage:
    """A folder or a file of the scratch folder, and its bytes on disk that nothing else holds."""

    path: Path
    bytes: int


def find_garbage(
    scratch: Scratch, caches: Path, views_of: Callable[[Manifest], int]
) -> list[Garbage]:
    """What neither a published kind under `caches` needs, nor a dump that was killed.

    views_of: how many views of a kind are still asked for; 0 if none of it is.
    """
    wanted = {}
    for _, manifest in find_kinds(caches).values():
        wanted[scratch.folder_of(manifest.fingerprint).name] = views_of(manifest)
    garbage = []
    begun = scratch.begun()
    for folder in sorted(path for path in scratch.root.glob("*") if path.is_dir()):
        if folder.name in begun:
            continue
        count = wanted.get(folder.name, 0)
        surplus = sorted(folder.glob("v*"))[count:] if count else [folder]
        garbage += [Garbage(path, _bytes(path)) for path in surplus]
    return garbage


def remove(garbage: list[Garbage]) -> None:
    for item in garbage:
        shutil.rmtree(item.path)


def _bytes(folder: Path) -> int:
    """What removing frees: a file with a second name elsewhere frees nothing."""
    files = (path.stat() for path in folder.rglob("*") if path.is_file())
    return sum(about.st_size for about in files if about.st_nlink == 1)
