"""Our distances against torchdistill's, which were written from the same papers by others.

What torchdistill 1.1.4 lacks (cosine, CKA, DKD) is checked in the other modules only.
"""

import pytest
import torch
import torch.nn.functional as F
import torchvision.datasets  # noqa: F401  torchdistill takes it for imported

pytest.importorskip("torchdistill")

from torchdistill.losses import mid_level
from torchdistill.models.wrapper import Regressor4VID

from pipeline.mentoring import distances, losses

VECTORS, MAPS = [(8, 5), (3, 40)], [(8, 5, 4, 4), (3, 16, 2, 7)]
OTHER_WIDTH = {5: 9, 40: 7, 16: 11}
NO_LABELS = torch.empty(0, dtype=torch.int64)


def drawn(shape: tuple[int, ...], wider: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """A student's features and a teacher's, if `wider` of other channels."""
    generator = torch.Generator().manual_seed(sum(shape))
    n, channels, *grid = shape
    student = torch.randn(shape, generator=generator, requires_grad=True)
    channels = OTHER_WIDTH[channels] if wider else channels
    return student, torch.randn(n, channels, *grid, generator=generator)


def io(tensor: object) -> dict[str, dict[str, object]]:
    """What a module named `tap` put out, as torchdistill's losses are told it."""
    return {"tap": {"output": tensor}}


def assert_same(ours: torch.Tensor, theirs: torch.Tensor, student: torch.Tensor) -> None:
    """The same loss and the same gradient."""
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-7)
    (our_gradient,) = torch.autograd.grad(ours, student, retain_graph=True)
    (their_gradient,) = torch.autograd.grad(theirs, student)
    assert our_gradient.abs().max() > 0
    torch.testing.assert_close(our_gradient, their_gradient, rtol=1e-3, atol=1e-6)


SIMPLE = {
    "input": {"is_from_teacher": False, "module_path": "tap", "io": "output"},
    "target": {"is_from_teacher": True, "module_path": "tap", "io": "output"},
}
AT_PAIRS = {"one": {side: {"io": "output", "path": "tap"} for side in ("student", "teacher")}}
PATHS = ("tap", "output", "tap", "output")


@pytest.mark.parametrize("shape", [*VECTORS, *MAPS])
@pytest.mark.parametrize(("name", "low_level"), [("mse", "MSELoss"), ("l1", "L1Loss")])
def test_hints(name: str, low_level: str, shape: tuple[int, ...]) -> None:
    student, teacher = drawn(shape)
    theirs = mid_level.SimpleLossWrapper(getattr(torch.nn, low_level)(), **SIMPLE)
    ours = distances.DISTANCES[name].measure(student, teacher)
    assert_same(ours, theirs(io(student), io(teacher), None), student)


@pytest.mark.parametrize("shape", MAPS)
def test_attention_transfer(shape: tuple[int, ...]) -> None:
    student, teacher = drawn(shape, wider=True)
    theirs = mid_level.ATLoss(AT_PAIRS, mode="code")(io(student), io(teacher))
    assert_same(distances.attention_transfer(student, teacher), theirs, student)


@pytest.mark.parametrize("shape", MAPS)
def test_attention_transfer_of_the_papers_equation_has_norms_for_mean_squares(
    shape: tuple[int, ...],
) -> None:
    """Of one sample it is the root of h w times ours."""
    student, teacher = (x[:1] for x in drawn(shape, wider=True))
    theirs = mid_level.ATLoss(AT_PAIRS, mode="paper")(io(student), io(teacher))
    places = shape[2] * shape[3]
    ours = (distances.attention_transfer(student, teacher) * places).sqrt()
    torch.testing.assert_close(ours, theirs)


class SimilarityByTheNorm(mid_level.SPKDLoss):
    """torchdistill's with the paper's norm: it gives `normalize` a 1 that is taken for p."""

    def matmul_and_normalize(self, z: torch.Tensor) -> torch.Tensor:
        z = torch.flatten(z, 1)
        return F.normalize(z @ z.T, p=2, dim=1)


@pytest.mark.parametrize("shape", [*VECTORS, *MAPS])
def test_similarity_but_for_the_norm_of_rows(shape: tuple[int, ...]) -> None:
    student, teacher = drawn(shape, wider=True)
    ours = distances.similarity(student, teacher)
    arguments = ("tap", "tap", "batchmean")
    theirs = SimilarityByTheNorm(*arguments)(io(student), io(teacher))
    assert_same(ours, theirs, student)
    as_released = mid_level.SPKDLoss(*arguments)(io(student), io(teacher))
    assert ours.item() != pytest.approx(as_released.item(), rel=0.01), "torchdistill has mended it"


@pytest.mark.parametrize("shape", [*VECTORS, *MAPS])
@pytest.mark.parametrize(("name", "factors"), [("rkd_distance", (1, 0)), ("rkd_angle", (0, 1))])
def test_relations(name: str, factors: tuple[int, int], shape: tuple[int, ...]) -> None:
    student, teacher = drawn(shape, wider=True)
    theirs = mid_level.RKDLoss("tap", "tap", *factors, reduction="mean")(io(student), io(teacher))
    assert_same(distances.DISTANCES[name].measure(student, teacher), theirs, student)


@pytest.mark.parametrize("shape", VECTORS)
def test_neighbours(shape: tuple[int, ...]) -> None:
    student, teacher = drawn(shape, wider=True)
    theirs = mid_level.PKTLoss(*PATHS)(io(student), io(teacher))
    assert_same(distances.pkt(student, teacher), theirs, student)


@pytest.mark.parametrize("shape", MAPS)
def test_vid_but_for_the_variance_it_starts_with(shape: tuple[int, ...]) -> None:
    """torchdistill's starts at 5, and its regressor's output is our matched student."""
    student, teacher = drawn(shape)
    channels = shape[1]
    regressor = Regressor4VID(channels, channels, channels, eps=1e-5, init_pred_var=5.0)
    regressor.regressor = torch.nn.Identity()
    theirs = mid_level.VIDLoss(AT_PAIRS)(io(regressor(student)), io(teacher))
    ours = distances.VID(channels)
    with torch.no_grad():
        ours.raw.copy_(regressor.soft_plus_param.flatten())
    assert_same(ours(student, teacher), theirs, student)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("shape", VECTORS)
def test_kl_but_for_the_square_of_the_temperature_where_there_are_no_labels(
    shape: tuple[int, int], temperature: float
) -> None:
    student, teacher = drawn(shape)
    ours = losses.kl_soft_targets(student, teacher, temperature, NO_LABELS)
    alone = mid_level.KDLoss(*PATHS, temperature, alpha=0)(io(student), io(teacher))
    assert_same(ours, temperature**2 * alone, student)
    labels = torch.arange(len(student)) % shape[1]
    both = mid_level.KDLoss(*PATHS, temperature, alpha=0.3, beta=1.0)
    with_labels = both(io(student), io(teacher), labels)
    assert_same(ours + 0.3 * F.cross_entropy(student, labels), with_labels, student)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("shape", VECTORS)
def test_dist(shape: tuple[int, int], temperature: float) -> None:
    student, teacher = drawn(shape)
    theirs = mid_level.DISTLoss(*PATHS, tau=temperature)(io(student), io(teacher))
    assert_same(losses.dist(student, teacher, temperature, NO_LABELS), theirs, student)
