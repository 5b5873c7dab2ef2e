"""Making a cache: finished shards gather in a scratch folder and move in together.

The scratch folder lies outside every output of DVC, which deletes outputs before a stage runs. It
is keyed by what decides a shard's numbers, so a dump that was killed, or one more view or tap,
makes only what is missing, and params that are turned back find their old shards.
"""

import os
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from pipeline.cache.schema import (
    INDEX,
    MANIFEST,
    SPEC,
    Manifest,
    Place,
    fingerprint,
    places,
    read_manifest,
    shard_spec,
)
from pipeline.cache.shard import check_shard, entry_of, open_shard, write_shard
from pipeline.errors import MenteeError
from pipeline.files import (
    digest_file,
    locked,
    read_json,
    remove_partial,
    replaced_whole,
    write_json,
    written_whole,
)

BEGUN = "begun.json"


class Scratch:
    """Finished shards under `root/<fingerprint of the shard's spec>/`, made by one process."""

    def __init__(self, root: Path):
        self.root = root

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder; a second dump into it is a MenteeError."""
        self.root.mkdir(parents=True, exist_ok=True)
        refusal = f"another dump is writing to {self.root}: wait for it to end, or stop it"
        with locked(self.root / "lock", refusal):
            remove_partial(self.root)  # of a dump that was killed
            yield

    def begin(self, specs: Iterable[dict[str, Any]]) -> None:
        """Note whose shards a dump will make: until it has ended they are no garbage."""
        folders = [self.folder(spec, kind).name for spec in specs for kind in spec["kinds"]]
        write_json(self.root / BEGUN, folders)

    def end(self) -> None:
        """What was begun is published."""
        (self.root / BEGUN).unlink()

    def begun(self) -> list[str]:
        """The names of the folders of a dump that did not end."""
        path = self.root / BEGUN
        return read_json(path) if path.exists() else []

    def folder(self, spec: dict[str, Any], kind: str) -> Path:
        return self.folder_of(fingerprint(shard_spec(spec, kind)))

    def folder_of(self, fingerprint: str) -> Path:
        return self.root / fingerprint[:16]

    def missing(self, spec: dict[str, Any], place: Place) -> list[str]:
        """The kinds whose shard at this place is not there yet."""
        return [kind for kind in spec["kinds"] if not self.has(spec, kind, place)]

    def has(self, spec: dict[str, Any], kind: str, place: Place) -> bool:
        """Whether this shard is there, whole and of this spec."""
        path = place.path(self.folder(spec, kind))
        if not path.exists():
            return False
        try:
            shard = open_shard(path)
            check_shard(shard)
        except MenteeError:
            return False
        return shard.fingerprint == fingerprint(shard_spec(spec, kind)) and shard.place == place

    def write(
        self, spec: dict[str, Any], kind: str, place: Place, arrays: dict[str, np.ndarray],
        max_error: float = 0.0,
    ) -> None:  # fmt: skip
        path = place.path(self.folder(spec, kind))
        write_shard(path, arrays, shard_spec(spec, kind), place, max_error)

    def adopt(self, spec: dict[str, Any], kind: str, folder: Path) -> None:
        """Take over the good shards of `folder`, a kind that was published or pulled before."""
        try:
            manifest = read_manifest(folder)
        except MenteeError:
            return
        if manifest.fingerprint != fingerprint(shard_spec(spec, kind)):
            return
        for entry in manifest.entries:
            place = manifest.place(entry)
            path, mine = place.path(folder), place.path(self.folder(spec, kind))
            if path.is_file() and not mine.exists() and digest_file(path) == entry.sha256:
                link_or_copy(path, mine)

    def publish(self, spec: dict[str, Any], kind: str, folder: Path) -> Manifest:
        """Put every shard of a kind into `folder`, as hard links where the file system can.

        What was in `folder` before is replaced as a whole.
        """
        with replaced_whole(folder) as fresh:
            for place in places(spec):
                link_or_copy(place.path(self.folder(spec, kind)), place.path(fresh))
            return write_manifest(fresh, kind, shard_spec(spec, kind), list(places(spec)))


class Beside:
    """Runs calls one after another in a thread of their own, at most `ahead` of them waiting.

    So the teacher goes on while its answers are written, and memory stays bounded. An error of a
    call is raised at a later `put`, or at the end, and no call runs after one that failed: it may
    build on it. Also when the context is left early, by Ctrl-C say, the calls that wait are run
    first: what was answered is not lost.
    """

    def __init__(self, ahead: int):
        self._ahead = ahead
        self._pool = ThreadPoolExecutor(1)
        self._waiting: deque[Future[None]] = deque()
        self._has_failed = False

    def put(self, call: Callable[..., None], *arguments: Any) -> None:
        while len(self._waiting) > self._ahead or (self._waiting and self._waiting[0].done()):
            self._waiting.popleft().result()
        self._waiting.append(self._pool.submit(self._run, call, *arguments))

    def _run(self, call: Callable[..., None], *arguments: Any) -> None:
        if self._has_failed:
            return
        try:
            call(*arguments)
        except BaseException:
            self._has_failed = True
            raise

    def __enter__(self) -> "Beside":
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        self._pool.shutdown()
        if kind is None:
            for future in self._waiting:
                future.result()


def link_or_copy(source: Path, target: Path) -> None:
    """The same file under a second name: no second copy where links are possible."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source.resolve(), target)  # a link into DVC's store would not outlive the store
    except OSError:
        with (
            open(source, "rb") as content,
            written_whole(target) as partial,
            open(partial, "wb") as copy,
        ):
            shutil.copyfileobj(content, copy, 1 << 20)


@contextmanager
def written_hdf5(path: Path, libver: tuple[str, str] | None = None) -> Iterator[h5py.File]:
    """Yield an HDF5 file in memory, to be written whole or not at all.

    The disk sees one plain write, whose errors say what they are: HDF5 crashes where it is full.
    """
    with h5py.File.in_memory(libver=libver) as file:
        yield file
        file.flush()
        image = file.id.get_file_image()
    with written_whole(path) as partial:
        partial.write_bytes(image)


def write_root(root: Path, spec: dict[str, Any], ids: tuple[str, ...], labels: np.ndarray) -> None:
    """What stands beside the kinds: which sample stands in which row, and the whole spec.

    index.h5 holds ids as UTF-8 bytes and labels as int64; spec.json says its digest.
    """
    with written_hdf5(root / INDEX) as file:
        encoded = np.array([sample.encode() for sample in ids], dtype=bytes)
        file.create_dataset("ids", data=encoded, track_times=False)
        file.create_dataset("labels", data=labels.astype("<i8"), track_times=False)
    write_json(root / SPEC, {**spec, "index": {"sha256": digest_file(root / INDEX)}})


def write_manifest(folder: Path, kind: str, spec: dict[str, Any], made: list[Place]) -> Manifest:
    """manifest.json, the last file of a kind's folder: one with a manifest is complete."""
    entries = tuple(entry_of(place.path(folder)) for place in made)
    manifest = Manifest(kind, spec, fingerprint(spec), entries)
    write_json(folder / MANIFEST, manifest.content())
    return manifest
