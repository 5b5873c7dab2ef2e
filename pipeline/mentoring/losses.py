"""Distances between soft targets: the student's and the teacher's logits in, a number out.

All take the logits `(n, classes)`, the temperature T, and the labels, int64 `(m,)`, of the first
m <= n samples; most need no labels.
"""

from collections.abc import Callable
from math import log

import torch
import torch.nn.functional as F

from pipeline.mentoring.distances import half_square, rmse, unit


def kl_soft_targets(
    student: torch.Tensor, teacher: torch.Tensor, temperature: float, labels: torch.Tensor
) -> torch.Tensor:
    """T^2 * KL(softmax(teacher / T) || softmax(student / T)), averaged over samples.

    T^2 keeps the gradient's size as T changes. Hinton, Vinyals and Dean, "Distilling the knowledge
    in a neural network", 2015, section 2.
    """
    return temperature**2 * divergences(student / temperature, teacher / temperature).mean()


def kl_by_certainty(
    student: torch.Tensor, teacher: torch.Tensor, temperature: float, labels: torch.Tensor
) -> torch.Tensor:
    """`kl` with each sample weighed by 1 - H / log(classes), weights that average to 1.

    H is the entropy of the teacher's softmax at temperature 1, of a posterior's mean answer its
    predictive entropy: views of which the teacher knows nothing have no say.
    """
    log_teacher = F.log_softmax(teacher, dim=1)
    entropy = -(log_teacher.exp() * log_teacher).sum(1)
    certainty = (1 - entropy / log(teacher.shape[1])).clamp_min(0)
    weights = certainty / certainty.mean().clamp_min(1e-6)
    apart = divergences(student / temperature, teacher / temperature)
    return temperature**2 * (weights * apart).mean()


def rmse_soft_targets(
    student: torch.Tensor, teacher: torch.Tensor, temperature: float, labels: torch.Tensor
) -> torch.Tensor:
    """Root of the mean squared difference of the softmaxes at temperature T.

    The mean is over samples and classes. Venkatesan and Li, 2016.
    """
    return rmse(F.softmax(student / temperature, dim=1), F.softmax(teacher / temperature, dim=1))


def dkd(
    student: torch.Tensor, teacher: torch.Tensor, temperature: float, labels: torch.Tensor
) -> torch.Tensor:
    """T^2 * (KL(b_t || b_s) + 8 * KL(o_t || o_s)), averaged over samples.

    b: the probabilities of the target class and of all others together; o: those of the others
    among themselves. In `kl` the second weighs 1 - b_t only, next to nothing where the teacher is
    sure. The target is the label, or the teacher's first choice where there is none. Zhao et al.,
    "Decoupled knowledge distillation", 2022, with alpha 1 and beta 8.
    """
    target = torch.cat([labels, teacher[len(labels) :].argmax(1)])[:, None]
    classes = torch.arange(student.shape[1] - 1, device=student.device)
    others = classes + (classes >= target)  # every class but the target, `(n, classes - 1)`

    def decoupled(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits of both distributions. The authors mask by -1000, which larger logits defeat."""
        rest = logits.gather(1, others)
        return torch.cat([logits.gather(1, target), rest.logsumexp(1, keepdim=True)], 1), rest

    student_pair, student_rest = decoupled(student / temperature)
    teacher_pair, teacher_rest = decoupled(teacher / temperature)
    apart = divergences(student_pair, teacher_pair) + 8 * divergences(student_rest, teacher_rest)
    return temperature**2 * apart.mean()


def dist(
    student: torch.Tensor, teacher: torch.Tensor, temperature: float, labels: torch.Tensor
) -> torch.Tensor:
    """T^2 * (mean(1 - r(rows)) + mean(1 - r(columns))), r Pearson's correlation of softmaxes.

    Rows are the classes of a sample, columns the samples of a class, both at temperature T: what
    rises and falls with the teacher is right, whatever its scale. Huang et al., "Knowledge
    distillation from a stronger teacher", 2022, with both weights 1; T^2 is the authors' code's.
    """
    # In float64, so that a class of one probability in all samples leaves no noise to correlate.
    student = F.softmax(student.double() / temperature, dim=1)
    teacher = F.softmax(teacher.double() / temperature, dim=1)
    apart = uncorrelated(student, teacher) + uncorrelated(student.T, teacher.T)
    return (temperature**2 * apart).float()


def divergences(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """KL(softmax(teacher) || softmax(student)) of each sample, `(n,)`.

    In float64: of large terms that nearly cancel, float32 leaves four digits once a student answers
    much like its teacher.
    """
    log_student = F.log_softmax(student.double(), dim=1)
    log_teacher = F.log_softmax(teacher.double(), dim=1)
    return (log_teacher.exp() * (log_teacher - log_student)).sum(1).float()


def uncorrelated(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """1 - Pearson's correlation of each row, averaged."""
    student, teacher = (unit(x - x.mean(1, keepdim=True), 1) for x in (student, teacher))
    return half_square(student, teacher, 1).mean()


SOFT_TARGET_DISTANCES: dict[str, Callable[..., torch.Tensor]] = {
    "kl": kl_soft_targets,
    "kl_by_certainty": kl_by_certainty,
    "rmse": rmse_soft_targets,
    "dkd": dkd,
    "dist": dist,
}
