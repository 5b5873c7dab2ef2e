"""Making a cache: finished shards gather in a scratch folder and move in together.

The scratch folder lies outside every output of DVC, which deletes outputs before a stage runs. It
is keyed by what decides a shard's numbers, so a dump that was killed, or one more view or tap,
makes only what is missing, and params that are turned back find their old shards.
"""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from pipeline.cache.schema import Place, fingerprint, places, shard_spec
from pipeline.cache.shard import check_shard, open_shard, write_shard
from pipeline.errors import MenteeError
from pipeline.files import digest_file, replaced_whole, write_json, written_whole


class Scratch:
    """Finished shards under `root/<fingerprint of the shard's spec>/`, made by one process."""

    def __init__(self, root: Path):
        self.root = root

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder; a second dump into it is a MenteeError."""
        self.root.mkdir(parents=True, exist_ok=True)
        with open(self.root / "lock", "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise MenteeError(
                    f"another dump is writing to {self.root}: wait for it to end, or stop it"
                ) from None
            for leftover in self.root.rglob("*.partial"):  # of a dump that was killed
                leftover.unlink()
            yield

    def folder(self, spec: dict[str, Any], kind: str) -> Path:
        return self.root / fingerprint(shard_spec(spec, kind))[:16]

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
        self, spec: dict[str, Any], kind: str, place: Place, arrays: dict[str, np.ndarray]
    ) -> None:
        path = place.path(self.folder(spec, kind))
        write_shard(path, arrays, shard_spec(spec, kind), place)

    def publish(self, spec: dict[str, Any], kind: str, folder: Path) -> list[dict[str, Any]]:
        """Put every shard of a kind into `folder`, as hard links where the file system can.

        Returns the manifest's rows. What was in `folder` before is replaced as a whole.
        """
        entries = []
        with replaced_whole(folder) as fresh:
            for place in places(spec):
                source = place.path(self.folder(spec, kind))
                target = place.path(fresh)
                link_or_copy(source, target)
                entries.append(
                    {
                        "path": place.path(Path(kind)).as_posix(),
                        "kind": kind,
                        "view": place.view,
                        "rows": [place.start, place.stop],
                        "bytes": target.stat().st_size,
                        "sha256": digest_file(target),
                    }
                )
        return entries


def link_or_copy(source: Path, target: Path) -> None:
    """The same file under a second name: no second copy where links are possible."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def write_index(path: Path, ids: tuple[str, ...], labels: np.ndarray) -> None:
    """Which sample stands in which row: ids as UTF-8 bytes, labels int64."""
    with written_whole(path) as partial, h5py.File(partial, "w") as file:
        encoded = np.array([sample.encode() for sample in ids], dtype=bytes)
        file.create_dataset("ids", data=encoded, track_times=False)
        file.create_dataset("labels", data=labels.astype("<i8"), track_times=False)


def write_manifest(root: Path, spec: dict[str, Any], entries: list[dict[str, Any]]) -> None:
    """spec.json and, last of all, manifest.json: a cache with a manifest is complete."""
    write_json(root / "spec.json", spec)
    write_json(
        root / "manifest.json",
        {"format": spec["format"], "fingerprint": fingerprint(spec), "shards": entries},
    )
