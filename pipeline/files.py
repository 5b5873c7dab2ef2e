"""Writing files so that a file which exists under its name is whole."""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pipeline.errors import MenteeError, printable

FULL = (errno.ENOSPC, errno.EDQUOT)  # of a disk, or what a user may have of it


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


@contextmanager
def said_to_fill(folder: Path) -> Iterator[None]:
    """A library's write that does not fit fails without a name: it is said to be in `folder`."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            error.filename = error.filename or str(folder)
        raise


def remove_partial(folder: Path) -> None:
    """Remove what a killed process left half-written; only where no other process may write."""
    for leftover in folder.rglob("*.partial"):
        if leftover.is_file():
            leftover.unlink()


def explain(error: OSError) -> str:
    """One line for the user: what failed where, and what helps."""
    text = " ".join((error.strerror or str(error)).split())
    named = error.filename if isinstance(error.filename, str) else None
    if named is not None:
        text = printable(f"{named}: {text}")
    if error.errno in FULL:
        free = "" if named is None else f" ({_free_bytes(named) / 1e6:.1f} MB are free)"
        return f"{text}{free}: make room and run it again, what is finished is kept"
    if error.errno == errno.EACCES and named and _is_closed(named):
        return f"{text}: make it readable"
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return f"{text}: make it writable, or work in another folder"
    return text


def _is_closed(path: str) -> bool:
    """Whether a file is there that this user may not read."""
    effective = os.access in os.supports_effective_ids
    return os.path.exists(path) and not os.access(path, os.R_OK, effective_ids=effective)


def _free_bytes(path: str) -> int:
    """How much fits on the disk of a file that may not be there yet."""
    folder = next(p for p in Path(path).absolute().parents if os.path.exists(p))
    return shutil.disk_usage(folder).free


@contextmanager
def replaced_whole(folder: Path) -> Iterator[Path]:
    """Yield an empty folder beside `folder` that takes its place on success.

    A MenteeError where another process is at it: each would remove what the other has written.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = folder.with_name(f".{folder.name}.partial")
    old = folder.with_name(f".{folder.name}.old")
    lock = folder.with_name(f".{folder.name}.lock")
    with locked(lock, f"another command is writing {folder}: wait for it to end, or stop it"):
        try:
            _put_back(old, folder)
            for leftover in (fresh, old):
                _remove(leftover)
            fresh.mkdir()
            with said_to_fill(folder):
                yield fresh
            if os.path.lexists(folder):  # a link that leads nowhere too
                folder.rename(old)
            fresh.rename(folder)
        finally:
            _put_back(old, folder)
            for leftover in (fresh, old):
                with suppress(OSError):  # the next command says so before it works
                    _remove(leftover)
            with suppress(OSError):  # Windows keeps a file that is open
                lock.unlink()


def _put_back(old: Path, folder: Path) -> None:
    """What was there stays there, where a process ended between the two renames."""
    if os.path.lexists(old) and not os.path.lexists(folder):
        old.rename(folder)


def _remove(path: Path) -> None:
    """Also what was made read-only; of a link the link alone, for what it leads to may be shared.

    An OSError where it is somebody else's.
    """
    if path.is_symlink():
        path.unlink()
    elif path.exists():
        for folder, _, _ in os.walk(path):
            with suppress(OSError):  # then removing says why
                os.chmod(folder, 0o700)
        shutil.rmtree(path)


@contextmanager
def locked(path: Path, refusal: str) -> Iterator[None]:
    """Hold a lock file, which the system frees if this process is killed.

    While another process holds it, `refusal` is the MenteeError.
    """
    from filelock import FileLock, Timeout  # not above: `mentee --help` would wait for it

    try:
        held = FileLock(path).acquire(blocking=False)
    except Timeout:
        raise MenteeError(refusal) from None
    with held:
        yield


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
