"""spec.json and index.h5 beside a split's kinds, taken along when a cache is copied.

Either may be a link that a stranger made, to a file of this machine that the copy would then give
away: what is taken along is a spec by its content, and the very index that the spec names.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pipeline.cache.schema import INDEX, SPEC, UNPARSABLE, check_modest, read_bounded_json
from pipeline.cache.writer import link_or_copy
from pipeline.errors import MenteeError, reason
from pipeline.files import digest_file, write_json

_PARTS = {
    "format", "split", "rows", "rows_per_shard", "data", "views", "teacher", "kinds", "index",
}  # fmt: skip


def take_along(source: Path, target: Path, kinds: Iterable[str]) -> None:
    """Copy spec.json and index.h5 of the splits of `kinds`, paths under `source`, each checked.

    Of no other folder: an archive or an export that lies there too has its own.
    """
    around = {folder for kind in kinds for folder in Path(kind).parents}
    for part in sorted(around):
        folder, fresh = source / part, target / part
        if not (folder / SPEC).is_file():
            continue
        spec = read_spec(folder)
        if (folder / INDEX).is_file():
            take_index(folder, spec, fresh)
        write_json(fresh / SPEC, spec)


def read_spec(folder: Path) -> dict[str, Any]:
    """A split's spec.json; a MenteeError if it is not one."""
    path = folder / SPEC
    try:
        spec = read_bounded_json(path)
        check_modest(spec)
        types = type(spec["views"]["count"]), type(spec["index"]["sha256"])
        if spec.keys() != _PARTS or types != (int, str):
            raise ValueError("it has other parts")
    except UNPARSABLE as error:
        raise MenteeError(
            f"{path} is not a spec ({reason(error)}): pull or dump it again"
        ) from None
    return spec


def take_index(folder: Path, spec: dict[str, Any], target: Path) -> None:
    """Put the index of `folder` into `target`; a MenteeError if it is not the one of `spec`."""
    path = folder / INDEX
    if digest_file(path) != spec["index"]["sha256"]:
        raise MenteeError(f"{path} is damaged, or of another dump than {SPEC}: pull it again")
    link_or_copy(path.resolve(), target / INDEX)
