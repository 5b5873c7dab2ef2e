"""Distances between features: student's and teacher's tensors in, a number out.

Features are float32, `(n, C)` or `(n, C, h, w)`. A distance that compares channels needs both sides
in one shape, one that compares places the same h x w. The others compare samples, with one another
or with negatives: they flatten a sample to one vector, and the two sides may have any shapes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import nn

# Channels


def rmse(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """sqrt(mean((s - t)^2)), the mean over everything. Venkatesan and Li, 2016.

    At least 1e-6, since the root's gradient grows without end towards 0.
    """
    # As a norm: on a CPU it takes two thirds of the time of the root of mse_loss.
    return (torch.linalg.vector_norm(student - teacher) / student.numel() ** 0.5).clamp_min(1e-6)


def mse(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """mean((s - t)^2). Romero et al., "FitNets: hints for thin deep nets", 2015.

    The paper has half of the sum; the mean depends on neither batch nor shape.
    """
    return F.mse_loss(student, teacher)


def l1(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """mean(|s - t|): one far value counts for less than in `mse`."""
    return F.l1_loss(student, teacher)


def cosine(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """mean(1 - cos(s, t)) of the channels as vectors, the mean over samples and places."""
    return half_square(unit(student, 1), unit(teacher, 1), 1).mean()


class VID(nn.Module):
    """mean(log(v_c) / 2 + (s - t)^2 / (2 v_c)), v_c = softplus(r_c) + 1e-5: a variance per channel.

    A Gaussian's negative log-likelihood of the teacher's features, without its constant: channels
    that the student cannot tell learn a large variance and count for little. It may be negative.
    Its mean is the student's matched features. Ahn et al., "Variational information distillation
    for knowledge transfer", 2019; the paper sums. v starts at 1, the variance of
    standardised features; the authors' code starts at 5.
    """

    smallest = 1e-5

    def __init__(self, channels: int):
        super().__init__()
        start = torch.tensor(1 - self.smallest).expm1().log()  # whose softplus is 1 - smallest
        self.raw = nn.Parameter(start.repeat(channels))

    def forward(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        variance = F.softplus(self.raw) + self.smallest
        variance = variance.view(-1, *[1] * (student.dim() - 2))
        return (variance.log() + (student - teacher).square() / variance).mean() / 2


# Places


def attention_transfer(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """mean((a_s - a_t)^2), a = q / |q|, q = the mean over channels of x^2, flattened `(n, h w)`.

    Where a network looks, whatever it sees there. Zagoruyko and Komodakis, "Paying more attention
    to attention", 2017, as in their code; equation 2 has the norm of a_s - a_t without its square.
    The mean is over n h w squares of unit vectors, at most 2 / (h w): it needs a large weight.
    """
    return (attention(student) - attention(teacher)).square().mean()


def attention(features: torch.Tensor) -> torch.Tensor:
    return unit(features.square().mean(1).flatten(1), 1)


# Samples


def similarity(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """|G_s - G_t|^2 / n^2, G = the rows of x x^T `(n, n)` at unit length.

    Samples that are alike to the teacher shall be alike to the student. Tung and Mori,
    "Similarity-preserving knowledge distillation", 2019. (torchdistill 1.1.4 divides the rows by
    their sums of absolute values, where the paper has Euclidean norms.)
    """
    return (similarities(student) - similarities(teacher)).square().mean()


def similarities(features: torch.Tensor) -> torch.Tensor:
    rows = features.flatten(1)
    return unit(rows @ rows.T, 1)


def rkd_distance(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """mean of smooth_l1(d_s, d_t), d_ij = |x_i - x_j| over the mean of those distances above 0.

    Park et al., "Relational knowledge distillation", 2019. The paper sums over
    pairs; as in the authors' code this is the mean over all n^2, a sample with itself included.
    """
    pairs = F.smooth_l1_loss(
        relative_distances(student), relative_distances(teacher), reduction="sum"
    )
    return 2 * pairs / len(student) ** 2


def relative_distances(features: torch.Tensor) -> torch.Tensor:
    """|x_i - x_j| for i < j over the mean of those above 0, `(n (n - 1) / 2,)`; zeros if none is.

    From differences: the shorter way through inner products cancels in float32.
    """
    distances = F.pdist(features.flatten(1))
    total = distances.sum()
    return distances * ((distances > 0).sum() / total.where(total > 0, torch.inf))


def rkd_angle(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """mean over j, i, k of smooth_l1(cos_s, cos_t), cos = that of the angle at x_j to x_i and x_k.

    Park et al., 2019. The paper sums over triplets of different samples; as in
    the authors' code this is the mean over all n^3. It takes n^3 numbers of memory.
    """
    return F.smooth_l1_loss(angles(student), angles(teacher)).float()


def angles(features: torch.Tensor) -> torch.Tensor:
    """cos of the angle at x_j between x_i and x_k, `(n, n, n)` by j, i, k; 0 where two coincide.

    From inner products: the differences themselves would be n^2 whole feature maps.
    """
    gram = centred_gram(features)
    own = gram.diagonal()
    inner = gram - gram[:, :, None] - gram[:, None, :] + own[:, None, None]
    squares = inner.diagonal(dim1=1, dim2=2)
    apart = squares > 1e-10 * own.mean()
    inverse = squares.where(apart, torch.inf).rsqrt()
    return inner * inverse[:, :, None] * inverse[:, None, :]


def pkt(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """mean over i, j of p_ij log(p_ij / q_ij), p the teacher's and q the student's neighbours.

    Each row of (cos(x_i, x_j) + 1) / 2 is divided by its sum: how probably j is i's neighbour.
    Passalis and Tefas, "Learning deep representations with probabilistic knowledge transfer", 2018,
    as in the authors' code: a mean where the paper sums, and a sample is its own neighbour too.
    """
    p, q = neighbours(teacher), neighbours(student)
    return (p * ((p + 1e-7) / (q + 1e-7)).log()).mean()


def neighbours(features: torch.Tensor) -> torch.Tensor:
    rows = unit(features.flatten(1), 1)
    likeness = (rows @ rows.T + 1) / 2
    return likeness / likeness.sum(1, keepdim=True)


def cka(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """1 - <K_s, K_t> / (|K_s| |K_t|), K = x x^T of the centred samples `(n, n)`.

    Linear CKA: equal up to rotation and scale of the features is equal. Kornblith et al.,
    "Similarity of neural network representations revisited", 2019.
    """
    student, teacher = (unit(centred_gram(x).flatten(), 0) for x in (student, teacher))
    return half_square(student, teacher, 0).float()


# Samples against others


class CRD(nn.Module):
    """mean of -log(e_i / (e_i + sum over j of e_ij)), e = exp(cos / 0.07), j the other samples.

    e_i compares the student with the teacher on view i, e_ij the student on i with the teacher on
    j: among all that the teacher said, the student must point to what it said of this view. The
    cosines are those of learned linear embeddings to 128 numbers, thrown away afterwards.

    Tian, Krishnan and Isola, "Contrastive representation distillation", 2020, with three changes.
    Their h = e / (e + N / M) (equation 19) judges each pair alone, against a constant that their
    code takes from its first batch; this is InfoNCE (van den Oord et al., 2018), which the
    negatives at hand normalise. Their memory bank holds embeddings of either side, updated with
    momentum; here the teacher's features come from its cache and are embedded with the weights of
    this step, so that nothing is stale, and the student alone is the anchor. And the samples of a
    batch share their negatives.
    """

    size, temperature = 128, 0.07

    def __init__(self, student_values: int, teacher_values: int):
        super().__init__()
        self.student = nn.Linear(student_values, self.size)
        self.teacher = nn.Linear(teacher_values, self.size)

    def forward(
        self, student: torch.Tensor, teacher: torch.Tensor, negatives: torch.Tensor,
        are_others: torch.Tensor,
    ) -> torch.Tensor:  # fmt: skip
        """negatives: the teacher's features of k views; are_others: see `Batch`, `(n, k)`."""
        anchors = unit(self.student(student.flatten(1)), 1)
        positives, negatives = (
            unit(self.teacher(features.flatten(1)), 1) for features in (teacher, negatives)
        )
        own = (anchors * positives).sum(1, keepdim=True)
        others = (anchors @ negatives.T).masked_fill(~are_others, -torch.inf)
        likeness = torch.cat([own, others], 1) / self.temperature
        return -F.log_softmax(likeness, 1)[:, 0].mean()


# Parts


def unit(vectors: torch.Tensor, dim: int) -> torch.Tensor:
    """x / |x| along `dim`; where |x| is below 1e-12 there is no direction: 0, with no gradient."""
    squares = vectors.square().sum(dim, keepdim=True)
    return vectors * squares.where(squares > 1e-24, torch.inf).rsqrt()


def half_square(one: torch.Tensor, other: torch.Tensor, dim: int) -> torch.Tensor:
    """|a - b|^2 / 2 along `dim`: 1 - cos of two unit vectors, exact for close ones.

    It is 0 for two vectors without direction, 1/2 where only one has none.
    """
    return (one - other).square().sum(dim) / 2


def centred_gram(features: torch.Tensor) -> torch.Tensor:
    """Inner products of the samples less their mean, `(n, n)`.

    In float64: float32 would leave noise where features are constant, and what is small beside the
    mean is what is compared.
    """
    rows = features.flatten(1).double()
    rows = rows - rows.mean(0)
    return rows @ rows.T


@dataclass(frozen=True)
class Distance:
    """A distance, and what a probe must make equal before: channels (and places), places, nothing.

    One that needs negatives, besides, is told what the teacher said of samples drawn at random.
    measure: a function, or the class of a module that learns, made for a number of channels; with
    negatives for the numbers of values of a student's and a teacher's row.
    """

    measure: Callable[..., Any]
    needs: Literal["channels", "grid", "nothing", "negatives"]


DISTANCES = {
    "rmse": Distance(rmse, "channels"),
    "mse": Distance(mse, "channels"),
    "l1": Distance(l1, "channels"),
    "cosine": Distance(cosine, "channels"),
    "vid": Distance(VID, "channels"),
    "attention_transfer": Distance(attention_transfer, "grid"),
    "similarity": Distance(similarity, "nothing"),
    "rkd_distance": Distance(rkd_distance, "nothing"),
    "rkd_angle": Distance(rkd_angle, "nothing"),
    "pkt": Distance(pkt, "nothing"),
    "cka": Distance(cka, "nothing"),
    "crd": Distance(CRD, "negatives"),
}
