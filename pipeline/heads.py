"""A linear head on a frozen teacher's features."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

import numpy as np
from scipy.special import log_softmax, softmax
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from pipeline.metrics import score
from pipeline.progress import track

# In nats: the entropy of what is predicted, and how much of it the weights' uncertainty makes.
UNCERTAINTY = ("predictive_entropy", "mutual_information")
SURE = 0.6  # of a class's even share of the unlabelled images: whose answers are taken for labels


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
    self_training: int = 0  # rounds in which it was fitted on its own answers too

    def logits(self, features: np.ndarray) -> np.ndarray:
        """`(n, C)` -> float32 `(n, classes)`."""
        return self.standardise(features) @ self.weight.T + self.bias

    def predict(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Logits and UNCERTAINTY, whose second part is 0."""
        logits = self.logits(features)
        return logits, uncertainty_of_one(logits)

    def describe(self) -> dict[str, Any]:
        digest = hashlib.sha256(self.weight.tobytes() + self.bias.tobytes()).hexdigest()
        return {
            "inverse_regularisation": self.inverse_regularisation,
            "self_training": self.self_training,
            "sha256": digest,
        }

    def standardise(self, features: np.ndarray) -> np.ndarray:
        """`(n, C)` -> float32 `(n, C)`, shifted by `mean` and divided by `std`."""
        return (features.astype(np.float32) - self.mean) / self.std


def fit_heads(
    features: np.ndarray, labels: np.ndarray, mean: np.ndarray, std: np.ndarray,
    strengths: Sequence[float],
) -> list[LinearHead]:  # fmt: skip
    """Logistic regressions, multinomial or of two classes, one for each regularisation.

    features: `(n, C)`, labels: int `(n,)` in 0 .. classes - 1, each class present. mean, std:
    `(C,)`, by which the features are shifted and divided. strengths: scikit-learn's C, larger is
    freer; biases are free.
    """
    inputs = (features.astype(np.float32) - mean) / std
    heads = []
    for strength in track(sorted(strengths), "fitting the head", len(strengths)):
        # Its steps are many and small: two threads took 2 to 18 times as long as one.
        with threadpool_limits(1, user_api="blas"):
            model = LogisticRegression(C=strength, max_iter=1000).fit(inputs, labels)
        weight, bias = _for_all_classes(model)
        heads.append(LinearHead(mean, std, weight, bias, strength))
    return heads


def self_train(
    heads: list[LinearHead], features: np.ndarray, labels: np.ndarray, unlabelled: np.ndarray,
    rounds: int, validation: np.ndarray, validation_labels: np.ndarray,
) -> tuple[list[LinearHead], np.ndarray, np.ndarray]:  # fmt: skip
    """Heads that were fitted on their own surest answers too, and the features and labels of that.

    In each round all heads are fitted anew, on `features` `(n, C)` and `labels` `(n,)` and on those
    rows of `unlabelled` `(m, C)` that the best head so far is surest about, with its answers as
    labels: pseudo-labels (Lee, 2013), at most SURE * m / classes of a class, so that a usual answer
    does not become more usual still (Zou et al., 2018). The best head is that under which
    validation, `(v, C)` and `(v,)`, is likeliest; it ends with the round that makes it no likelier.
    """

    def loss(head: LinearHead) -> float:
        return score(head.logits(validation), validation_labels)["nll"]

    kept = heads, features, labels
    best = choose_head(heads, validation, validation_labels)
    for number in range(1, rounds + 1):
        rows, answers = surest(best, unlabelled)
        seen, told = np.concatenate([features, unlabelled[rows]]), np.concatenate([labels, answers])
        strengths = [head.inverse_regularisation for head in heads]
        again = [
            replace(head, self_training=number)
            for head in fit_heads(seen, told, best.mean, best.std, strengths)
        ]
        rival = choose_head(again, validation, validation_labels)
        if loss(rival) >= loss(best):
            break
        kept, best = (again, seen, told), rival
    return kept


def surest(head: LinearHead, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of `features` `(m, C)`, at most SURE * m / classes of a class, and what it says."""
    shares = softmax(head.logits(features), axis=1)
    answers, sure = shares.argmax(1), shares.max(1)
    most = int(SURE * len(features) / shares.shape[1])
    rows = [
        own[np.argsort(-sure[own], kind="stable")[:most]]
        for own in (np.flatnonzero(answers == label) for label in range(shares.shape[1]))
    ]
    chosen = np.concatenate(rows)
    return chosen, answers[chosen]


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
