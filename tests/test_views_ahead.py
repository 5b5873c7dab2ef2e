"""Views made ahead of the teacher: all of them, in order, and few at a time."""

from collections.abc import Iterator

import numpy as np
import torch

from pipeline.blocks import Views
from pipeline.cache.schema import Place
from pipeline.prepared import Split
from pipeline.views import draw, pixel_digests, replay
from pipeline.views_ahead import BATCH_SIZE, MAKERS, show

CPU = torch.device("cpu")
SETTINGS = Views(labelled=3, unlabelled=3, padding=2, flip=True, seed=0)


def split_of(count: int) -> Split:
    images = np.random.default_rng(0).integers(256, size=(count, 8, 8, 3), dtype=np.uint8)
    ids = tuple(f"image/{number}" for number in range(count))
    return Split("labelled", images, np.zeros(count, dtype=np.int64), ids, ("any",))


def test_every_row_of_every_place_is_shown_once_in_order() -> None:
    split = split_of(3 * BATCH_SIZE + 5)
    places = [Place(0, 0, 0, 2 * BATCH_SIZE), Place(2, 1, 2 * BATCH_SIZE, len(split))]
    shown = show([(split, place) for place in places], SETTINGS, 12, CPU)
    for place in places:
        rows = slice(place.start, place.stop)
        regions = draw(split.ids[rows], place.view, SETTINGS, (8, 8))
        pictures = replay(torch.from_numpy(split.images[rows]), regions, 12)
        for start in range(0, place.stop - place.start, BATCH_SIZE):
            batch = next(shown)
            assert batch.rows == slice(start, min(start + BATCH_SIZE, place.stop - place.start))
            assert np.array_equal(batch.regions, regions[batch.rows])
            assert torch.equal(batch.pictures, pictures[batch.rows])
            assert np.array_equal(batch.pixels, pixel_digests(pictures[batch.rows]))
    assert next(shown, None) is None


def test_views_are_made_no_further_ahead_than_there_are_threads() -> None:
    split, taken = split_of(BATCH_SIZE), []

    def work() -> Iterator[tuple[Split, Place]]:
        for view in range(100):
            taken.append(view)
            yield split, Place(view, 0, 0, len(split))

    shown = show(work(), SETTINGS, 8, CPU)
    for asked_for in range(1, 6):
        next(shown)
        assert len(taken) == asked_for + MAKERS
