"""Which kinds lie under a folder: a whole cache, one split of it, or one kind alone."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.cache.schema import ARCHIVE, MANIFEST, Manifest, read_manifest
from pipeline.errors import MenteeError

Found = dict[str, tuple[Path, Manifest]]  # by the folder's path under the one that was asked for


def find_kinds(root: Path) -> Found:
    """Every kind at or under `root`, by its path there (`.` for `root` itself)."""
    if root.name in ("", ".."):  # `.` has neither a name nor a parent, and both are asked for
        root = root.resolve()
    folders = folders_with(MANIFEST, root)
    if not folders:
        if folders_with(ARCHIVE, root):
            raise MenteeError(f"{root} is packed: run `mentee cache unpack` first")
        raise MenteeError(
            f"{root} holds no cache: name a folder like data/cache, data/cache/labelled or "
            f"data/cache/labelled/logits"
        )
    return {
        folder.relative_to(root).as_posix(): (folder, read_manifest(folder)) for folder in folders
    }


def folders_with(name: str, root: Path) -> list[Path]:
    """The folders at or under `root` that have such a file.

    Not hidden ones: what a command that was killed left half-written or half-removed. A link to a
    folder is a MenteeError: followed, a stranger's might lead to anything, and left out in silence,
    a part of the cache would be neither checked nor packed.
    """
    folders = []
    for folder, inner, files in os.walk(root, onerror=_refuse_unreadable):
        inner[:] = [part for part in inner if not part.startswith(".")]
        for part in inner:
            if os.path.islink(path := os.path.join(folder, part)):
                raise MenteeError(
                    f"{path} is a link to a folder, which is not followed: name the link"
                )
        if name in files:
            folders.append(Path(folder))
    return sorted(folders)


def _refuse_unreadable(error: OSError) -> None:
    if not isinstance(error, (FileNotFoundError, NotADirectoryError)):
        raise error


def split_folder(folder: Path, manifest: Manifest) -> Path:
    """The split's folder around a kind's."""
    return folder.parent.parent if manifest.kind.startswith("features/") else folder.parent


def flat(content: Any, prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one, with dotted keys."""
    if not isinstance(content, dict) or not content:
        return {prefix: content}
    return {
        key: value
        for name, inner in content.items()
        for key, value in flat(inner, f"{prefix}.{name}" if prefix else str(name)).items()
    }


def differences(one: dict[str, Any], other: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What differs between two specs, by dotted key; None where a side has no such key."""
    left, right = flat(one), flat(other)
    return {
        key: (left.get(key), right.get(key))
        for key in sorted(left.keys() | right.keys())
        if left.get(key) != right.get(key)
    }


def compare(one: Found, other: Found) -> dict[str, Any]:
    """What keeps two caches from fitting together.

    `only_in_one` and `only_in_other`: paths of kinds; `different`: for each path that both have
    and whose specs differ, by dotted key what stands there in one and in the other.
    """
    different = {}
    for path in sorted(one.keys() & other.keys()):
        mine, theirs = one[path][1], other[path][1]
        found = differences(mine.spec, theirs.spec)
        if mine.views != theirs.views:
            found["views"] = mine.views, theirs.views
        if found:
            different[path] = found
    return {
        "only_in_one": sorted(one.keys() - other.keys()),
        "only_in_other": sorted(other.keys() - one.keys()),
        "different": different,
    }


def compared_lines(content: dict[str, Any], one: Path, other: Path) -> Iterator[str]:
    """The same for people; nothing where two caches fit together."""
    for paths, root in ((content["only_in_one"], one), (content["only_in_other"], other)):
        yield from (f"{path}: only in {root}" for path in paths)
    for path, found in content["different"].items():
        for key, (mine, theirs) in found.items():
            yield f"{path}: {key}: {short(mine)} | {short(theirs)}"


def short(value: Any) -> str:
    """A value of a spec on one line, long digests and lists cut."""
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def dump_of(spec: dict[str, Any]) -> dict[str, Any]:
    """What all kinds of one dump have in common."""
    return {key: value for key, value in spec.items() if key not in ("kinds", "head")}
