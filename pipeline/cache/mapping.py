"""Many shards as one array: the same rows of every file, mapped side by side.

Gathering rows from an array a file costs several NumPy calls a file, more than the copying itself
where a batch touches every view. So a range of addresses is reserved and every shard's data set is
mapped into its place there; one `take` then gathers from all of them at the speed of RAM.

What does not fit into memory is read from the disk row by row, and handed back in time.

Windows has no such mapping: there the shards are copied into memory, which must hold them.
"""

import ctypes
import mmap
import os
import weakref
from dataclasses import dataclass
from math import gcd
from pathlib import Path

import numpy as np
import psutil

from pipeline.cache.encodings import Layout
from pipeline.cache.memory import memory_bytes
from pipeline.errors import MenteeError

_MAPS = os.name == "posix"
if _MAPS:
    # What Python's own mmap cannot do: map a file at an address of our choice (mmap(2), POSIX).
    _LIBC = ctypes.CDLL(None, use_errno=True)
    _LIBC.mmap.restype = ctypes.c_void_p
    _LIBC.mmap.argtypes = [
        ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64,
    ]  # fmt: skip
    _LIBC.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    _LIBC.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    _ANONYMOUS = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
_NO_ACCESS, _MAP_FIXED = 0x0, 0x10
_HUGE_PAGE = 2 << 20  # where the system has them, as Linux does
_MADV_HUGEPAGE = getattr(mmap, "MADV_HUGEPAGE", None)
_MADV_NOHUGEPAGE = getattr(mmap, "MADV_NOHUGEPAGE", None)
_MOST_ADDRESSES = 1 << 43  # of the 2**47 that a process has
_MAP_FAILED = ctypes.c_void_p(-1).value
_SHARE = 0.5  # of the memory that there is: a region that is larger does not fit
_TOUCHED = 1024  # bytes from which a row is touched before it is copied


@dataclass(frozen=True)
class Piece:
    """A data set inside a file: `rows` rows from the byte `offset` on."""

    path: Path
    offset: int
    rows: int


class Region:
    """Data sets of one layout as one read-only array `(len(pieces) * stride, ...)`.

    The rows of piece `p` begin at `p * stride`; what follows its last row is no memory at all and
    must not be read.
    """

    def __init__(self, pieces: list[Piece], layout: Layout):
        self._row_bytes = layout.bytes
        buffer = self._map(pieces, layout) if _MAPS else self._copy(pieces, layout)
        self._values = np.frombuffer(buffer.toreadonly(), dtype=layout.dtype)
        self._row_values = len(self._values) // (len(pieces) * self.stride)
        self.array = self._values.reshape(len(pieces) * self.stride, *layout.shape)

    def _copy(self, pieces: list[Piece], layout: Layout) -> memoryview:
        self.stride, self.fits = max(piece.rows for piece in pieces), True
        copies = np.empty((len(pieces), self.stride * layout.bytes), np.uint8)
        for piece, copied in zip(pieces, copies, strict=True):
            with open(piece.path, "rb") as file:
                file.seek(piece.offset)
                wanted = copied[: piece.rows * layout.bytes].data
                if file.readinto(wanted) < len(wanted):
                    raise _truncated(piece)
        return copies.reshape(-1).data

    def _map(self, pieces: list[Piece], layout: Layout) -> memoryview:
        rows = max(piece.rows for piece in pieces)
        page = _HUGE_PAGE if rows * layout.bytes >= _HUGE_PAGE else mmap.ALLOCATIONGRANULARITY
        if len(pieces) * _stride(rows, layout.bytes, page) * layout.bytes > _MOST_ADDRESSES:
            page = mmap.ALLOCATIONGRANULARITY
        large = page == _HUGE_PAGE
        self.stride = _stride(rows, layout.bytes, page)
        piece_bytes = self.stride * layout.bytes
        span = len(pieces) * piece_bytes
        memory = int(_SHARE * memory_bytes())
        self.fits = sum(piece.rows for piece in pieces) * layout.bytes <= memory
        reserved = span + 2 * page
        start = _mapped(None, reserved, _NO_ACCESS, _ANONYMOUS)
        # Memory and file agree about where a page begins, so that huge pages can be used.
        ahead = pieces[0].offset % page if large else 0
        self._address = -(-start // page) * page + ahead - ahead % mmap.ALLOCATIONGRANULARITY
        buffer = (ctypes.c_char * span).from_address(self._address)
        # Not at exit, when a thread or a handler may still read: the system unmaps by itself.
        weakref.finalize(buffer, _LIBC.munmap, start, reserved).atexit = False
        placed = [
            _place(piece, self._address + number * piece_bytes, piece.rows * layout.bytes)
            for number, piece in enumerate(pieces)
        ]
        if not self.fits:
            # Else a page that is asked for brings megabytes that are gone before they are used.
            self._advise(0, span, mmap.MADV_RANDOM)
            self._advise(0, span, _MADV_NOHUGEPAGE)
        elif large:
            self._advise(0, span, _MADV_HUGEPAGE)
        # Where files are mapped: what was copied instead would be lost if it were handed back.
        self._mapped = [number * piece_bytes for number, mapped in enumerate(placed) if mapped]
        self._piece_bytes, self._may_hold = piece_bytes, memory
        self._others = 0 if self.fits else _resident_bytes()  # what is held beside this region
        return memoryview(buffer)

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Copies of `rows`, in their order: int64 `(n,)` -> `(n, ...)`."""
        if not self.fits:
            self._forget()
            for row in rows.tolist():
                self._fetch(row, row + 1)
        elif self._row_bytes >= _TOUCHED:
            # A value of each row first: the processor then looks up where all of them lie at
            # once, not one after another while it copies. 1.3 times as fast at 4 KB a row.
            self._values.take(rows * self._row_values)
        return self.array.take(rows, axis=0)

    def part(self, start: int, stop: int) -> np.ndarray:
        """The rows `start` .. `stop - 1`, as they lie there."""
        if not self.fits:
            self._forget()
            self._fetch(start, stop)
        return self.array[start:stop]

    def _fetch(self, start: int, stop: int) -> None:
        """Have the disk read rows, without waiting for them."""
        first = start * self._row_bytes & -mmap.PAGESIZE
        self._advise(first, stop * self._row_bytes - first, mmap.MADV_WILLNEED)

    def _forget(self) -> None:
        """Hand back what was read, as often as it fills our share of memory."""
        held = _resident_bytes()
        self._others = min(self._others, held)
        if held - self._others > self._may_hold:
            for start in self._mapped:
                self._advise(start, self._piece_bytes, mmap.MADV_DONTNEED)
            self._others = _resident_bytes()

    def _advise(self, start: int, length: int, advice: int | None) -> None:
        if advice is not None:
            _LIBC.madvise(self._address + start, length, advice)


def _resident_bytes() -> int:
    """How many bytes of mapped files this process holds.

    The system decides how much around a row comes in with it, 4 KiB or 2 MiB at a time, so that
    counting the bytes that were asked for says little.
    """
    memory = psutil.Process().memory_info()
    return getattr(memory, "shared", memory.rss)  # macOS tells only of all together


def _stride(rows: int, row_bytes: int, page: int) -> int:
    """The smallest number of rows from `rows` on that fills whole pages."""
    step = page // gcd(page, row_bytes)
    return -(-rows // step) * step


def _truncated(piece: Piece) -> MenteeError:
    return MenteeError(f"{piece.path} is truncated: remove it and dump again")


def _place(piece: Piece, address: int, length: int) -> bool:
    """Map a piece at `address`, or copy it there if it does not begin on a page; whether mapped.

    Only data sets smaller than a page do not, where pages have 4,096 bytes.
    """
    if not length:
        return False
    with open(piece.path, "rb") as file:
        if os.fstat(file.fileno()).st_size < piece.offset + length:
            raise _truncated(piece)
        if piece.offset % mmap.ALLOCATIONGRANULARITY == 0:
            flags = mmap.MAP_SHARED | _MAP_FIXED
            _mapped(address, length, mmap.PROT_READ, flags, file.fileno(), piece.offset)
            return True
        access = mmap.PROT_READ | mmap.PROT_WRITE
        _mapped(address, length, access, _ANONYMOUS | _MAP_FIXED)
        file.seek(piece.offset)
        file.readinto((ctypes.c_char * length).from_address(address))
        return False


def _mapped(
    address: int | None, length: int, access: int, flags: int, file: int = -1, offset: int = 0
) -> int:
    got = _LIBC.mmap(address, length, access, flags, file, offset)
    if got == _MAP_FAILED:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return got
