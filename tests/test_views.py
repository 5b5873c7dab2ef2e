"""Views: drawn by seed, sample and number alone, and replayed to the pixel."""

import hashlib
import subprocess
import sys
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2.functional import resize

from pipeline.blocks import Views
from pipeline.errors import MenteeError
from pipeline.views import COLUMNS, check_regions, draw, pixel_digests, replay

seeds = st.integers(0, 2**32 - 1)
sample_ids = st.lists(st.text(max_size=12), unique=True, min_size=1, max_size=8)


def view_settings(padding: int = 4, flip: bool = True, seed: int = 0) -> Views:
    return Views(labelled=1000, unlabelled=1000, padding=padding, flip=flip, seed=seed)


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def cut_by_hand(image: np.ndarray, region: np.ndarray) -> np.ndarray:
    """What a region shows, without gathering: the image between its mirror images, sliced."""
    top, left, height, width, flip = region
    down, across = image.shape[0] - 1, image.shape[1] - 1
    mirrored = np.pad(image, ((down, down), (across, across), (0, 0)), mode="reflect")
    cut = mirrored[top + down : top + down + height, left + across : left + across + width]
    return cut[:, ::-1] if flip else cut


def replay_one(image: np.ndarray, region: np.ndarray, size: int) -> np.ndarray:
    """One view as `(size, size, 3)`."""
    pictures = replay(torch.from_numpy(image[None]), region[None], size)
    return pictures[0].permute(1, 2, 0).numpy()


@st.composite
def regions_of(
    draw_value: st.DrawFn, height: int, width: int, size: int | None = None
) -> np.ndarray:
    """Any region that reaches at most one image beyond each edge, square if `size` is given."""
    tall = size or draw_value(st.integers(1, 2 * height - 2))
    wide = size or draw_value(st.integers(1, 2 * width - 2))
    top = draw_value(st.integers(1 - height, 2 * height - 1 - tall))
    left = draw_value(st.integers(1 - width, 2 * width - 1 - wide))
    return np.array([top, left, tall, wide, draw_value(st.integers(0, 1))], dtype=np.int32)


@given(sample_ids, st.integers(0, 999), seeds, st.integers(0, 12), st.booleans(), st.randoms())
def test_a_view_depends_on_no_other_sample_and_on_no_order(
    ids: list[str], view: int, seed: int, padding: int, flip: bool, random: Random
) -> None:
    chosen = view_settings(padding, flip, seed)
    together = dict(zip(ids, draw(ids, view, chosen, (32, 32)).tolist(), strict=True))
    for sample in ids:
        assert draw([sample], view, chosen, (32, 32)).tolist() == [together[sample]]
    shuffled = list(ids)
    random.shuffle(shuffled)
    again = draw(shuffled, view, chosen, (32, 32)).tolist()
    assert again == [together[sample] for sample in shuffled]


def test_another_seed_sample_or_number_is_another_view() -> None:
    ids = [f"train/{i}" for i in range(50)]
    first = draw(ids, 1, view_settings(), (32, 32))
    assert not np.array_equal(first, draw(ids, 1, view_settings(seed=1), (32, 32)))
    assert not np.array_equal(first, draw(ids, 2, view_settings(), (32, 32)))
    assert len(np.unique(first, axis=0)) > 20, "samples must not share one view"


@given(sample_ids, seeds, st.integers(0, 12))
def test_view_0_is_the_plain_image(ids: list[str], seed: int, padding: int) -> None:
    regions = draw(ids, 0, view_settings(padding, True, seed), (24, 40))
    assert COLUMNS == ("top", "left", "height", "width", "flip")
    assert regions.tolist() == [[0, 0, 24, 40, 0]] * len(ids)
    image = noise(16, 16, 3)
    plain = draw(["a"], 0, view_settings(padding, True, seed), (16, 16))
    assert np.array_equal(replay_one(image, plain[0], 16), image)


@given(sample_ids, st.integers(1, 999), seeds, st.integers(0, 40))
def test_shifts_stay_within_the_padding_and_regions_keep_the_images_size(
    ids: list[str], view: int, seed: int, padding: int
) -> None:
    regions = draw(ids, view, view_settings(padding, True, seed), (48, 64))
    assert regions.dtype == np.int32
    assert np.abs(regions[:, :2]).max() <= padding
    assert (regions[:, 2:4] == (48, 64)).all()
    assert set(regions[:, 4].tolist()) <= {0, 1}


@given(sample_ids, st.integers(1, 999), seeds, st.integers(0, 40), st.booleans())
def test_views_are_those_that_numpys_own_generator_draws(
    ids: list[str], view: int, seed: int, padding: int, flip: bool
) -> None:
    regions = draw(ids, view, view_settings(padding, flip, seed), (32, 32))
    for sample, region in zip(ids, regions, strict=True):
        digest = hashlib.blake2b(sample.encode(), digest_size=8).digest()
        key = np.array([int.from_bytes(digest, "little"), (seed << 32) | view], dtype=np.uint64)
        generator = np.random.Generator(np.random.Philox(key=key))
        shifts = generator.integers(-padding, padding, size=2, endpoint=True)
        assert region.tolist() == [*shifts, 32, 32, flip and generator.integers(2)]


def test_every_shift_is_drawn_and_half_of_the_views_are_mirrored() -> None:
    ids = [f"train/{i}" for i in range(1000)]
    regions = draw(ids, 1, view_settings(padding=2), (32, 32))
    assert set(regions[:, 0].tolist()) == set(regions[:, 1].tolist()) == {-2, -1, 0, 1, 2}
    assert 400 < regions[:, 4].sum() < 600
    assert not draw(ids, 1, view_settings(flip=False), (32, 32))[:, 4].any()


@settings(deadline=None)
@given(st.data(), st.integers(8, 48), st.integers(8, 48), st.integers(0, 99))
def test_a_region_at_its_own_size_is_the_mirrored_image_sliced(
    data: st.DataObject, height: int, width: int, seed: int
) -> None:
    size = data.draw(st.integers(1, 2 * min(height, width) - 2))
    region = data.draw(regions_of(height, width, size))
    image = noise(height, width, 3, seed=seed)
    assert np.array_equal(replay_one(image, region, size), cut_by_hand(image, region))


@settings(deadline=None, max_examples=40)
@given(st.data(), st.integers(8, 40), st.integers(8, 40), st.integers(1, 6))
def test_a_batch_of_mixed_regions_is_replayed_as_one_by_one(
    data: st.DataObject, height: int, width: int, count: int
) -> None:
    size = data.draw(st.integers(4, 32))
    some_square = st.one_of(regions_of(height, width), regions_of(height, width, size=8))
    regions = np.stack([data.draw(some_square) for _ in range(count)])
    images = noise(count, height, width, 3)
    together = replay(torch.from_numpy(images), regions, size)
    assert together.shape == (count, 3, size, size)
    assert together.dtype == torch.uint8
    assert together.is_contiguous(memory_format=torch.channels_last)
    for picture, image, region in zip(together, images, regions, strict=True):
        assert np.array_equal(picture.permute(1, 2, 0).numpy(), replay_one(image, region, size))


@settings(deadline=None, max_examples=40)
@given(st.data(), st.integers(8, 48), st.integers(8, 48), st.integers(4, 64))
def test_a_region_at_another_size_is_the_cut_resampled(
    data: st.DataObject, height: int, width: int, size: int
) -> None:
    region = data.draw(regions_of(height, width))
    image = noise(height, width, 3)
    cut = torch.from_numpy(cut_by_hand(image, region).copy()).permute(2, 0, 1)
    expected = resize(cut, [size, size], InterpolationMode.BICUBIC, antialias=True)
    assert np.array_equal(replay_one(image, region, size), expected.permute(1, 2, 0).numpy())


def test_large_images_that_are_not_square_are_squeezed_whole() -> None:
    """Left half red, right half blue: both halves survive, none is cropped away."""
    image = np.zeros((60, 200, 3), dtype=np.uint8)
    image[:, :100, 0] = image[:, 100:, 2] = 255
    plain = draw(["a"], 0, view_settings(), (60, 200))[0]
    picture = replay_one(image, plain, 32)
    assert (picture[:, :14] == (255, 0, 0)).all()
    assert (picture[:, 18:] == (0, 0, 255)).all()
    mirrored = replay_one(image, plain + np.array([0, 0, 0, 0, 1], dtype=np.int32), 32)
    assert np.array_equal(mirrored, picture[:, ::-1])


@pytest.mark.parametrize(
    ("region", "is_sound"),
    [
        ((-8, -4, 9, 5, 0), True), ((-9, 0, 9, 5, 0), False), ((0, -5, 9, 5, 0), False),
        ((8, 4, 9, 5, 1), True), ((9, 4, 9, 5, 1), False), ((8, 5, 9, 5, 1), False),
        ((0, 0, 0, 5, 0), False), ((0, 0, 9, 5, 2), False),
    ],
)  # fmt: skip
def test_a_region_reaches_over_an_edge_by_less_than_the_image(
    region: tuple[int, ...], is_sound: bool
) -> None:
    regions = np.array([(0, 0, 9, 5, 0), region], dtype=np.int32)
    if is_sound:
        return check_regions(regions, (9, 5), "here")
    with pytest.raises(MenteeError, match="here shows regions that do not lie in images of 9 x 5"):
        check_regions(regions, (9, 5), "here")


def test_replay_leaves_the_stored_images_alone() -> None:
    images = torch.from_numpy(noise(4, 32, 32, 3))
    before = images.clone()
    regions = draw(["a", "b", "c", "d"], 1, view_settings(), (32, 32))
    replay(images, regions, 32).zero_()
    assert torch.equal(images, before)


def test_a_digest_is_blake2b_of_the_pixels_row_by_row() -> None:
    pictures = noise(2, 3, 5, 5)
    by_hand = [
        int.from_bytes(
            hashlib.blake2b(picture.transpose(1, 2, 0).tobytes(), digest_size=8).digest(), "little"
        )
        for picture in pictures
    ]
    assert pixel_digests(torch.from_numpy(pictures)).tolist() == by_hand


@given(st.integers(0, 3), st.integers(0, 2), st.integers(0, 7), st.integers(0, 7))
def test_one_changed_pixel_changes_the_digest_of_its_picture_only(
    row: int, channel: int, y: int, x: int
) -> None:
    pictures = torch.from_numpy(noise(4, 3, 8, 8))
    changed = pictures.clone()
    changed[row, channel, y, x] += 1
    differs = pixel_digests(pictures) != pixel_digests(changed)
    assert differs.tolist() == [number == row for number in range(4)]


def test_digests_do_not_depend_on_the_layout_in_memory() -> None:
    pictures = torch.from_numpy(noise(4, 3, 8, 8))
    channels_last = pictures.contiguous(memory_format=torch.channels_last)
    assert pictures.stride() != channels_last.stride()
    assert np.array_equal(pixel_digests(pictures), pixel_digests(channels_last))


def test_a_fresh_process_draws_and_replays_to_the_same_digests() -> None:
    code = """
import numpy as np, torch
from pipeline.blocks import Views
from pipeline.views import draw, pixel_digests, replay
images = np.random.default_rng(5).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
views = Views(labelled=9, unlabelled=9, padding=4, flip=True, seed=11)
regions = draw([f"train/{i}" for i in range(6)], 3, views, (32, 32))
print(*pixel_digests(replay(torch.from_numpy(images), regions, 48)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    images = torch.from_numpy(noise(6, 32, 32, 3, seed=5))
    ids = [f"train/{i}" for i in range(6)]
    regions = draw(ids, 3, view_settings(seed=11), (32, 32))
    here = pixel_digests(replay(images, regions, 48))
    assert [int(digest) for digest in done.stdout.split()] == here.tolist()
    assert len(set(here.tolist())) == 6
