"""How much a student is like its teacher: in what it answers, and in what its features tell."""

import numpy as np
import torch
from scipy.special import log_softmax, softmax


def agreement(student: np.ndarray, teacher: np.ndarray) -> float:
    """The share of samples to which both give the same answer; logits `(n, classes)` of each."""
    return float((student.argmax(axis=1) == teacher.argmax(axis=1)).mean())


def divergence(student: np.ndarray, teacher: np.ndarray) -> float:
    """Mean of KL(teacher || student) over samples, in nats; logits `(n, classes)` of each."""
    student, teacher = student.astype(np.float64), teacher.astype(np.float64)
    apart = log_softmax(teacher, axis=1) - log_softmax(student, axis=1)
    return float((softmax(teacher, axis=1) * apart).sum(axis=1).mean())


def gram(features: torch.Tensor) -> torch.Tensor:
    """Products of every two samples' centred features `(n, ...)`, the diagonal 0: `(n, n)`."""
    rows = features.flatten(1).double()
    rows -= rows.mean(0)
    products = rows @ rows.T
    return products.fill_diagonal_(0)


def cka(first: torch.Tensor, second: torch.Tensor) -> float:
    """Linear CKA of two networks' features on the same n > 3 samples, by their `gram` `(n, n)`.

    1 where the ones are the others, rotated and scaled; about 0 where they have nothing in common,
    however many features there are: what is divided is the unbiased estimate of the
    Hilbert-Schmidt independence criterion. Kornblith et al., "Similarity of neural network
    representations revisited", 2019; Nguyen, Raghu and Kornblith, "Do wide and deep networks learn
    the same things?", 2021, equation 3.
    """
    own = independence(first, first) * independence(second, second)
    return float(independence(first, second) / own**0.5) if own > 0 else 0.0


def independence(first: torch.Tensor, second: torch.Tensor) -> float:
    """HSIC_1 of Song et al., "Feature selection via dependence maximization", 2012, equation 5."""
    count = len(first)
    products = (first * second).sum()
    means = first.sum() * second.sum() / ((count - 1) * (count - 2))
    rows = 2 * (first.sum(0) @ second.sum(0)) / (count - 2)
    return float((products + means - rows) / (count * (count - 3)))
