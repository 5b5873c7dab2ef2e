"""A linear head on a frozen teacher's features."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.linear_model import LogisticRegression

from pipeline.metrics import score
from pipeline.progress import track


@dataclass(frozen=True)
class LinearHead:
    """logits = (features - mean) / std @ weight.T + bias; weight `(classes, C)`."""

    mean: np.ndarray
    std: np.ndarray
    weight: np.ndarray
    bias: np.ndarray
    inverse_regularisation: float

    def logits(self, features: np.ndarray) -> np.ndarray:
        """`(n, C)` -> float32 `(n, classes)`."""
        standardised = (features.astype(np.float32) - self.mean) / self.std
        return standardised @ self.weight.T + self.bias


def fit_head(
    features: np.ndarray, labels: np.ndarray, validation: np.ndarray,
    validation_labels: np.ndarray, mean: np.ndarray, std: np.ndarray, strengths: Sequence[float],
) -> LinearHead:  # fmt: skip
    """Multinomial logistic regression; validation's likelihood chooses the regularisation.

    features: `(n, C)`, labels: int `(n,)` in 0 .. classes - 1, each class present; validation the
    same, for choosing only. mean, std: `(C,)`, what the features are standardised by. strengths:
    scikit-learn's C, larger is freer.
    """
    inputs = (features.astype(np.float32) - mean) / std
    heads = []
    for strength in track(sorted(strengths), "fitting the head", len(strengths)):
        model = LogisticRegression(C=strength, max_iter=1000).fit(inputs, labels)
        weight, bias = _for_all_classes(model)
        heads.append(LinearHead(mean, std, weight, bias, strength))
    return min(heads, key=lambda head: score(head.logits(validation), validation_labels)["nll"])


def _for_all_classes(model: LogisticRegression) -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn keeps one row for two classes; softmax needs one row a class."""
    weight, bias = model.coef_.astype(np.float32), model.intercept_.astype(np.float32)
    if len(weight) == 1:
        return np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    return weight, bias
