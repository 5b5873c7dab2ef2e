"""Finding what is wrong with a cache: every byte of every file is read and compared."""

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from mmap import ACCESS_READ, mmap
from pathlib import Path

from pipeline.cache.kinds import differences, dump_of, short, split_folder
from pipeline.cache.reader import open_kind_shard
from pipeline.cache.schema import (
    INDEX,
    MANIFEST,
    SPEC,
    TASK_LOGITS,
    TASK_UNCERTAINTY,
    UNPARSABLE,
    VIEWS,
    Entry,
    Manifest,
    check_modest,
    read_bounded_json,
)
from pipeline.cache.shard import check_shard, open_shard
from pipeline.errors import MenteeError, reason
from pipeline.files import canonical_json, digest_file, json_text


def verify_kind(folder: Path, manifest: Manifest) -> Iterator[str]:
    """One line for each thing that is wrong with a kind's folder."""
    if (folder / MANIFEST).read_bytes() != json_text(manifest.content()).encode():
        yield f"{folder / MANIFEST}: not as it was written"
    yield from _verify_beside(folder, manifest)
    listed = {manifest.place(entry).path(folder): entry for entry in manifest.entries}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path not in listed and path != folder / MANIFEST:
            yield f"{path}: not in {MANIFEST}, no reader will open it"
    with ThreadPoolExecutor(2) as pool:  # one reads while the other digests
        for wrong in pool.map(lambda item: _verify_file(folder, manifest, *item), listed.items()):
            if wrong:
                yield wrong


def _verify_beside(folder: Path, manifest: Manifest) -> Iterator[str]:
    """Whether spec.json beside the kinds, where it is, speaks of this kind."""
    path = split_folder(folder, manifest) / SPEC
    if not path.is_file():
        return
    try:
        spec = read_bounded_json(path)
        check_modest(spec)
        as_written = path.read_bytes() == json_text(spec).encode()
        index = spec.pop("index")["sha256"]
        count = spec["views"].pop("count")
        described = spec.pop("kinds").get(manifest.kind)
        common = dump_of(manifest.spec)
        different = differences(spec, common)
    except UNPARSABLE as error:
        yield f"{path}: not a spec ({reason(error)})"
        return
    if not as_written:
        yield f"{path}: not as it was written"
    if different:
        key, (one, other) = next(iter(different.items()))
        yield f"{folder}: of another dump than {path}: {key} is {short(other)}, not {short(one)}"
    elif described is None and not _is_of_a_head(manifest):
        yield f"{folder}: {path} does not describe {manifest.kind}"
    elif described is not None and {manifest.kind: described} != manifest.spec["kinds"]:
        yield f"{folder}: another {manifest.kind} than {path} describes"
    elif described is not None and manifest.entries and manifest.views != count:
        yield f"{folder}: {manifest.views} views, {path} says {count}"
    beside = path.parent / INDEX
    if manifest.kind == VIEWS and not (beside.is_file() and digest_file(beside) == index):
        yield f"{beside}: damaged, or of another dump"


def _is_of_a_head(manifest: Manifest) -> bool:
    """Whether `mentee head` made it, of which the spec.json of a dump is silent."""
    return "head" in manifest.spec or manifest.kind in (TASK_LOGITS, TASK_UNCERTAINTY)


def _verify_file(folder: Path, manifest: Manifest, path: Path, entry: Entry) -> str | None:
    if not path.is_file():
        return f"{path}: missing"
    size = path.stat().st_size
    if size != entry.bytes:
        state = "truncated" if size < entry.bytes else "too long"
        wrong = f"{path}: {state}, {size} bytes instead of {entry.bytes}"
        return _another_run(path, manifest) or wrong
    if digest_file(path) == entry.sha256:
        return _verify_meaning(folder, manifest, entry)
    damaged = [name for name, extent in entry.arrays.items()
               if extent.offset + extent.bytes > size
               or _digest_range(path, extent.offset, extent.bytes) != extent.sha256]  # fmt: skip
    # HDF5 may crash on a damaged header, so it opens only what is damaged elsewhere.
    if not damaged and _contains(path, canonical_json(manifest.spec).encode()):
        return f"{path}: damaged in its HDF5 header, outside every data set"
    damage = f"{path}: damaged in {', '.join(damaged) or 'its HDF5 header'}"
    return _another_run(path, manifest) or damage


def _another_run(path: Path, manifest: Manifest) -> str | None:
    """That a file is a whole shard of another run, if it is one."""
    try:
        other = open_shard(path)
        check_shard(other)
    except MenteeError:
        return None
    return f"{path}: whole, but of another run ({_how_it_differs(other.spec, manifest)})"


def _contains(path: Path, text: bytes) -> bool:
    with open(path, "rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as content:
        return content.find(text) >= 0


def _how_it_differs(spec: dict, manifest: Manifest) -> str:
    different = differences(manifest.spec, spec)
    if not different:
        return "of the same spec, with other numbers"
    key, (_, other) = next(iter(different.items()))
    return f"its {key} is {short(other)}"


def _verify_meaning(folder: Path, manifest: Manifest, entry: Entry) -> str | None:
    """A file that is as the manifest says may still not be what its place asks for."""
    place = manifest.place(entry)
    try:
        shard = open_kind_shard(folder, manifest, place)
    except MenteeError as error:
        return str(error)
    if shard.extents != entry.arrays:
        return f"{place.path(folder)}: {MANIFEST} says otherwise where its data sets lie"
    return None


def _digest_range(path: Path, offset: int, length: int) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        file.seek(offset)
        while length > 0 and (block := file.read(min(1 << 20, length))):
            digest.update(block)
            length -= len(block)
    return digest.hexdigest()
