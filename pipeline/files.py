"""Writing files so that a file which exists under its name is whole."""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yield a path beside `path` to write to; sync it and rename it to `path` on success.

    On an exception the partial file is removed and `path` is left as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        with open(partial, "r+b") as written:  # Windows syncs nothing that is open for reading
            os.fsync(written.fileno())
        os.replace(partial, path)
    except OSError as error:
        error.filename = error.filename or str(path)  # a failed write does not say of what
        raise
    finally:
        partial.unlink(missing_ok=True)


def remove_partial(folder: Path) -> None:
    """Remove what a killed process left half-written; only where no other process may write."""
    for leftover in folder.rglob("*.partial"):
        if leftover.is_file():
            leftover.unlink()


def explain(error: OSError) -> str:
    """One line for the user: what failed where, and what helps."""
    text = error.strerror or " ".join(str(error).split())
    free = ""
    if isinstance(error.filename, str):
        text = f"{error.filename}: {text}"
        folder = next(p for p in Path(error.filename).absolute().parents if p.exists())
        free = f" ({shutil.disk_usage(folder).free / 1e6:.1f} MB are free)"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{text}{free}: make room and run it again, finished shards are kept"
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return f"{text}: make it writable, or work in another folder"
    return text


@contextmanager
def replaced_whole(folder: Path) -> Iterator[Path]:
    """Yield an empty folder beside `folder` that takes its place on success."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = folder.with_name(f".{folder.name}.partial")
    old = folder.with_name(f".{folder.name}.old")
    for leftover in (fresh, old):
        shutil.rmtree(leftover, ignore_errors=True)
    fresh.mkdir()
    try:
        yield fresh
        if folder.exists():
            folder.rename(old)
        fresh.rename(folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8, whole or not at all."""
    with written_whole(path) as partial:
        partial.write_text(text, encoding="utf-8")


def json_text(content: Any) -> str:
    """`content` as indented JSON with sorted keys, so that equal content is equal bytes."""
    return json.dumps(content, indent=2, sort_keys=True) + "\n"


def write_json(path: Path, content: Any) -> None:
    """Write `json_text`, whole or not at all."""
    write_text(path, json_text(content))


def read_json(path: Path) -> Any:
    """What a JSON file holds; an OSError or a ValueError where there is none."""
    return json.loads(path.read_text(encoding="utf-8"))


def canonical_json(content: Any) -> str:
    """The one spelling of `content` that is digested: sorted keys, no spaces."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def digest_text(text: str) -> str:
    """SHA-256 of `text` in UTF-8, as 64 hexadecimal digits."""
    return hashlib.sha256(text.encode()).hexdigest()


def digest_file(path: Path) -> str:
    """SHA-256 of the file's bytes, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
