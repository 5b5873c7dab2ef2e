"""The names, the specification, the fingerprints and the manifest of a cache."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import MenteeError
from pipeline.files import canonical_json, digest_text

FORMAT = 2
ALIGNMENT = 4096  # bytes; every data set begins on a page, so that it can be mapped

VIEWS, LOGITS, TASK_LOGITS = "views", "logits", "task_logits"
VALUES, CHECKSUMS = "values", "checksums"
REGIONS, PIXELS = "regions", "pixels"
# Arrays of a shard as a whole; all others have its rows.
CHANNEL_SCALE, CHANNEL_OFFSET = "channel_scale", "channel_offset"
MANIFEST, SPEC, INDEX = "manifest.json", "spec.json", "index.h5"
ARCHIVE = "archive.json"  # in the place of a manifest, where a kind is packed
MAX_MANIFEST_BYTES = 64 << 20
_SHARD_PATH = re.compile(r"v(\d{3,})/p(\d{5,})\.h5")


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


def place(spec: dict[str, Any], view: int, part: int) -> Place:
    start = part * spec["rows_per_shard"]
    return Place(view, part, start, min(start + spec["rows_per_shard"], spec["rows"]))


def places(spec: dict[str, Any]) -> Iterator[Place]:
    """Where the shards of every kind stand, in the order in which a dump makes them."""
    for view in range(spec["views"]["count"]):
        for part in range(parts(spec)):
            yield place(spec, view, part)


def parts(spec: dict[str, Any]) -> int:
    """How many shards hold the rows of one view."""
    return -(-spec["rows"] // spec["rows_per_shard"])


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


@dataclass(frozen=True)
class Extent:
    """Where a data set lies in its file, in bytes, and the SHA-256 of those bytes."""

    offset: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Entry:
    """What a manifest says of a shard: its whole file's digest, and each data set's."""

    view: int
    part: int
    bytes: int
    sha256: str
    arrays: dict[str, Extent]


@dataclass(frozen=True)
class Manifest:
    """What a kind's folder holds: the spec that its shards share, and every shard."""

    kind: str
    spec: dict[str, Any]
    fingerprint: str
    entries: tuple[Entry, ...]

    @property
    def views(self) -> int:
        return 1 + max((entry.view for entry in self.entries), default=-1)

    def place(self, entry: Entry) -> Place:
        return place(self.spec, entry.view, entry.part)

    def content(self) -> dict[str, Any]:
        """What is written as manifest.json."""
        shards = [
            {
                "path": self.place(entry).path(Path()).as_posix(),
                "bytes": entry.bytes,
                "sha256": entry.sha256,
                "arrays": {name: vars(extent) for name, extent in entry.arrays.items()},
            }
            for entry in self.entries
        ]
        return {
            "format": FORMAT, "kind": self.kind, "fingerprint": self.fingerprint,
            "spec": self.spec, "shards": shards,
        }  # fmt: skip


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a kind's folder; nothing in it is believed before it is checked."""
    path = folder / MANIFEST
    try:
        content = read_bounded_json(path)
        if content["format"] != FORMAT:
            raise MenteeError(
                f"{path} has cache format {content['format']!r}, this version reads {FORMAT}: "
                f"dump again"
            )
        return parse_manifest(content)
    except FileNotFoundError:
        if (folder / ARCHIVE).is_file():
            raise MenteeError(f"{folder} is packed: run `mentee cache unpack` first") from None
        raise MenteeError(
            f"{folder} holds no cache (no {MANIFEST}): run `mentee dump` and `mentee head`, or "
            f"`dvc pull` it"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise MenteeError(f"{path} is not a manifest ({reason}): dump again") from None


def read_bounded_json(path: Path) -> Any:
    """JSON that may come from a stranger; a ValueError if it is larger than any of ours."""
    if path.stat().st_size > MAX_MANIFEST_BYTES:
        raise ValueError(f"it has more than {MAX_MANIFEST_BYTES} bytes")
    return json.loads(path.read_bytes())


def parse_manifest(content: dict[str, Any]) -> Manifest:
    """A manifest from its JSON content; a ValueError or KeyError says what makes no sense."""
    kind, spec = content["kind"], content["spec"]
    check_spec(spec)
    if list(spec["kinds"]) != [kind]:
        raise ValueError(f"its spec is not of the kind {kind!r}")
    if content["fingerprint"] != fingerprint(spec):
        raise ValueError("its fingerprint is not that of its spec")
    entries = []
    for shard in content["shards"]:
        match = _SHARD_PATH.fullmatch(shard["path"])
        if not match:
            raise ValueError(f"{shard['path']!r} is not where a shard stands")
        arrays = {str(name): Extent(**extent) for name, extent in shard["arrays"].items()}
        view, part = map(int, match.groups())
        entry = Entry(view, part, shard["bytes"], shard["sha256"], arrays)
        for number in (entry.bytes, *(n for e in arrays.values() for n in (e.offset, e.bytes))):
            _check(isinstance(number, int) and number >= 0, "bytes")
        _check(part < parts(spec), "path")
        entries.append(entry)
    entries.sort(key=lambda entry: (entry.view, entry.part))
    wanted = [(view, part) for view in range(1 + max((e.view for e in entries), default=-1))
              for part in range(parts(spec))] if len(entries) else []  # fmt: skip
    if [(entry.view, entry.part) for entry in entries] != wanted:
        raise ValueError("it does not list every shard of its views once")
    return Manifest(kind, spec, content["fingerprint"], tuple(entries))


def check_spec(spec: Any) -> None:
    """A ValueError unless the parts of a spec that code relies on have the right types."""
    _check(isinstance(spec, dict), "spec")
    for key in ("rows", "rows_per_shard"):
        _check(isinstance(spec.get(key), int) and spec[key] >= 0, key)
    _check(spec["rows_per_shard"] > 0, "rows_per_shard")
    _check(isinstance(spec.get("split"), str), "split")
    for key in ("data", "views", "teacher", "kinds"):
        _check(isinstance(spec.get(key), dict), key)
    _check(len(spec["kinds"]) == 1, "kinds")
    names = spec["data"].get("class_names")
    _check(isinstance(names, list) and all(isinstance(name, str) for name in names), "class_names")
    for kind, described in spec["kinds"].items():
        _check(isinstance(described, dict), kind)
        if kind != VIEWS:
            shape = described.get("shape")
            _check(isinstance(shape, list) and 0 < len(shape) <= 3, f"{kind} shape")
            _check(all(isinstance(n, int) and 0 < n < 1 << 31 for n in shape), f"{kind} shape")
            _check(isinstance(described.get("encoding"), str), f"{kind} encoding")


def _check(holds: bool, what: str) -> None:
    if not holds:
        raise ValueError(f"its {what} makes no sense")
