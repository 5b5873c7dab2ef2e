"""How good answers are: accuracy, negative log-likelihood and calibration."""

import numpy as np
from scipy.special import log_softmax

CALIBRATION_BINS = 15


def score(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Scores of logits `(n, classes)` against labels int `(n,)`.

    accuracy: share of right answers, 0..1; nll: mean negative log-likelihood in nats; brier: mean
    squared distance of the probabilities from the true class's, 0..2 (Brier, "Verification of
    forecasts expressed in terms of probability", 1950); ece: expected calibration error, 0..1, over
    15 bins of equal width (Guo et al., "On calibration of modern neural networks", 2017).
    """
    log_probabilities = log_softmax(logits.astype(np.float64), axis=1)
    rows = np.arange(len(labels))
    apart = np.exp(log_probabilities)
    apart[rows, labels] -= 1
    return {
        "accuracy": float((logits.argmax(axis=1) == labels).mean()),
        "nll": float(-log_probabilities[rows, labels].mean()),
        "brier": float(np.square(apart).sum(axis=1).mean()),
        "ece": calibration_error(*confidence_and_right(logits, labels)),
    }


def confidence_and_right(logits: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The probability of each answer, and whether it is right; both `(n,)`."""
    log_probabilities = log_softmax(logits.astype(np.float64), axis=1)
    return np.exp(log_probabilities.max(axis=1)), logits.argmax(axis=1) == labels


def calibration_error(confidence: np.ndarray, right: np.ndarray) -> float:
    """Mean over samples of |accuracy - mean confidence| of the sample's bin."""
    size, confident, rightly = _by_bin(confidence, right)
    return float(np.abs(rightly - confident).sum() / size.sum())


def reliability(confidence: np.ndarray, right: np.ndarray) -> dict[str, list[float | None]]:
    """Of every bin the mean confidence, the accuracy, both None if it is empty, and the count."""
    sizes, confident, rightly = (part.tolist() for part in _by_bin(confidence, right))

    def means(sums: list[float]) -> list[float | None]:
        return [total / size if size else None for total, size in zip(sums, sizes, strict=True)]

    return {"confidence": means(confident), "accuracy": means(rightly), "count": sizes}


def _by_bin(confidence: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Samples, summed confidence and right answers of each bin; a bin owns its upper edge."""
    places = np.ceil(confidence * CALIBRATION_BINS) - 1
    # NumPy writes outside of its counts where a number that is none becomes a bin.
    bins = np.nan_to_num(places).clip(0, CALIBRATION_BINS - 1).astype(int)
    weights = (None, confidence, right)
    size, confident, rightly = (
        np.bincount(bins, weight, minlength=CALIBRATION_BINS) for weight in weights
    )
    return size, confident, rightly
