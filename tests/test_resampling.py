"""Resampling gives the same pixels on every device: those of torch's uint8 kernel, and Pillow's."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.resampling import _weights, resample, resample_in_integers


def kernel(pictures: torch.Tensor, size: int) -> torch.Tensor:
    return F.interpolate(pictures, [size, size], mode="bicubic", antialias=True)


def noise(height: int, width: int, seed: int = 0) -> torch.Tensor:
    """Two pictures: of any values, and of 0 and 255 alone, whose neighbours overshoot."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(256, (3, height, width), generator=generator, dtype=torch.uint8)
    return torch.stack([values, (values > 127) * torch.tensor(255, dtype=torch.uint8)])


@settings(deadline=None, max_examples=200)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(2, 90), st.integers(0, 2**32 - 1))
def test_in_integers_all_pixels_are_those_of_the_kernel(
    height: int, width: int, size: int, seed: int
) -> None:
    pictures = noise(height, width, seed)
    assert torch.equal(resample_in_integers(pictures, size), kernel(pictures, size))


@pytest.mark.parametrize("old", [(32, 32), (500, 375), (1080, 1920), (224, 224)])
@pytest.mark.parametrize("size", [32, 128, 224])
def test_so_they_are_at_the_sizes_of_photographs(old: tuple[int, int], size: int) -> None:
    pictures = noise(*old).contiguous(memory_format=torch.channels_last)
    assert torch.equal(resample_in_integers(pictures, size), kernel(pictures, size))


@pytest.mark.parametrize("old", [20, 250, 1300, 4000])
def test_where_many_pixels_become_one_sums_are_exact_too(old: int) -> None:
    pictures = noise(old, 20)
    assert torch.equal(resample_in_integers(pictures, 4), kernel(pictures, 4))
    parts, _ = _weights(old, 4, torch.device("cpu"))
    largest_sum = parts.double().abs().sum(0).max() * 255
    assert largest_sum < {torch.float32: 2**24, torch.float64: 2**53}[parts.dtype]


def test_autocast_rounds_nothing() -> None:
    pictures = noise(40, 50)
    with torch.autocast("cpu", torch.bfloat16):
        made = resample_in_integers(pictures, 32)
    assert torch.equal(made, kernel(pictures, 32))


def test_pillow_makes_the_same_picture() -> None:
    picture = noise(45, 61)[:1]
    image = Image.fromarray(picture[0].permute(1, 2, 0).numpy())
    expected = np.asarray(image.resize((32, 32), Image.Resampling.BICUBIC)).astype(int)
    made = resample_in_integers(picture, 32)[0].permute(1, 2, 0).numpy()
    assert np.abs(made - expected).max() <= 1, "its weights have other bits"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("size", [16, 128])
def test_a_gpu_makes_the_pixels_of_a_cpu(size: int) -> None:
    pictures = noise(32, 40)
    assert torch.equal(resample(pictures.cuda(), size).cpu(), resample(pictures, size))
