"""What a cache is, on one card: teacher, data, views, kinds, bytes, and who may read it."""

import json
from pathlib import Path
from typing import Any

from pipeline.cache.kinds import dump_of, find_kinds, split_folder
from pipeline.cache.schema import LOGITS, TASK_LOGITS, TASK_UNCERTAINTY, VIEWS, Manifest
from pipeline.cache.shard import open_shard


def card(root: Path) -> dict[str, Any]:
    """The card of every split under `root`, as JSON types."""
    splits: dict[str, Any] = {}
    for path, (folder, manifest) in find_kinds(root).items():
        where = split_folder(folder, manifest).as_posix()
        common = {k: v for k, v in dump_of(manifest.spec).items() if k not in ("format", "split")}
        split = splits.setdefault(
            where, {"split": manifest.spec["split"], "dump": common, "kinds": {}}
        )
        described = manifest.spec["kinds"][manifest.kind]
        size = sum(entry.bytes for entry in manifest.entries)
        shown = manifest.spec["rows"] * manifest.views
        split["kinds"][manifest.kind] = {
            "path": path,
            "fingerprint": manifest.fingerprint,
            "encoding": described.get("encoding"),
            "shape": described.get("shape"),
            "views": manifest.views,
            "shards": len(manifest.entries),
            "bytes": size,
            "bytes_a_view": round(size / shown, 1) if shown else 0,
            "max_error": _max_error(folder, manifest),
            "read_by": read_by(manifest),
            "same_dump": common == split["dump"],
        }
    return {"splits": splits}


def _max_error(folder: Path, manifest: Manifest) -> float:
    paths = (manifest.place(entry).path(folder) for entry in manifest.entries)
    return max((open_shard(path).max_error for path in paths if path.is_file()), default=0.0)


def read_by(manifest: Manifest) -> str:
    """Who may read a kind, and what it asks of their params."""
    kind, shape = manifest.kind, manifest.spec["kinds"][manifest.kind].get("shape")
    if kind == VIEWS:
        return "every student with a teacher"
    if kind == TASK_LOGITS or (kind == LOGITS and shape == [_classes(manifest)]):
        return "students with gamma above 0"
    if kind == TASK_UNCERTAINTY:
        return "whoever asks how sure the head is (entropy and mutual information, in nats)"
    if kind == LOGITS:
        return "head.fit: false, where the teacher speaks the task's classes"
    tap = kind.removeprefix("features/")
    readers = f"students with beta above 0 and a probe with teacher: {tap}"
    if manifest.spec["kinds"][kind].get("keep") == "attention":
        return f"{readers} and distance: attention_transfer"
    return readers + (f"; head.tap: {tap}" if len(shape) == 1 else "")


def _classes(manifest: Manifest) -> int:
    return len(manifest.spec["data"]["class_names"])


def card_lines(content: dict[str, Any]) -> list[str]:
    """The card as text."""
    lines = []
    for where, split in content["splits"].items():
        dump = split["dump"]
        lines += [f"{where}  (split {split['split']}, {dump['rows']} images)", ""]
        for block in ("teacher", "data", "views"):
            for key, value in dump[block].items():
                lines.append(f"  {block + '.' + key:24} {_value(value)}")
        lines += ["", f"  {'kind':22} {'stored as':17} {'row':>14} {'views':>5} "
                      f"{'MB':>8} {'bytes/view':>10} {'max. error':>10}  fingerprint"]  # fmt: skip
        for kind, about in split["kinds"].items():
            row = " x ".join(map(str, about["shape"] or []))
            lines.append(
                f"  {kind:22} {about['encoding'] or '':17} {row:>14} {about['views']:>5} "
                f"{about['bytes'] / 1e6:>8.1f} {about['bytes_a_view']:>10.0f} "
                f"{about['max_error']:>10.2g}  {about['fingerprint'][:16]}"
                + ("" if about["same_dump"] else "  OF ANOTHER DUMP")
            )
        lines += ["", "  read by, beside the images of data.digest (data/prepared/images.h5):"]
        lines += [f"    {kind:20} {about['read_by']}" for kind, about in split["kinds"].items()]
        lines.append("")
    return lines


def _value(value: Any) -> str:
    if isinstance(value, list):
        shown = ", ".join(map(_item, value[:10]))
        return f"{shown}, ... ({len(value)})" if len(value) > 10 else shown
    text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _item(value: Any) -> str:
    """One of a list; the name of a class that has a comma is quoted, or it would look like two."""
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if "," in text else text
