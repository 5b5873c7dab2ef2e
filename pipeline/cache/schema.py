"""The names, the specification and the fingerprints of a cache."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.files import canonical_json, digest_text

FORMAT = 1
ALIGNMENT = 4096  # bytes; every data set begins on a page, so that it can be mapped

VIEWS, LOGITS, TASK_LOGITS = "views", "logits", "task_logits"
VALUES, CHECKSUMS = "values", "checksums"
REGIONS, PIXELS = "regions", "pixels"


def features_kind(tap: str) -> str:
    return f"features/{tap}"


@dataclass(frozen=True)
class Place:
    """Where a shard stands: a view, and the rows start .. stop - 1 of the split."""

    view: int
    part: int
    start: int
    stop: int

    def path(self, folder: Path) -> Path:
        return folder / f"v{self.view:03}" / f"p{self.part:05}.h5"


def places(spec: dict[str, Any]) -> Iterator[Place]:
    """Where the shards of every kind stand, in the order in which a dump makes them."""
    rows, step = spec["rows"], spec["rows_per_shard"]
    for view in range(spec["views"]["count"]):
        for part, start in enumerate(range(0, rows, step)):
            yield Place(view, part, start, min(start + step, rows))


def shard_spec(spec: dict[str, Any], kind: str) -> dict[str, Any]:
    """What decides the numbers of one kind: the cache's spec without the other kinds.

    How many views or taps there are is left out, so that more of them leave every old shard as
    it is.
    """
    views = {key: value for key, value in spec["views"].items() if key != "count"}
    return {**spec, "views": views, "kinds": {kind: spec["kinds"][kind]}}


def fingerprint(spec: dict[str, Any]) -> str:
    """SHA-256 of the canonical spelling of a spec, as 64 hexadecimal digits."""
    return digest_text(canonical_json(spec))
