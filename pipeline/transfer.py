"""How well features serve another data set: linear heads on them, the network left as it is."""

import numpy as np

from pipeline.heads import choose_head, fit_heads

# scikit-learn's C. Wider than head.inverse_regularisation: here are 32 channels of 100 images, and
# 1,280 of thousands.
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
HELD_OUT = 5  # of a class's drawn images every fifth chooses the strength


def drawn_rows(labels: np.ndarray, per_class: int | None, draw: int) -> np.ndarray:
    """Which images of a target are drawn: rows in random order, so many a class or all.

    They depend on the labels `(n,)` and the number of the draw alone, so that every network is
    tried on the same images. With more a class, those of fewer are among them.
    """
    order = np.random.default_rng(draw).permutation(len(labels))
    if per_class is None:
        return order
    return order[_number_in_class(labels[order]) < per_class]


def head_accuracy(
    features: np.ndarray, labels: np.ndarray, test: np.ndarray, test_labels: np.ndarray
) -> float:
    """The share of test images that a head on these features is right about, 0 .. 1.

    features: `(n, C)`, labels: int `(n,)`, of what was drawn; test and test_labels likewise. Of the
    drawn images some choose the regularisation, and then all are fitted; the test images choose
    nothing, nor do they standardise.
    """
    mean, std = features.mean(0, dtype=np.float64), features.std(0, dtype=np.float64)
    std[std <= 1e-6 * np.abs(mean)] = 1  # a channel that never moves
    mean, std = mean.astype(np.float32), std.astype(np.float32)
    number = _number_in_class(labels)
    held_out = number % HELD_OUT == 1  # from the second on: of every class one is fitted on
    strength = STRENGTHS[len(STRENGTHS) // 2]
    if held_out.any():
        tried = fit_heads(features[~held_out], labels[~held_out], mean, std, STRENGTHS)
        chosen = choose_head(tried, features[held_out], labels[held_out])
        strength = chosen.inverse_regularisation
    (head,) = fit_heads(features, labels, mean, std, [strength])
    return float((head.logits(test).argmax(1) == test_labels).mean())


def _number_in_class(labels: np.ndarray) -> np.ndarray:
    """How many of its class stand before each image: int `(n,)` for labels `(n,)`."""
    numbers = np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        numbers[rows] = np.arange(len(rows))
    return numbers
