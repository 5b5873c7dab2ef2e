"""Replaying every view of a cache: the pixels must be those that the teacher saw."""

from collections.abc import Iterator

import numpy as np
import torch

from pipeline.cache.kinds import Found
from pipeline.cache.reader import Kind
from pipeline.cache.schema import PIXELS, REGIONS, VIEWS
from pipeline.errors import MenteeError
from pipeline.prepared import PREPARED_FILE, read_split
from pipeline.progress import Progress
from pipeline.views import check_regions, pixel_digests, replay

BATCH_SIZE = 256


def replay_all(kinds: Found) -> Iterator[str]:
    """One line for each split and view that replays to other pixels, of the kinds of views."""
    shown = [Kind(folder) for folder, manifest in kinds.values()
             if manifest.kind == VIEWS and manifest.entries]  # fmt: skip
    if not shown:
        raise MenteeError("--views: there is no kind `views` here; name a whole cache or a split")
    count = sum(kind.rows * kind.views for kind in shown)
    with Progress("views replayed", count) as progress:
        for kind in shown:
            yield from _replay_kind(kind, progress)


def _replay_kind(kind: Kind, progress: Progress) -> Iterator[str]:
    split = read_split(PREPARED_FILE, kind.spec["split"])
    if split.digest != kind.spec["data"]["digest"]:
        raise MenteeError(
            f"{kind.folder} was made for other images than {PREPARED_FILE} holds: bring those of "
            f"its dump"
        )
    size = kind.spec["teacher"]["input_size"]
    for place in kind.places:
        images = torch.from_numpy(split.images[place.start : place.stop])
        regions = kind.part(place, REGIONS)
        check_regions(regions, split.image_size, place.path(kind.folder))
        wanted = kind.part(place, PIXELS)
        wrong = []
        for start in range(0, len(images), BATCH_SIZE):
            batch = slice(start, start + BATCH_SIZE)
            digests = pixel_digests(replay(images[batch], regions[batch], size))
            wrong += (start + np.flatnonzero(digests != wanted[batch])).tolist()
            progress.advance(len(digests))
        if wrong:
            sample = split.ids[place.start + wrong[0]]
            yield (
                f"{place.path(kind.folder)}: {len(wrong)} of {len(images)} views replay to other "
                f"pixels than the teacher saw, {sample} among them"
            )
