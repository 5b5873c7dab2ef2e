"""The report's pictures of what networks do beyond their task."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from pipeline.pictures import beyond
from pipeline.pictures.style import Look


def test_every_line_of_the_corrupted_images_fits_into_its_axes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The second corruption costs nothing, where the first one does."""
    drawn: list[Figure] = []
    monkeypatch.setattr(beyond, "svg", drawn.append)
    falling = {"gaussian_noise": [0.6, 0.2], "gaussian_blur": [0.6, 0.9], "contrast": [0.6, 0.1]}
    series = {name: {"led": np.array([values])} for name, values in falling.items()}
    beyond.corrupted(series, {"led": Look("#0072b2")})
    for axes in drawn[0].axes:
        low, high = axes.get_ylim()
        assert low == 0
        assert 90 < high < 100
