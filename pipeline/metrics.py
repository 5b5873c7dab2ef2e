"""How good answers are: accuracy, negative log-likelihood and calibration."""

import numpy as np
from scipy.special import log_softmax

CALIBRATION_BINS = 15


def score(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Scores of logits `(n, classes)` against labels int `(n,)`.

    accuracy: share of right answers, 0..1; nll: mean negative log-likelihood in nats; ece:
    expected calibration error, 0..1, over 15 bins of equal width (Guo et al., "On calibration of
    modern neural networks", 2017).
    """
    log_probabilities = log_softmax(logits.astype(np.float64), axis=1)
    right = logits.argmax(axis=1) == labels
    nll = -log_probabilities[np.arange(len(labels)), labels].mean()
    confidence = np.exp(log_probabilities.max(axis=1))
    return {
        "accuracy": float(right.mean()),
        "nll": float(nll),
        "ece": calibration_error(confidence, right),
    }


def calibration_error(confidence: np.ndarray, right: np.ndarray) -> float:
    """Mean over samples of |accuracy - mean confidence| of the sample's bin."""
    bins = np.clip(np.ceil(confidence * CALIBRATION_BINS).astype(int) - 1, 0, None)
    size = np.bincount(bins, minlength=CALIBRATION_BINS)
    gap = np.bincount(bins, right - confidence, minlength=CALIBRATION_BINS)
    return float(np.abs(gap).sum() / size.sum())
