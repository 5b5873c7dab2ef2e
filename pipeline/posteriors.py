"""What a linear head does not know: samples from the posterior of its weights.

Averaging the answers of many heads that the labels allow gives softer targets where labels are few
(Korattikara et al., "Bayesian dark knowledge", 2015). All on cached features, at no teacher cost.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import log_softmax, logsumexp, softmax

from pipeline.heads import LinearHead, entropy_of

ROWS = 1024  # of features at a time, so that the logits of all samples stay small
STEP = 0.2  # of the largest that is stable
BATCH_SIZE = 500
BURN_IN, THINNING = 500, 10  # steps before the first sample, and between two


@dataclass(frozen=True)
class SampledHeads:
    """Samples of the head that `point` is the most likely one of; weights `(s, classes, C + 1)`.

    The last column of the weights is the bias; features are standardised as `point` does.
    """

    point: LinearHead
    weights: np.ndarray
    temperature: float

    def predict(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The logs of the mean softmax, as logits; its entropy, and the mutual information of
        answer and weights, which is the part of the entropy that more labels would take away.
        """
        parts = [self._predict(features[at : at + ROWS]) for at in range(0, len(features), ROWS)]
        means, uncertainty = zip(*parts, strict=True)
        return np.concatenate(means), np.concatenate(uncertainty)

    def describe(self) -> dict[str, Any]:
        digest = hashlib.sha256(self.weights.tobytes()).hexdigest()
        return {
            "inverse_regularisation": self.point.inverse_regularisation,
            "self_training": self.point.self_training,
            "temperature": self.temperature, "samples": len(self.weights), "sha256": digest,
        }  # fmt: skip

    def _predict(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        inputs = with_bias(self.point.standardise(features))
        samples, classes, columns = self.weights.shape
        logits = inputs @ self.weights.reshape(samples * classes, columns).T
        logs = log_softmax(logits.reshape(-1, samples, classes).astype(np.float64), axis=2)
        mean = logsumexp(logs, axis=1) - np.log(samples)
        entropy = entropy_of(mean)
        information = entropy - entropy_of(logs).mean(axis=1)
        uncertainty = np.stack([entropy, information], axis=1).clip(0)
        return mean.astype(np.float32), uncertainty.astype(np.float32)


def precision_of(head: LinearHead) -> float:
    """Of the Gaussian prior over each weight under which the head is the most likely one.

    scikit-learn has one row w for two classes, of which the head makes w / 2 and -w / 2: half of
    the square, for which the penalty is doubled.
    """
    return (2 if len(head.weight) == 2 else 1) / head.inverse_regularisation


def with_bias(inputs: np.ndarray) -> np.ndarray:
    """`(n, C)` -> `(n, C + 1)`, the last column all ones: what a bias is multiplied by."""
    return np.concatenate([inputs, np.ones((len(inputs), 1), inputs.dtype)], axis=1)


def laplace(
    heads: list[LinearHead], inputs: np.ndarray, temperatures: list[float], samples: int, seed: int
) -> Iterator[SampledHeads]:
    """A Gaussian around each head, at each temperature, as wide as the curvature there says.

    inputs: standardised, `(n, C)`. The Hessian of the loss is taken as a Kronecker product, the
    mean of diag(p) - p p^T over samples times the sum of x x^T, and the prior's precision is added
    (Ritter et al., "A scalable Laplace approximation for neural networks", 2018), to biases too,
    which would have no bound otherwise. A temperature below 1 makes the posterior narrower.
    """
    inputs = with_bias(inputs.astype(np.float64))
    across, along = np.linalg.eigh(inputs.T @ inputs)
    for head in heads:
        weights = np.concatenate([head.weight, head.bias[:, None]], axis=1).astype(np.float64)
        p = softmax(inputs @ weights.T, axis=1)
        between, directions = np.linalg.eigh(np.diag(p.mean(0)) - p.T @ p / len(p))
        curvature = np.outer(between.clip(0), across.clip(0)) + precision_of(head)
        drawn = np.random.default_rng(seed).standard_normal((samples, *weights.shape))
        offsets = directions @ (drawn / np.sqrt(curvature)) @ along.T
        for temperature in temperatures:
            sampled = weights + np.sqrt(temperature) * offsets
            yield SampledHeads(head, sampled.astype(np.float32), temperature)


def langevin(
    heads: list[LinearHead], inputs: np.ndarray, labels: np.ndarray, temperatures: list[float],
    samples: int, seed: int,
) -> Iterator[SampledHeads]:  # fmt: skip
    """A walk from each head, at each temperature: gradient steps on some samples, plus noise.

    inputs: standardised, `(n, C)`. Stochastic-gradient Langevin dynamics with a constant step
    (Welling and Teh, 2011; Korattikara et al., 2015). The prior is around 0, of biases, which are
    fitted without one, around the head's own.
    """
    inputs = with_bias(inputs.astype(np.float32))
    # Of a class's logit the second derivative is p (1 - p), 1/4 at most.
    steepest = np.linalg.eigvalsh(inputs.T.astype(np.float64) @ inputs)[-1] / 4
    for head in heads:
        start = np.concatenate([head.weight, head.bias[:, None]], axis=1)
        centre = np.concatenate([np.zeros_like(head.weight), head.bias[:, None]], axis=1)
        precision = precision_of(head)
        step = np.float32(STEP / (steepest + precision))
        for temperature in temperatures:
            walk = _walk(start, centre, inputs, labels, precision, step, temperature, seed)
            weights = np.stack([next(walk) for _ in range(samples)])
            yield SampledHeads(head, weights, temperature)


def _walk(
    weights: np.ndarray, centre: np.ndarray, inputs: np.ndarray, labels: np.ndarray,
    precision: float, step: np.float32, temperature: float, seed: int,
) -> Iterator[np.ndarray]:  # fmt: skip
    generator = np.random.default_rng(seed)
    noise = np.float32(np.sqrt(2 * step * temperature))
    size = min(BATCH_SIZE, len(inputs))
    wait = BURN_IN
    while True:
        for _ in range(wait):
            chosen = generator.integers(len(inputs), size=size)
            rows = inputs[chosen]
            error = softmax(rows @ weights.T, axis=1)
            error[np.arange(size), labels[chosen]] -= 1
            gradient = (len(inputs) / size) * (error.T @ rows) + precision * (weights - centre)
            kick = generator.standard_normal(weights.shape, dtype=np.float32)
            weights = weights - step * gradient + noise * kick
        yield weights
        wait = THINNING
