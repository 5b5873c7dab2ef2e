"""The whole loss: which terms there are, what each weighs, and their sum."""

import math

import pytest
import torch

from pipeline.blocks import Mode, SoftTargets
from pipeline.mentoring.objective import Batch, Objective, Pair
from pipeline.mentoring.probes import Probe

KL = SoftTargets(distance="kl", temperature=2.0)


def mode(alpha: list, beta: list, gamma: list) -> Mode:
    return Mode(alpha=alpha, beta=beta, gamma=gamma)


def constant(alpha: float = 0.0, beta: float = 0.0, gamma: float = 0.0) -> Mode:
    return mode([(0, alpha)], [(0, beta)], [(0, gamma)])


def plain_probe() -> Probe:
    """Two features of each, compared as they are."""
    return Probe("rmse", "first_channels", (2,), (2,), torch.zeros(2), torch.ones(2))


PAIRS = [Pair("pooled", "pooled"), Pair("early", "conv3")]
NO_PICTURES = torch.empty(3, 0)

# Three samples of two classes; the first two are labelled, 0 and 1.
STUDENT_LOGITS = torch.tensor([[math.log(3), 0.0], [0.0, 0.0], [0.0, math.log(9)]])
TEACHER_LOGITS = torch.tensor([[math.log(3), 0.0], [0.0, 0.0], [math.log(9), 0.0]])
STUDENT_FEATURES = {"pooled": torch.zeros(3, 2), "conv3": torch.full((3, 2), 1.0)}
TEACHER_FEATURES = {"pooled": torch.full((3, 2), 2.0), "early": torch.full((3, 2), 1.5)}
BATCH = Batch(NO_PICTURES, torch.tensor([0, 1]), TEACHER_LOGITS, TEACHER_FEATURES)

# What the terms are before they are weighed, by hand.
LABELS = (-math.log(3 / 4) - math.log(1 / 2)) / 2  # of the two that are labelled
# Halved logits: 1/4 : 3/4 for the student where the teacher says 3/4 : 1/4; equal elsewhere.
SOFT_TARGETS = 2.0**2 * (3 / 4 * math.log(3) + 1 / 4 * math.log(1 / 3)) / 3
POOLED, EARLY = 2.0, 0.5


def objective(chosen: Mode, soft_targets: SoftTargets = KL, pairs: list = PAIRS) -> Objective:
    return Objective(chosen, soft_targets, [(pair, plain_probe()) for pair in pairs])


def terms_at(chosen: Objective, t: float, batch: Batch = BATCH) -> dict[str, float]:
    terms = chosen(batch, STUDENT_LOGITS, STUDENT_FEATURES, t)
    return {name: term.item() for name, term in terms.items()}


def test_every_term_has_its_name_and_its_weight() -> None:
    terms = terms_at(objective(constant(alpha=2, beta=3, gamma=5)), 0.5)
    assert terms == {
        "labels": pytest.approx(2 * LABELS, rel=1e-5),
        "probe pooled pooled": pytest.approx(3 * POOLED, rel=1e-5),
        "probe early conv3": pytest.approx(3 * EARLY, rel=1e-5),
        "soft targets": pytest.approx(5 * SOFT_TARGETS, rel=1e-5),
    }


@pytest.mark.parametrize(
    ("t", "alpha", "beta", "gamma"), [(0, 1, 4, 2), (0.25, 2, 3, 1), (0.5, 3, 2, 0), (1, 3, 0, 0)]
)
def test_the_terms_sum_to_the_formula_as_the_weights_move(
    t: float, alpha: float, beta: float, gamma: float
) -> None:
    moving = mode([(0, 1.0), (0.5, 3.0)], [(0, 4.0), (1, 0.0)], [(0, 2.0), (0.5, 0.0)])
    by_hand = alpha * LABELS + beta * (POOLED + EARLY) + gamma * SOFT_TARGETS
    assert sum(terms_at(objective(moving), t).values()) == pytest.approx(by_hand, rel=1e-5)


def test_a_probe_counts_for_its_weight_beside_the_others() -> None:
    pairs = [Pair("pooled", "pooled", weight=0.25), Pair("early", "conv3")]
    terms = terms_at(objective(constant(beta=3), pairs=pairs), 0.5)
    assert terms["probe pooled pooled"] == pytest.approx(3 * 0.25 * POOLED, rel=1e-5)
    assert terms["probe early conv3"] == pytest.approx(3 * EARLY, rel=1e-5)


def test_two_probes_of_the_same_taps_both_count() -> None:
    pairs = [Pair("pooled", "pooled"), Pair("pooled", "pooled", weight=0.5)]
    terms = terms_at(objective(constant(beta=3), pairs=pairs), 0.5)
    assert terms == {
        "probe pooled pooled": pytest.approx(3 * POOLED, rel=1e-5),
        "probe pooled pooled 2": pytest.approx(3 * 0.5 * POOLED, rel=1e-5),
    }


def test_a_weight_of_0_leaves_its_term_out() -> None:
    probes = {"probe pooled pooled", "probe early conv3"}
    assert set(terms_at(objective(constant(alpha=1)), 0)) == {"labels"}
    assert set(terms_at(objective(constant(beta=1)), 0)) == probes
    assert set(terms_at(objective(constant(gamma=1)), 0)) == {"soft targets"}
    fading = mode([(0, 1.0)], [(0, 0.0)], [(0, 1.0), (0.5, 0.0)])
    assert set(terms_at(objective(fading), 0.49)) == {"labels", "soft targets"}
    assert set(terms_at(objective(fading), 0.5)) == {"labels"}


def test_a_student_without_a_teacher_needs_no_answers_of_one() -> None:
    alone = Batch(NO_PICTURES, torch.tensor([0, 1]))
    terms = terms_at(objective(constant(alpha=1), pairs=[]), 0, alone)
    assert terms == {"labels": pytest.approx(LABELS, rel=1e-5)}


def test_labels_count_for_the_first_samples_and_the_teacher_for_all() -> None:
    logits = STUDENT_LOGITS.clone().requires_grad_()
    chosen = objective(constant(alpha=1, gamma=1))
    terms = chosen(BATCH, logits, STUDENT_FEATURES, 0)
    (labels,) = torch.autograd.grad(terms["labels"], logits, retain_graph=True)
    assert labels[:2].abs().min() > 0
    assert torch.equal(labels[2], torch.zeros(2))
    (soft,) = torch.autograd.grad(terms["soft targets"], logits)
    assert soft[2].abs().min() > 0


def test_the_teacher_alone_needs_no_label() -> None:
    unlabelled = Batch(NO_PICTURES, torch.empty(0, dtype=torch.int64), TEACHER_LOGITS, {})
    terms = terms_at(objective(constant(gamma=1), pairs=[]), 0, unlabelled)
    assert terms == {"soft targets": pytest.approx(SOFT_TARGETS, rel=1e-5)}


def test_the_papers_distance_of_soft_targets_can_be_chosen() -> None:
    papers = SoftTargets(distance="rmse", temperature=2.0)
    terms = terms_at(objective(constant(gamma=3), papers), 0)
    # One sample of three differs, by 1/2 in both of its classes.
    assert terms == {"soft targets": pytest.approx(3 * math.sqrt(0.25 / 3), rel=1e-5)}


def test_a_distance_of_soft_targets_is_told_the_labels() -> None:
    decoupled = SoftTargets(distance="dkd", temperature=2.0)
    terms = terms_at(objective(constant(gamma=3), decoupled), 0)
    # Of two classes one is the target and one all others: the same as KL, whatever the target.
    assert terms == {"soft targets": pytest.approx(3 * SOFT_TARGETS, rel=1e-5)}
    told = []

    def listening(student, teacher, temperature, labels) -> torch.Tensor:
        told.append((temperature, labels))
        return student.sum()

    chosen = objective(constant(gamma=1), decoupled)
    chosen.distance = listening
    terms_at(chosen, 0)
    assert told == [(2.0, BATCH.labels)]


def test_projections_are_trained_with_the_student() -> None:
    probe = Probe("rmse", "projection", (2,), (2,), torch.zeros(2), torch.ones(2))
    chosen = Objective(constant(beta=1), KL, [(PAIRS[0], probe)])
    assert {id(p) for p in chosen.parameters()} == {id(p) for p in probe.parameters()}
    assert len(list(chosen.parameters())) == 2
    features = {"pooled": torch.ones(3, 2)}
    sum(chosen(BATCH, STUDENT_LOGITS, features, 0).values()).backward()
    assert all(p.grad.abs().sum() > 0 for p in probe.parameters())


def test_logits_of_half_precision_are_weighed_in_full() -> None:
    chosen = objective(constant(alpha=1, gamma=1), pairs=[])
    terms = chosen(BATCH, STUDENT_LOGITS.bfloat16(), {}, 0)
    assert {term.dtype for term in terms.values()} == {torch.float32}
