"""The views that a teacher is asked about, batch by batch, made while it answers those before."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from pipeline.blocks import Views
from pipeline.cache.schema import Place
from pipeline.prepared import Split
from pipeline.threads import in_order
from pipeline.views import draw, pixel_digests, replay

# Fixed, and the last batch is filled up: kernels may round differently at another batch size.
BATCH_SIZE = 64
# Threads that make views while the teacher answers: more would be in the way of a CPU's teacher.
# For a GPU these are too few.
MAKERS, MAKERS_FOR_A_GPU = 2, 8


@dataclass(frozen=True)
class Shown:
    """Views that a teacher is asked about at a time: the rows of a place's shard that they fill.

    regions: `(n, 5)`; pictures: uint8 `(n, 3, s, s)`; pixels: their digests, uint64 `(n,)`.
    """

    rows: slice
    regions: np.ndarray
    pictures: torch.Tensor
    pixels: np.ndarray


def batches(place: Place) -> list[slice]:
    """The rows of a place's shard, batch by batch."""
    count = place.stop - place.start
    return [slice(n, min(n + BATCH_SIZE, count)) for n in range(0, count, BATCH_SIZE)]


def show(
    work: Iterable[tuple[Split, Place]], settings: Views, size: int, device: torch.device
) -> Iterator[Shown]:
    """Every batch of every place in order, made a few ahead of what is asked for.

    The pictures are made on the CPU, where their digests are taken, which is most of the work: 4 of
    6 ms a batch at 128 pixels, 12 of 15 at 224. What is for a GPU is pinned, so that it is copied
    there while the teacher answers.
    """
    for_a_gpu = device.type == "cuda"
    count = min(MAKERS_FOR_A_GPU, max(MAKERS, torch.get_num_threads())) if for_a_gpu else MAKERS

    def made(batch: tuple[Split, Place, slice]) -> Shown:
        return show_batch(*batch, settings, size, for_a_gpu)

    asked = ((split, place, rows) for split, place in work for rows in batches(place))
    return in_order(made, asked, count, begin=compute_alone)


def compute_alone() -> None:
    """Use one CPU thread from this thread on, and leave the others to the teacher.

    torch.set_num_threads would take them from the teacher's matrix products too.
    """
    torch.get_num_threads()  # the first call in a thread sets its number
    threadpool_limits(1, user_api="openmp")


def show_batch(
    split: Split, place: Place, rows: slice, settings: Views, size: int, pinned: bool = False
) -> Shown:
    """The views of `rows`, counted from the place's start, at `size` x `size` pixels."""
    chosen = slice(place.start + rows.start, place.start + rows.stop)
    regions = draw(split.ids[chosen], place.view, settings, split.image_size)
    pictures = replay(torch.from_numpy(split.images[chosen]), regions, size)
    digests = pixel_digests(pictures)
    return Shown(rows, regions, pictures.pin_memory() if pinned else pictures, digests)
