"""The names, the specification, the fingerprints and the manifest of a cache."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import MenteeError, reason
from pipeline.files import canonical_json, digest_text

FORMAT = 2
ALIGNMENT = 4096  # bytes; every data set begins on a page, so that it can be mapped

VIEWS, LOGITS, TASK_LOGITS = "views", "logits", "task_logits"
TASK_UNCERTAINTY = "task_uncertainty"
VALUES, CHECKSUMS = "values", "checksums"
REGIONS, PIXELS = "regions", "pixels"
# Arrays of a shard as a whole; all others have its rows.
CHANNEL_SCALE, CHANNEL_OFFSET = "channel_scale", "channel_offset"
MANIFEST, SPEC, INDEX = "manifest.json", "spec.json", "index.h5"
ARCHIVE = "archive.json"  # in the place of a manifest, where a kind is packed
MAX_MANIFEST_BYTES = 16 << 20  # some 15,000 shards; as Python's lists up to 0.4 GB
MAX_SPEC_BYTES, MAX_SPEC_DEPTH, MAX_KEY = 1 << 20, 10, 100
MAX_INPUT_SIZE = 4096  # pixels
UNPARSABLE = (
    ValueError, KeyError, TypeError, AttributeError, RecursionError, MemoryError, OverflowError,
)  # fmt: skip
_SHARD_PATH = re.compile(r"v([0-9]{3,9})/p([0-9]{5,9})\.h5")
_SHA256 = re.compile("[0-9a-f]{64}")
_NAME = re.compile("[a-z_]{1,32}")  # of an array, or of a split


def features_kind(tap: str) -> str:
    """The kind of a teacher's tap, which is also its folder within a split's cache."""
    return f"features/{tap}"


@dataclass(frozen=True)
class Place:
    """Where a shard stands: a view, and the rows start .. stop - 1 of the split."""

    view: int
    part: int
    start: int
    stop: int

    def path(self, folder: Path) -> Path:
        """The shard's file within its kind's folder: v<view>/p<part>.h5."""
        return folder / f"v{self.view:03}" / f"p{self.part:05}.h5"


def place(spec: dict[str, Any], view: int, part: int) -> Place:
    """Where part number `part` of view number `view` stands; the last part may have fewer rows."""
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
        """How many views are there, counted from the first."""
        return 1 + max((entry.view for entry in self.entries), default=-1)

    def place(self, entry: Entry) -> Place:
        """Where one of its shards stands."""
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
    except UNPARSABLE as error:
        raise MenteeError(f"{path} is not a manifest ({reason(error)}): dump again") from None


def read_bounded_json(path: Path) -> Any:
    """JSON that may come from a stranger; a ValueError if it is larger than any of ours."""
    if path.exists() and not path.is_file():  # a pipe, a device: it may never end
        raise ValueError("it is no regular file")
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
    _check(isinstance(content["shards"], list), "shards")
    entries = sorted(map(_parse_entry, content["shards"]), key=lambda e: (e.view, e.part))
    views, in_view = 1 + max((entry.view for entry in entries), default=-1), parts(spec)
    # Counted first: a list of all that a stranger may claim to have would fill the memory.
    if len(entries) != views * in_view or any(
        (entry.view, entry.part) != divmod(number, in_view) for number, entry in enumerate(entries)
    ):
        raise ValueError("it does not list every shard of its views once")
    return Manifest(kind, spec, content["fingerprint"], tuple(entries))


def _parse_entry(shard: dict[str, Any]) -> Entry:
    match = _SHARD_PATH.fullmatch(shard["path"])
    view, part = map(int, match.groups()) if match else (0, 0)
    if shard["path"] != Place(view, part, 0, 0).path(Path()).as_posix():
        raise ValueError(f"{shard['path']!r} is not where a shard stands")
    arrays = {name: Extent(**extent) for name, extent in shard["arrays"].items()}
    for name, extent in arrays.items():
        _check(_NAME.fullmatch(name) is not None, "name of an array")
        _check(_is_number(extent.offset) and _is_number(extent.bytes), "bytes")
        _check(_SHA256.fullmatch(extent.sha256) is not None, "sha256")
    _check(_is_number(shard["bytes"]) and shard["bytes"] > 0, "bytes")
    _check(_SHA256.fullmatch(shard["sha256"]) is not None, "sha256")
    return Entry(view, part, shard["bytes"], shard["sha256"], arrays)


def check_spec(spec: Any) -> None:
    """A ValueError unless the parts of a spec that code relies on have the right types."""
    _check(isinstance(spec, dict), "spec")
    check_modest(spec)
    for key in ("rows", "rows_per_shard"):
        _check(_is_number(spec.get(key)), key)
    _check(spec["rows_per_shard"] > 0, "rows_per_shard")
    split = spec.get("split")
    _check(isinstance(split, str) and _NAME.fullmatch(split) is not None, "split")
    for key in ("data", "views", "teacher", "kinds"):
        _check(isinstance(spec.get(key), dict), key)
    _check(len(spec["kinds"]) == 1, "kinds")
    names = spec["data"].get("class_names")
    _check(isinstance(names, list) and all(isinstance(name, str) for name in names), "class_names")
    _check(isinstance(spec["data"].get("digest"), str), "data's digest")
    size = spec["teacher"].get("input_size")
    _check(_is_number(size) and 0 < size <= MAX_INPUT_SIZE, "input_size")
    for kind, described in spec["kinds"].items():
        if kind == VIEWS:
            _check(described == {}, kind)
            continue
        _check(isinstance(described, dict), kind)
        shape = described.get("shape")
        _check(isinstance(shape, list) and 0 < len(shape) <= 3, f"{kind} shape")
        _check(all(_is_number(n) and 0 < n < 1 << 31 for n in shape), f"{kind} shape")
        _check(isinstance(described.get("encoding"), str), f"{kind} encoding")


def check_modest(spec: dict[str, Any]) -> None:
    """A ValueError if a spec is so long or so deep that comparing it would take all memory."""
    if len(canonical_json(spec)) > MAX_SPEC_BYTES:
        raise ValueError(f"its spec has more than {MAX_SPEC_BYTES} bytes")
    level: list[Any] = [spec]
    for _ in range(MAX_SPEC_DEPTH):
        named = [item for item in level if isinstance(item, dict)]
        _check(all(len(key) <= MAX_KEY for item in named for key in item), "names")
        level = [value for item in level if isinstance(item, list) for value in item]
        level += [value for item in named for value in item.values()]
    _check(not level, "spec")


def _is_number(value: Any) -> bool:
    """Whether it is a count, or a position in a file; True is none."""
    return type(value) is int and 0 <= value < 1 << 62


def _check(holds: bool, what: str) -> None:
    if not holds:
        raise ValueError(f"its {what} makes no sense")
