"""A student's first layers in a fresh network: what is kept stays bit for bit, the rest learns."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from stage_one import SMALLEST, set_params

from pipeline.compute import Compute
from pipeline.prepared import Split
from pipeline.students import Card, Student
from pipeline.transplants import Transplant, retrain

CPU = Compute(torch.device("cpu"), bfloat16=False)
DIGITS = tuple("0123456789")


def part(rows: slice) -> Split:
    """Some of scikit-learn's digits, 16 pixels large."""
    digits = load_digits()
    images = (digits.images[rows] * 15).astype(np.uint8).repeat(2, axis=1).repeat(2, axis=2)
    ids = tuple(f"digit/{n}" for n in range(rows.start, rows.stop))
    return Split("part", images[..., None].repeat(3, axis=-1), digits.target[rows], ids, DIGITS)


LABELLED, TEST = part(slice(0, 400)), part(slice(400, 600))


def donor(model: str = "fiveconv", **changes: Any) -> Student:
    """A student of three classes whose batch statistics are not those it was born with."""
    torch.manual_seed(5)
    card = Card(model, 16, 5, 0.5, 16, 16, ("a", "b", "c"), (0.3,) * 3, (0.4,) * 3, {})
    student = Student(Card(**{**vars(card), **changes})).train()
    size = student.card.input_size
    student(torch.randint(0, 256, (32, 3, size, size), dtype=torch.uint8))
    return student.eval()


def train(student: Transplant, folder: Path, test: Split = TEST, **training: Any) -> float:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        params = set_params(SMALLEST, {"training": {"steps": 60, "batch_size": 50, **training}})
    return retrain(student, LABELLED, test, params.training, params.views, 0, CPU, 0.0)


def state(student: Student) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in student.network.state_dict().items()}


def test_a_network_that_asks_for_its_version_takes_over_layers() -> None:
    giving = donor("torchvision:mnasnet0_5", input_size=32)
    student = Transplant(giving, "layers", DIGITS, seed=0)
    assert torch.equal(state(student)["layers.0.weight"], state(giving)["layers.0.weight"])


@pytest.mark.parametrize("settings", [{}, {"optimizer": "sgd"}, {"weight_average": 0.9}], ids=str)
def test_what_is_kept_stays_as_the_donor_had_it_and_the_rest_learns(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    giving = donor()
    given = state(giving)
    student = Transplant(giving, "conv3", DIGITS, seed=0)
    born = state(student)
    train(student, tmp_path, **settings)
    after = state(student)
    kept = {name for name in after if name.startswith(("conv1.", "conv2.", "conv3."))}
    assert {name.rpartition(".")[2] for name in kept} >= {"weight", "running_mean"}
    for name in after:
        if name in kept:
            assert torch.equal(after[name], given[name]), name
        else:
            assert not torch.equal(after[name], born[name]), name
    assert all(torch.equal(value, given[name]) for name, value in state(giving).items())


def test_the_rest_is_drawn_anew_by_the_seed_whatever_the_donor_had() -> None:
    giving, other = donor(), donor(dropout=0.0)
    one, again = (Transplant(giving, "conv3", DIGITS, seed=0) for _ in range(2))
    assert all(torch.equal(value, state(again)[name]) for name, value in state(one).items())
    assert not torch.equal(one.network.conv4[0].weight, giving.network.conv4[0].weight)
    elsewhere = Transplant(giving, "conv3", DIGITS, seed=1)
    assert not torch.equal(one.network.conv4[0].weight, elsewhere.network.conv4[0].weight)
    beside = Transplant(other, "conv3", DIGITS, seed=0)
    assert torch.equal(one.network.conv4[0].weight, beside.network.conv4[0].weight)
    assert one.card.dropout == 0, "all are trained alike"


def test_it_sees_pictures_as_its_donor_does_and_answers_for_the_new_classes() -> None:
    giving = donor()
    student = Transplant(giving, "conv5", DIGITS, seed=0).eval()
    pictures = torch.from_numpy(TEST.images[:8]).permute(0, 3, 1, 2)
    with student.tapped(["conv5"]) as own, giving.tapped(["conv5"]) as given, torch.no_grad():
        assert student(pictures).shape == (8, 10)
        giving(pictures)
    assert torch.equal(own["conv5"], given["conv5"])


@pytest.mark.parametrize("tap", ["conv1", "conv2"])
def test_it_learns_the_other_task_and_comes_to_the_same_twice(tap: str, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    found = [train(Transplant(donor(), tap, DIGITS, seed=0), tmp_path) for _ in range(2)]
    assert found[0] == found[1]
    assert found[0] > 0.25, "ten classes, so chance is 0.1"


def test_test_images_choose_nothing(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    false = replace(TEST, images=TEST.images[:, ::-1].copy(), labels=(TEST.labels + 1) % 10)
    trained = [Transplant(donor(), "conv3", DIGITS, seed=0) for _ in range(2)]
    found = [train(student, tmp_path, test=test)
             for student, test in zip(trained, (TEST, false), strict=True)]  # fmt: skip
    assert found[0] != found[1]
    one, other = map(state, trained)
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_the_fewer_layers_are_kept_the_more_an_untrained_donor_can_learn(tmp_path: Path) -> None:
    free, bound = (
        train(Transplant(donor(), tap, DIGITS, seed=0), tmp_path) for tap in ("conv1", "pooled")
    )
    assert free > bound


@pytest.mark.parametrize(
    ("model", "tap", "kept", "learns"),
    [
        ("resnet8", "layer1", {"stem", "layer1"}, "layer2"),
        ("torchvision:resnet18", "layer2", {"conv1", "bn1", "layer1", "layer2"}, "layer3"),
        ("timm:test_vit", "fc_norm", {"patch_embed", "pos_embed", "cls_token", "blocks"}, "head"),
    ],
)
def test_all_that_runs_before_the_tap_is_kept(
    model: str, tap: str, kept: set[str], learns: str
) -> None:
    student = Transplant(donor(model, dropout=0.0, input_size=32), tap, DIGITS, seed=0).train()
    fixed = {name.partition(".")[0] for name, parameter in student.network.named_parameters()
             if not parameter.requires_grad}  # fmt: skip
    assert kept <= fixed
    assert learns not in fixed
    for name, module in student.network.named_children():
        if name in kept:
            assert not any(inner.training for inner in module.modules())
    assert student.network.get_submodule(learns).training
