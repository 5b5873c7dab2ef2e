"""Many shards as one array: the same rows of every file, mapped side by side.

Gathering rows from an array a file costs several NumPy calls a file, more than the copying itself
where a batch touches every view. So a range of addresses is reserved and every shard's data set is
mapped into its place there; one `take` then gathers from all of them at the speed of RAM.
"""

import ctypes
import mmap
import os
import weakref
from dataclasses import dataclass
from math import gcd
from pathlib import Path

import numpy as np

from pipeline.cache.encodings import Layout
from pipeline.errors import MenteeError

# What Python's own mmap cannot do: map a file at an address of our choice (mmap(2), POSIX).
_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.mmap.restype = ctypes.c_void_p
_LIBC.mmap.argtypes = [
    ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64,
]  # fmt: skip
_LIBC.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_LIBC.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_NO_ACCESS, _MAP_FIXED = 0x0, 0x10
_HUGE_PAGE, _MADV_HUGEPAGE = 2 << 20, 14
_MOST_ADDRESSES = 1 << 43  # of the 2**47 that a process has
_MAP_FAILED = ctypes.c_void_p(-1).value
_ANONYMOUS = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS


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
        rows = max(piece.rows for piece in pieces)
        page = _HUGE_PAGE if rows * layout.bytes >= _HUGE_PAGE else mmap.ALLOCATIONGRANULARITY
        if len(pieces) * _stride(rows, layout.bytes, page) * layout.bytes > _MOST_ADDRESSES:
            page = mmap.ALLOCATIONGRANULARITY
        large = page == _HUGE_PAGE
        self.stride = _stride(rows, layout.bytes, page)
        piece_bytes = self.stride * layout.bytes
        self.bytes = sum(piece.rows for piece in pieces) * layout.bytes
        span = len(pieces) * piece_bytes
        reserved = span + 2 * page
        start = _mapped(None, reserved, _NO_ACCESS, _ANONYMOUS)
        # Memory and file agree about where a page begins, so that huge pages can be used.
        ahead = pieces[0].offset % page if large else 0
        self._address = -(-start // page) * page + ahead - ahead % mmap.ALLOCATIONGRANULARITY
        buffer = (ctypes.c_char * span).from_address(self._address)
        # Not at exit, when a thread or a handler may still read: the system unmaps by itself.
        weakref.finalize(buffer, _LIBC.munmap, start, reserved).atexit = False
        self._maps = []  # what can be read again from its file
        for number, piece in enumerate(pieces):
            address, length = self._address + number * piece_bytes, piece.rows * layout.bytes
            if _place(piece, address, length):
                self._maps.append((address, length))
        if large:
            _LIBC.madvise(self._address, span, _MADV_HUGEPAGE)
        self.array = np.frombuffer(memoryview(buffer).toreadonly(), dtype=layout.dtype)
        self.array = self.array.reshape(len(pieces) * self.stride, *layout.shape)

    def forget(self) -> None:
        """Hand the pages that were read back; they stay in the system's own cache of files."""
        for address, length in self._maps:
            _LIBC.madvise(address, length, mmap.MADV_DONTNEED)


def resident_bytes() -> int:
    """How many bytes of mapped files this process holds.

    The system decides how much around a row comes in with it, 64 KiB or 2 MiB at a time, so that
    counting the bytes that were asked for says little.
    """
    pages = int(Path("/proc/self/statm").read_bytes().split()[2])
    return pages * mmap.PAGESIZE


def _stride(rows: int, row_bytes: int, page: int) -> int:
    """The smallest number of rows from `rows` on that fills whole pages."""
    step = page // gcd(page, row_bytes)
    return -(-rows // step) * step


def _place(piece: Piece, address: int, length: int) -> bool:
    """Map a piece at `address`, or copy it there if it does not begin on a page: is it mapped?

    Only data sets smaller than a page do not, where pages have 4,096 bytes.
    """
    with open(piece.path, "rb") as file:
        if os.fstat(file.fileno()).st_size < piece.offset + length:
            raise MenteeError(f"{piece.path} is truncated: remove it and dump again")
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
