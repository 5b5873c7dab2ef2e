"""A linear head on a frozen teacher's features."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression

from pipeline.metrics import score
from pipeline.progress import track

# In nats: the entropy of what is predicted, and how much of it the weights' uncertainty makes.
UNCERTAINTY = ("predictive_entropy", "mutual_information")


class Head(Protocol):
    """What answers from features: one linear head, or many whose softmaxes are averaged."""

    def predict(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Features `(n, C)` -> logits `(n, classes)` and UNCERTAINTY `(n, 2)`, float32."""

    def describe(self) -> dict[str, Any]:
        """What decides its answers, as a cache's spec and the metrics record it."""


AnyHead = TypeVar("AnyHead", bound=Head)


def entropy_of(logs: np.ndarray) -> np.ndarray:
    """Entropy in nats of distributions over the last axis, given as logs."""
    return -(np.exp(logs) * logs).sum(axis=-1)


def uncertainty_of_one(logits: np.ndarray) -> np.ndarray:
    """UNCERTAINTY `(n, 2)` of a single network's logits `(n, classes)`: it has no second part."""
    entropy = entropy_of(log_softmax(logits.astype(np.float64), axis=1))
    return np.stack([entropy, np.zeros_like(entropy)], axis=1).astype(np.float32)


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
        return self.standardise(features) @ self.weight.T + self.bias

    def predict(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Logits and UNCERTAINTY, whose second part is 0."""
        logits = self.logits(features)
        return logits, uncertainty_of_one(logits)

    def describe(self) -> dict[str, Any]:
        digest = hashlib.sha256(self.weight.tobytes() + self.bias.tobytes()).hexdigest()
        return {"inverse_regularisation": self.inverse_regularisation, "sha256": digest}

    def standardise(self, features: np.ndarray) -> np.ndarray:
        """`(n, C)` -> float32 `(n, C)`, shifted by `mean` and divided by `std`."""
        return (features.astype(np.float32) - self.mean) / self.std


def fit_heads(
    features: np.ndarray, labels: np.ndarray, mean: np.ndarray, std: np.ndarray,
    strengths: Sequence[float],
) -> list[LinearHead]:  # fmt: skip
    """Multinomial logistic regressions, one for each strength of the regularisation.

    features: `(n, C)`, labels: int `(n,)` in 0 .. classes - 1, each class present. mean, std:
    `(C,)`, by which the features are shifted and divided. strengths: scikit-learn's C, larger is
    freer.
    """
    inputs = (features.astype(np.float32) - mean) / std
    heads = []
    for strength in track(sorted(strengths), "fitting the head", len(strengths)):
        model = LogisticRegression(C=strength, max_iter=1000).fit(inputs, labels)
        weight, bias = _for_all_classes(model)
        heads.append(LinearHead(mean, std, weight, bias, strength))
    return heads


def common_scale(std: np.ndarray) -> np.ndarray:
    """One deviation for all channels, of each channel's own `(C,)`: the root of their mean square.

    Divided by its own, a channel that few images excite counts as much as any other. With one
    label a class the head of the default teacher was right about 21 % of CIFAR-10's test images
    so, and about 42 % with one scale; with ten about 74.2 and 75.0 %.
    """
    return np.full_like(std, np.sqrt(np.mean(np.square(std, dtype=np.float64))))


def choose_head(heads: Iterable[AnyHead], validation: np.ndarray, labels: np.ndarray) -> AnyHead:
    """The head under which validation, features `(n, C)` and labels `(n,)`, is likeliest."""
    return min(heads, key=lambda head: score(head.predict(validation)[0], labels)["nll"])


def _for_all_classes(model: LogisticRegression) -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn keeps one row for two classes; softmax needs one row a class."""
    weight, bias = model.coef_.astype(np.float32), model.intercept_.astype(np.float32)
    if len(weight) == 1:
        return np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    return weight, bias
