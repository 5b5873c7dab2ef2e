"""Corrupted images: by hand where there is a formula, against other libraries."""

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.fft import dctn
from sklearn.datasets import load_sample_image

from pipeline.corruptions import CORRUPTIONS, contrast, gaussian_blur, gaussian_noise, jpeg


def photographs(size: int = 32) -> np.ndarray:
    """uint8 `(20, size, size, 3)`, cut out of scikit-learn's photographs."""
    cut = []
    for name in ("china.jpg", "flower.jpg"):
        for number in range(10):
            part = Image.fromarray(load_sample_image(name)).crop(
                (60 * number, 40 * (number % 5), 60 * number + 96, 40 * (number % 5) + 96)
            )
            cut.append(np.asarray(part.resize((size, size), Image.Resampling.BICUBIC)))
    return np.stack(cut)


def change(images: np.ndarray, kind: str, strength: float) -> float:
    """Root mean square of what a corruption changes, of 255."""
    return distance(CORRUPTIONS[kind][0](images, strength), images)


def distance(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.sqrt(((one.astype(float) - other) ** 2).mean()))


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_five_strengths_change_images_more_and_more(kind: str) -> None:
    images = photographs()
    before = images.copy()
    corrupt, strengths = CORRUPTIONS[kind]
    changes = [change(images, kind, strength) for strength in strengths]
    assert len(set(changes)) == 5
    assert changes == sorted(changes)
    assert changes[0] > 1
    assert np.array_equal(images, before), "the stored images are not touched"
    result = corrupt(images, strengths[-1])
    assert (result.dtype, result.shape) == (np.uint8, images.shape)


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_an_image_is_corrupted_alike_alone_in_any_order_and_whatever_torch_drew(kind: str) -> None:
    images, (corrupt, strengths) = photographs(), CORRUPTIONS[kind]
    whole = corrupt(images, strengths[2])
    torch.manual_seed(1)
    np.random.seed(1)
    order = np.random.permutation(len(images))
    assert np.array_equal(corrupt(images[order], strengths[2]), whole[order])
    assert np.array_equal(corrupt(images[3:4], strengths[2]), whole[3:4])


def test_noise_has_the_deviation_it_says_and_differs_from_image_to_image() -> None:
    grey = np.full((4, 64, 64, 3), 128, dtype=np.uint8)
    grey[:, 0, 0, 0] = range(126, 130)  # else they are the same image
    noise = (gaussian_noise(grey, 0.08).astype(float) - grey).reshape(4, -1)
    assert noise.std() == pytest.approx(0.08 * 255, rel=0.02)
    assert abs(noise.mean()) < 0.5
    assert np.abs(np.corrcoef(noise) - np.eye(4)).max() < 0.05
    white = gaussian_noise(np.full((1, 32, 32, 3), 255, dtype=np.uint8), 0.1)
    assert 0.4 < (white == 255).mean() < 0.6, "beyond white is white"


def test_a_blur_spreads_a_point_as_the_normal_distribution() -> None:
    point = np.zeros((1, 33, 33, 3), dtype=np.uint8)
    point[0, 16, 16] = 255
    sigma = 1.0 * 33 / 32
    blurred = gaussian_blur(point, 1.0)[0, :, :, 0]
    down, across = np.mgrid[-16:17, -16:17]
    expected = np.exp(-(down**2 + across**2) / (2 * sigma**2))
    assert np.abs(blurred - 255 * expected / expected.sum()).max() <= 1


def test_larger_images_are_blurred_by_as_many_pixels_more() -> None:
    small = photographs()
    large = small.repeat(3, axis=1).repeat(3, axis=2)
    shrunk = gaussian_blur(large, 1.0).reshape(len(small), 32, 3, 32, 3, 3).mean((2, 4))
    assert distance(shrunk, gaussian_blur(small, 1.0)) < 2
    assert distance(shrunk, gaussian_blur(small, 0.7)) > 3, "so far apart are two strengths"


def test_contrast_keeps_the_mean_of_every_channel_and_a_share_of_the_rest() -> None:
    images = photographs()
    changed = contrast(images, 0.4).astype(float)
    for channel in range(3):
        before, after = images[..., channel].astype(float), changed[..., channel]
        assert after.mean((1, 2)) == pytest.approx(before.mean((1, 2)), abs=0.3)
        assert after.std((1, 2)) == pytest.approx(0.4 * before.std((1, 2)), rel=0.02, abs=0.3)


def test_jpeg_rounds_frequencies_to_the_steps_of_the_standard() -> None:
    grey = photographs()[..., :1].repeat(3, axis=-1)
    blocks = jpeg(grey, 50)[..., 0].astype(float).reshape(-1, 4, 8, 4, 8).swapaxes(2, 3)
    frequencies = dctn(blocks - 128, axes=(3, 4), norm="ortho")
    inside = ((blocks > 0) & (blocks < 255)).all((3, 4))  # else values were cut
    for place, step in (((0, 0), 16), ((0, 1), 11), ((1, 0), 12), ((7, 7), 99)):
        found = frequencies[(..., *place)][inside]
        assert np.abs(found - step * np.round(found / step)).max() < 2, "pixels are rounded too"
