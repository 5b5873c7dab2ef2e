"""Bicubic, antialiased resampling of pictures, to the same pixels on every device.

On a CPU it is torch's kernel for uint8, which goes back to Pillow's: weights are rounded to 16-bit
integers, rows are resampled first and columns after, and what lies between is rounded to uint8. Of
whole numbers every device makes the same, so that elsewhere, where torch has floating-point kernels
only, the same is done with tensors.
"""

from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F

_MOST_BITS = 22  # of a weight's fraction, in torch as in Pillow


def resample(pictures: torch.Tensor, size: int) -> torch.Tensor:
    """uint8 `(n, 3, h, w)` -> uint8 `(n, 3, size, size)`, where the pictures lie.

    As torchvision's `resize` does it, whose import takes two seconds.
    """
    if pictures.device.type == "cpu":
        return F.interpolate(pictures, [size, size], mode="bicubic", antialias=True)
    return resample_in_integers(pictures, size)


def resample_in_integers(pictures: torch.Tensor, size: int) -> torch.Tensor:
    """What `resample` returns on a CPU, on any device and without waiting for it."""
    by_pixel = pictures.permute(0, 2, 3, 1)
    for axis in (2, 1):
        if by_pixel.shape[axis] != size:
            by_pixel = _resampled_axis(by_pixel, axis, size)
    return by_pixel.permute(0, 3, 1, 2)


def _resampled_axis(values: torch.Tensor, axis: int, size: int) -> torch.Tensor:
    """uint8 `(n, h, w, 3)` with `size` for h (axis 1) or for w (axis 2)."""
    rows, weights, bits = _taps(values.shape[axis], size, values.device)
    along = [1, 1, 1, 1]
    along[axis] = size
    total = torch.tensor(1 << bits >> 1, dtype=torch.int32)  # one half: shifting rounds down
    for row, weight in zip(rows, weights, strict=True):
        total = values.index_select(axis, row).int() * weight.view(along) + total
    return (total >> bits).clamp_(0, 255).to(torch.uint8)


@lru_cache(maxsize=256)
def _taps(old: int, new: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Which of `old` pixels each of `new` is the sum of, and with which weights.

    Both int `(taps, new)`; the weights are multiples of 2 to the power of minus the third result.
    """
    scale = old / new
    stretch = max(scale, 1.0)  # the antialiasing: who makes smaller looks at more pixels
    centre = scale * (np.arange(new) + 0.5)
    first = np.maximum((centre - 2 * stretch + 0.5).astype(int), 0)
    stop = np.minimum((centre + 2 * stretch + 0.5).astype(int), old)
    taps = first + np.arange((stop - first).max())[:, None]
    weights = np.where(taps < stop, _cubic((taps - centre + 0.5) / stretch), 0.0)
    weights /= weights.sum(0)
    largest = weights.max()
    bits = 0
    while bits < _MOST_BITS and int(largest * (1 << bits + 1) + 0.5) < 1 << 15:
        bits += 1
    whole = np.trunc(weights * (1 << bits) + np.copysign(0.5, weights)).astype(np.int32)
    rows = torch.from_numpy(np.minimum(taps, old - 1)).to(device)
    return rows, torch.from_numpy(whole).to(device), bits


def _cubic(x: np.ndarray) -> np.ndarray:
    """Keys, "Cubic convolution interpolation", 1981, equation 15: a = -1/2."""
    x = np.abs(x)
    near, far = (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))
