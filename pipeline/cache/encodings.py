"""How answers are stored: as floats, in 8 or 4 bits, or the largest few of a row.

An encoding turns float32 answers `(n, ...)` into the arrays of a shard and back. `layout` says
what those arrays are, so that a reader knows what to expect before it opens a file.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import log, prod
from typing import Any, Protocol

import numpy as np

from pipeline.cache.schema import CHANNEL_OFFSET, CHANNEL_SCALE, VALUES

Arrays = dict[str, np.ndarray]
SCALE, OFFSET = "scale", "offset"
CLASSES, REST = "classes", "rest"
# A list of few of many classes decodes to far more bytes than it has, and may be a stranger's.
MAX_CLASSES, MAX_DECODED_BYTES = 1 << 20, 4 << 30


@dataclass(frozen=True)
class Layout:
    """One array of a shard: its type, its shape without rows, and whether it has any."""

    dtype: np.dtype
    shape: tuple[int, ...]
    by_row: bool = True

    def shape_of(self, rows: int) -> tuple[int, ...]:
        """The shape of the array in a shard of so many rows."""
        return (rows, *self.shape) if self.by_row else self.shape

    @property
    def bytes(self) -> int:
        """Bytes of one row, or of the whole array where it has no rows."""
        return self.dtype.itemsize * prod(self.shape)


class Encoding(Protocol):
    """A way to store answers. layout: the arrays of a shard by name."""

    layout: dict[str, Layout]

    def encode(self, values: np.ndarray) -> Arrays:
        """float32 `(n, ...)` -> the arrays of `layout`."""

    def max_error(self, values: np.ndarray, arrays: Arrays) -> float:
        """How far a stored value is off at most, the others of a top-k list aside."""

    def decode(self, arrays: Arrays) -> np.ndarray:
        """Back to `(n, ...)`; rows may come from several shards."""

    def check(self, arrays: Arrays) -> None:
        """A ValueError where decoding would trip; the arrays may be a stranger's."""


class _Decoding(ABC):
    @abstractmethod
    def decode(self, arrays: Arrays) -> np.ndarray:
        """Back to `(n, ...)`."""

    def max_error(self, values: np.ndarray, arrays: Arrays) -> float:
        """How far a decoded value is off at most."""
        return _largest_difference(self.decode(arrays), values)


def _largest_difference(one: np.ndarray, other: np.ndarray) -> float:
    """In float64, because a difference that float32 rounds down would not be a bound."""
    return float(np.abs(np.subtract(one, other, dtype=np.float64)).max(initial=0))


class Plain(_Decoding):
    """The values themselves, little-endian float16 or float32."""

    def __init__(self, dtype: str, shape: tuple[int, ...]):
        self.dtype = np.dtype(dtype).newbyteorder("<")
        self.layout = {VALUES: Layout(self.dtype, shape)}

    def encode(self, values: np.ndarray) -> Arrays:
        with np.errstate(over="ignore"):  # an overflow is found, and named, by whoever dumps
            return {VALUES: values.astype(self.dtype)}

    def decode(self, arrays: Arrays) -> np.ndarray:
        return arrays[VALUES]

    def check(self, arrays: Arrays) -> None:
        """Numbers that are none, in floats, are found by whoever computes with them."""


class AffinePerRow(_Decoding):
    """8 bits a value: value = number * scale + offset, with a scale and an offset a row.

    No value is off by more than half of its row's scale, beyond float32's own rounding.
    """

    scale, offset = SCALE, OFFSET
    levels = 255

    def __init__(self, shape: tuple[int, ...]):
        self.layout = {VALUES: Layout(np.dtype("u1"), shape), **self._numbers(shape)}

    def _numbers(self, shape: tuple[int, ...]) -> dict[str, Layout]:
        number = Layout(np.dtype("<f4"), ())
        return {self.scale: number, self.offset: number}

    def encode(self, values: np.ndarray) -> Arrays:
        values = values.astype(np.float64)
        axes = self._axes(values)
        low, high = values.min(axes), values.max(axes)
        scale, offset = ((high - low) / self.levels).astype("<f4"), low.astype("<f4")
        step = np.where(scale > 0, scale, 1)  # all equal, or nearly: every number rounds to 0
        number = (values - self._spread(offset, values)) / self._spread(step, values)
        values = np.rint(number).clip(0, self.levels).astype("u1")
        return {VALUES: values, self.scale: scale, self.offset: offset}

    def decode(self, arrays: Arrays) -> np.ndarray:
        values = arrays[VALUES]
        decoded = values * self._spread(arrays[self.scale], values)
        decoded += self._spread(arrays[self.offset], values)
        return decoded

    def check(self, arrays: Arrays) -> None:
        with np.errstate(over="ignore", invalid="ignore"):
            largest = self.levels * arrays[self.scale] + arrays[self.offset]
        if not np.isfinite(largest).all():
            raise ValueError(f"{self.scale} and {self.offset} are not finite")

    def _axes(self, values: np.ndarray) -> tuple[int, ...]:
        return tuple(range(1, values.ndim))

    def _spread(self, numbers: np.ndarray, values: np.ndarray) -> np.ndarray:
        return numbers.reshape(-1, *(1 for _ in values.shape[1:]))


class AffinePerChannel(AffinePerRow):
    """The same with a scale and an offset a channel, shared by the rows of a shard."""

    scale, offset = CHANNEL_SCALE, CHANNEL_OFFSET

    def _numbers(self, shape: tuple[int, ...]) -> dict[str, Layout]:
        number = Layout(np.dtype("<f4"), shape[:1], by_row=False)
        return {self.scale: number, self.offset: number}

    def _axes(self, values: np.ndarray) -> tuple[int, ...]:
        return (0, *range(2, values.ndim))

    def _spread(self, numbers: np.ndarray, values: np.ndarray) -> np.ndarray:
        # Channels are the second axis; gathered rows bring the numbers of their own shards.
        return numbers.reshape(*numbers.shape, *(1 for _ in values.shape[2:]))


class PackedPerChannel(AffinePerChannel):
    """The same in 4 bits: a byte holds two values of a row, the first in its low half."""

    levels = 15

    def __init__(self, shape: tuple[int, ...]):
        super().__init__(shape)
        self.shape = shape
        self.layout[VALUES] = Layout(np.dtype("u1"), ((prod(shape) + 1) // 2,))

    def encode(self, values: np.ndarray) -> Arrays:
        arrays = super().encode(values)
        numbers = arrays[VALUES].reshape(len(values), -1)
        packed = numbers[:, 0::2].copy()
        packed[:, : prod(self.shape) // 2] |= numbers[:, 1::2] << 4
        return arrays | {VALUES: packed}

    def decode(self, arrays: Arrays) -> np.ndarray:
        packed = arrays[VALUES]
        numbers: np.ndarray = np.stack([packed & 15, packed >> 4], axis=2).reshape(len(packed), -1)
        numbers = numbers[:, : prod(self.shape)].reshape(-1, *self.shape)
        return super().decode(arrays | {VALUES: numbers})


class TopK:
    """The k largest logits of a row as float16, their classes, and the mass of all others.

    rest is the log of the sum of the other logits' exponentials; decoding spreads it evenly, so
    that the softmax of every kept class, at temperature 1, is what it was.
    """

    def __init__(self, k: int, classes: int):
        self.k, self.classes = k, classes
        self.layout = {
            VALUES: Layout(np.dtype("<f2"), (k,)),
            CLASSES: Layout(np.dtype("<u2" if classes <= 1 << 16 else "<u4"), (k,)),
            REST: Layout(np.dtype("<f4"), ()),
        }

    def encode(self, values: np.ndarray) -> Arrays:
        values = values.astype(np.float64)
        order = np.argsort(-values, axis=1, kind="stable")
        classes, others = order[:, : self.k], order[:, self.k :]
        with np.errstate(over="ignore"):
            kept = np.take_along_axis(values, classes, 1).astype("<f2")
        others = np.take_along_axis(values, others, 1)
        peak = others.max(1)
        rest = peak + np.log(np.exp(others - peak[:, None]).sum(1))
        return {
            VALUES: kept, CLASSES: classes.astype(self.layout[CLASSES].dtype),
            REST: rest.astype("<f4"),
        }  # fmt: skip

    def max_error(self, values: np.ndarray, arrays: Arrays) -> float:
        kept = np.take_along_axis(values, arrays[CLASSES].astype(np.int64), 1)
        return _largest_difference(arrays[VALUES], kept)

    def decode(self, arrays: Arrays) -> np.ndarray:
        spread = arrays[REST] - np.float32(log(self.classes - self.k))
        decoded = np.repeat(spread[:, None], self.classes, axis=1)
        np.put_along_axis(decoded, arrays[CLASSES].astype(np.int64), arrays[VALUES], 1)
        return decoded

    def check(self, arrays: Arrays) -> None:
        last = int(arrays[CLASSES].max(initial=0))
        if last >= self.classes:
            raise ValueError(f"it lists class {last} of {self.classes}")
        decoded = 4 * len(arrays[VALUES]) * self.classes
        if decoded > MAX_DECODED_BYTES:
            raise ValueError(f"its rows decode to {decoded} bytes")


FLOATS = ("float16", "float32")
PER_ROW, PER_CHANNEL, PACKED = "uint8 per row", "uint8 per channel", "uint4 per channel"


def logits_encoding(chosen: str, classes: int) -> str:
    """What a spec says where params say `cache.logits: chosen`.

    A list of the largest is kept only where there are more classes than that.
    """
    if chosen.startswith("top") and int(chosen[3:]) >= classes:
        return "float16"
    return PER_ROW if chosen == "uint8" else chosen


def features_encoding(chosen: str) -> str:
    """What a spec says where params say `cache.features: chosen`."""
    return {"uint8": PER_CHANNEL, "uint4": PACKED}.get(chosen, chosen)


def encoding_of(described: dict[str, Any]) -> Encoding:
    """The encoding that a kind's part of a spec names; a ValueError if there is no such one."""
    name, shape = described["encoding"], tuple(described["shape"])
    if name in FLOATS:
        return Plain(name, shape)
    if name == PER_ROW:
        return AffinePerRow(shape)
    if name == PER_CHANNEL:
        return AffinePerChannel(shape)
    if name == PACKED:
        return PackedPerChannel(shape)
    if name.startswith("top") and name[3:].isdecimal() and len(shape) == 1:
        k = int(name[3:])
        if 0 < k < shape[0] <= MAX_CLASSES:
            return TopK(k, shape[0])
    raise ValueError(f"no encoding {name!r} for rows of shape {shape} is known")
