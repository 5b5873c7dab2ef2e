"""Bicubic, antialiased resampling of pictures, to the same pixels on every device.

On a CPU it is torch's kernel for uint8, which goes back to Pillow's: weights are rounded to 16-bit
integers, rows are resampled first and columns after, and what lies between is rounded to uint8. Of
whole numbers every device makes the same, so that elsewhere, where torch has kernels for floats
only, the same is done by matrix products.
"""

from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F

from pipeline.compute import to_device

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
    values = pictures.to(torch.float32, memory_format=torch.contiguous_format)
    with torch.autocast(pictures.device.type, enabled=False):
        for _ in range(2):  # along rows, then along columns
            if values.shape[3] != size:
                values = _resampled_rows(values, size)
            values = values.transpose(2, 3)
    return values.to(torch.uint8, memory_format=torch.channels_last)


def _resampled_rows(values: torch.Tensor, size: int) -> torch.Tensor:
    """Whole numbers 0 .. 255 as float32, `(n, 3, h, w)` -> `(n, 3, h, size)`.

    Sums of whole numbers below 2^24 are exact in float32, also where a GPU rounds factors to TF32
    or bfloat16, which hold 8 bits. So weights are taken apart into two numbers of 8 bits.
    """
    weights, bits = _weights(values.shape[3], size, values.device)
    high, low = (values.to(weights.dtype) @ weights).int().chunk(2, dim=3)
    rounded = torch.add(low, high, alpha=256).add_(1 << bits >> 1)  # one half: shifting rounds down
    return (rounded >> bits).clamp_(0, 255).float()


@lru_cache(maxsize=64)
def _weights(old: int, new: int, device: torch.device) -> tuple[torch.Tensor, int]:
    """What each of `new` pixels is the sum of: `(old, 2 * new)`, and how many bits are a fraction.

    Of every weight first what 256 goes into, for all pixels, and then what is left.
    """
    scale = old / new
    stretch = max(scale, 1.0)  # the antialiasing: who makes smaller looks at more pixels
    centre = scale * (np.arange(new) + 0.5)
    first = np.maximum((centre - 2 * stretch + 0.5).astype(int), 0)
    stop = np.minimum((centre + 2 * stretch + 0.5).astype(int), old)
    pixels = np.arange(old)[:, None]
    is_seen = (first <= pixels) & (pixels < stop)
    weights = np.where(is_seen, _cubic((pixels - centre + 0.5) / stretch), 0.0)
    weights /= weights.sum(0)
    largest, bits = weights.max(), 0
    while bits < _MOST_BITS and int(largest * (1 << bits + 1) + 0.5) < 1 << 15:
        bits += 1
    whole = np.trunc(weights * (1 << bits) + np.copysign(0.5, weights)).astype(np.int32)
    parts = to_device(np.hstack([whole >> 8, whole & 255]), device)
    fits_float32 = is_seen.sum(0).max() * 255 * 255 < 1 << 24  # else old is 64 times new
    return parts.to(torch.float32 if fits_float32 else torch.float64), bits


def _cubic(x: np.ndarray) -> np.ndarray:
    """Keys, "Cubic convolution interpolation", 1981, equation 15: a = -1/2."""
    x = np.abs(x)
    near, far = (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))
