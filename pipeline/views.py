"""What a view is, and how it is replayed.

View `v` of a sample is data, not a random event: a region of the stored image (which may reach
over its edge, where the image is reflected) and whether it is mirrored. Teacher and student cut
the same region and resample it to their own input size, both through `replay`. View 0 is the plain
image. Precomputed targets are only right for the picture that the teacher was shown (Beyer et al.,
"Knowledge distillation: A good teacher is patient and consistent", 2022).
"""

import hashlib
from collections.abc import Sequence

import numpy as np
import torch

from pipeline.blocks import Views
from pipeline.compute import to_device
from pipeline.errors import MenteeError
from pipeline.resampling import resample

# The columns of a view: the region in pixels of the stored image, and 1 where it is mirrored.
COLUMNS = ("top", "left", "height", "width", "flip")


def draw(ids: Sequence[str], view: int, settings: Views, image_size: tuple[int, int]) -> np.ndarray:
    """View number `view` of every sample, as int32 `(n, 5)` in the order of `COLUMNS`.

    Each row depends on (settings.seed, sample id, view) alone, through NumPy's counter-based
    Philox generator, and so on no order, worker or rank. `image_size` is (height, width).
    """
    regions = plain(len(ids), image_size)
    if view == 0:
        return regions
    numbers = _random_numbers(ids, (settings.seed << 32) | view)
    padding = settings.padding
    # The high half of a product with 2^32 equally likely numbers (Lemire, 2019), as
    # numpy.random.Generator.integers has it, which draws nothing for a single possible value.
    regions[:, :2] = (numbers[:, :2] * (2 * padding + 1) >> 32) - padding
    if settings.flip:
        regions[:, 4] = numbers[:, 2 if padding else 0] >> 31
    return regions


def plain(count: int, image_size: tuple[int, int]) -> np.ndarray:
    """View 0 of so many images of (height, width), int32 `(n, 5)`: each is shown as it is."""
    return np.tile(np.array([0, 0, *image_size, 0], dtype=np.int32), (count, 1))


def _random_numbers(ids: Sequence[str], low_key: int) -> np.ndarray:
    """Four numbers of 32 random bits for every sample, as int64 `(n, 4)`.

    One generator that is set anew for each sample: making one would take ten times as long.
    """
    philox = np.random.Philox(key=np.array([0, low_key], dtype=np.uint64))
    start = philox.state
    key = start["state"]["key"]
    drawn = np.empty((len(ids), 2), dtype="<u8")
    for row, sample in enumerate(ids):
        digest = hashlib.blake2b(sample.encode(), digest_size=8).digest()
        key[0] = int.from_bytes(digest, "little")
        philox.state = start
        drawn[row] = philox.random_raw(2)
    return drawn.view("<u4").astype(np.int64)


def replay(images: torch.Tensor, regions: np.ndarray, size: int) -> torch.Tensor:
    """Cut `regions` int `(n, 5)` out of `images` uint8 `(n, H, W, 3)` and resample them.

    Returns uint8 `(n, 3, size, size)` in channels-last memory, where the images lie, the same
    pixels on every device. Both stages call this one function, so that a student sees what its
    teacher saw. Regions never lie on a GPU: what to do depends on them, and it would have to be
    waited for.
    """
    shapes = regions[:, 2:4]
    if len(shapes) and (shapes == shapes[0]).all():
        height, width = shapes[0].tolist()
        return _resampled_cut(images, regions, height, width, size)
    distinct, member = np.unique(shapes, axis=0, return_inverse=True)
    out = torch.empty(
        (len(images), 3, size, size), dtype=torch.uint8, device=images.device,
        memory_format=torch.channels_last,
    )  # fmt: skip
    for number, (height, width) in enumerate(distinct.tolist()):
        rows = np.flatnonzero(member == number)
        places = to_device(rows, images.device)
        out[places] = _resampled_cut(images[places], regions[rows], height, width, size)
    return out


def _resampled_cut(
    images: torch.Tensor, regions: np.ndarray, height: int, width: int, size: int
) -> torch.Tensor:
    """Regions of one shape as pictures of another, uint8 `(n, 3, size, size)`."""
    cut = _cut(images, regions, height, width).permute(0, 3, 1, 2)
    return cut if (height, width) == (size, size) else resample(cut, size)


def check_regions(regions: np.ndarray, image_size: tuple[int, int], where: object) -> None:
    """A MenteeError unless every region int `(n, 5)` can be cut out of images of this size.

    Regions may be a stranger's, and one of a billion pixels would fill the memory. An edge is
    reflected once, so that a region reaches over it by less than the image.
    """
    first, extent = regions[:, :2].astype(np.int64), regions[:, 2:4].astype(np.int64)
    over = np.array(image_size) - 1
    is_sound = (extent > 0) & (first >= -over) & (first + extent - 1 <= 2 * over)
    if not (is_sound.all() and np.isin(regions[:, 4], (0, 1)).all()):
        raise MenteeError(
            f"{where} shows regions that do not lie in images of {image_size[0]} x "
            f"{image_size[1]} pixels: fetch it again, or dump again"
        )


def _cut(images: torch.Tensor, regions: np.ndarray, height: int, width: int) -> torch.Tensor:
    """Regions of one shape, by gathering: uint8 `(n, height, width, 3)`.

    Which pixels is worked out by NumPy, whose small operations take less time than torch's, and
    than a GPU's launch; the gathering is done where the images lie.
    """
    count, tall, wide, channels = images.shape
    top, left, _, _, flip = regions.T[..., None].astype(np.int64)
    rows = _reflect(top + np.arange(height), tall)
    across = np.arange(width)
    columns = _reflect(left + np.where(flip, width - 1 - across, across), wide)
    # As rows of one flat table, which is three times as fast as indexing three dimensions.
    starts = (np.arange(count)[:, None] * tall + rows) * wide
    indices = to_device(np.hstack([starts, columns]), images.device)
    places = indices[:, :height, None] + indices[:, None, height:]
    pixels = images.reshape(-1, channels).index_select(0, places.view(-1))
    return pixels.view(count, height, width, channels)


def _reflect(index: np.ndarray, size: int) -> np.ndarray:
    """Fold indices outside 0 .. size-1 back in, without repeating the edge pixel."""
    return size - 1 - np.abs(size - 1 - np.abs(index))


def pixel_digests(pictures: torch.Tensor) -> np.ndarray:
    """A 64-bit BLAKE2b digest of the pixels of each view: uint8 `(n, 3, s, s)` -> uint64 `(n,)`.

    Taken at the teacher's input size, before normalisation; a reader that replays a view to other
    pixels, with another library or backend, finds out here and not from a bad student.
    """
    rows = pictures.permute(0, 2, 3, 1).contiguous().cpu().numpy()
    digests = (hashlib.blake2b(row.data, digest_size=8).digest() for row in rows)
    return np.frombuffer(b"".join(digests), dtype="<u8")
