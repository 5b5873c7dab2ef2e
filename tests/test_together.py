"""Students that train as one come out as those that train alone.

Scikit-learn's digits and the cache of a small teacher with random weights.
"""

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from killing import prepare_small, set_params, stop_after
from projects import REPOSITORY
from stage_one import enter_copy, run_stage_one

from pipeline import compute
from pipeline.blocks import Settings
from pipeline.checkpoints import FOLDER, STATE, Checkpoint
from pipeline.mentoring.distances import DISTANCES
from pipeline.mentoring.losses import SOFT_TARGET_DISTANCES
from pipeline.params import Params, load_params
from pipeline.runs import set_up
from pipeline.stages.sweep import TRAINED, shared_out, trained_ahead
from pipeline.stages.train import train, train_ahead, train_ahead_as_one
from pipeline.students import load_student
from pipeline.together import Stack, Stackable, can_share, stacked, unstacked
from pipeline.training import Look, Watch
from pipeline.variants import Variant

MODES: dict[str, Any] = {
    "lone": {"alpha": [[0, 1.0]], "beta": [[0, 0.0]], "gamma": [[0, 0.0]]},
    "taught": {"alpha": [[0, 0.2]], "beta": [[0, 1.0]], "gamma": [[0, 1.0]]},
    # Steps take terms up, and leave them out, as training goes on.
    "moving": {
        "alpha": [[0, 0.0], [0.4, 0.0], [0.41, 1.0]], "beta": [[0, 0.0], [0.3, 0.0], [0.31, 1.0]],
        "gamma": [[0, 1.0], [0.5, 1.0], [0.51, 0.0]],
    },
}  # fmt: skip
SMALL: dict[str, Any] = {
    "data": {"labelled_per_class": 4, "unlabelled": 30, "validation": 21, "test": 20},
    "cache": {"rows_per_shard": 30},
    "head": {"inverse_regularisation": [0.01]},
    "student": {"width": 8, "input_size": 16},
    # No Adam, which magnifies the rounding of what is next to nothing.
    "training": {"steps": 6, "warmup": 0.5, "batch_size": 15, "validations": 3, "optimizer": "sgd",
                 "learning_rate": 0.002},
    "modes": MODES,
    "settings": {
        "mixed": {"unlabelled": 0.4},
        "moving": {"unlabelled": [[0, 0.4], [0.5, 0.4], [0.51, 0.0]], "label_smoothing": 0.1},
        "penalised": {"l2": 1e-3},
    },
}  # fmt: skip
ADAM = {"optimizer": "adamw", "weight_decay": 0.01}
MATCHES = {"channels": "projection", "grid": "none", "nothing": "none"}
PROBED = {
    name: [{"teacher": "middle", "student": "conv4", "distance": name,
            "match": MATCHES[chosen.needs]}]
    for name, chosen in DISTANCES.items() if chosen.needs != "negatives"
}  # fmt: skip
Change = dict[str, Any]
FAST_IN_BFLOAT16 = compute._cpu_is_fast_in_bfloat16


def change(**blocks: Any) -> Params:
    merged = {**SMALL, **blocks, "training": SMALL["training"] | blocks.get("training", {})}
    set_params(Path(), **merged)
    return load_params()


def small() -> Params:
    prepare_small(Path())
    return change()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_stage_one(tmp_path_factory.mktemp("finished"), small)


@pytest.fixture
def project(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    # Its rounding would hide a difference.
    monkeypatch.setattr(compute, "_cpu_is_fast_in_bfloat16", lambda: False)
    return enter_copy(finished, tmp_path / "project", monkeypatch)


def seeds(mode: str, settings: str = "plain", count: int = 3) -> list[Variant]:
    return [Variant(mode, settings, seed) for seed in range(count)]


def kept(variant: Variant) -> dict[str, Any]:
    return torch.load(FOLDER / variant.name / STATE, weights_only=True)


def flat(state: dict[str, torch.Tensor]) -> torch.Tensor:
    numbers = [value for value in state.values() if value.is_floating_point()]
    return torch.cat([value.double().flatten() for value in numbers])


def ahead(params: Params, variants: list[Variant]) -> dict[Variant, dict[str, Any]]:
    """What each has kept that trained alone."""
    for variant in variants:
        train_ahead(params, variant)
    states = {variant: kept(variant) for variant in variants}
    for variant in variants:
        Checkpoint(variant.name, "", None).remove()
    return states


def assert_alike(params: Params, alone: dict[Variant, dict[str, Any]], share: float = 1e-3) -> None:
    """What they have kept now is what they had kept, up to rounding.

    share: of the way that training took weights and statistics.
    """
    for variant, state in alone.items():
        found = kept(variant)
        assert found["step"] == state["step"]
        for part in ("student", "objective"):
            if not state["parts"][part]:
                assert not found["parts"][part]
                continue
            begun = getattr(set_up(params, variant), part).state_dict()
            own, other = flat(found["parts"][part]), flat(state["parts"][part])
            way = (flat(begun) - other).norm()
            assert (own - other).norm() <= share * way
        assert found["parts"]["schedule"] == state["parts"]["schedule"]
        assert found["parts"]["mixture"]["generator"] == state["parts"]["mixture"]["generator"]


@pytest.mark.parametrize(
    ("mode", "settings", "blocks"),
    [
        ("lone", "plain", {}),
        ("taught", "plain", {"training": ADAM}),
        ("taught", "mixed", {}),
        ("moving", "moving", {}),
        ("moving", "moving", {"training": ADAM | {"learning_rate": 1e-4}}),
        ("lone", "plain", {"student": {"model": "resnet8", "input_size": 16}}),
        ("taught", "plain", {"student": {"width": 8, "input_size": 16, "depth": 8}}),
    ],
)
def test_students_as_one_come_out_as_alone(
    project: Path, mode: str, settings: str, blocks: Change
) -> None:
    params = change(**blocks)
    variants = seeds(mode, settings)
    alone = ahead(params, variants)
    assert train_ahead_as_one(params, variants) == ["", "", ""]
    assert_alike(params, alone)
    weights = [flat(kept(variant)["parts"]["student"]) for variant in variants]
    assert not torch.equal(weights[0], weights[1]), "each has a seed of its own"


def test_in_bfloat16_students_as_one_come_out_as_alone(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compute, "_cpu_is_fast_in_bfloat16", lambda: True)
    params, variants = load_params(), seeds("taught", "mixed")
    alone = ahead(params, variants)
    train_ahead_as_one(params, variants)
    assert_alike(params, alone, 0.05)


@pytest.mark.parametrize("grid", [1, (1, 1)])
def test_nothing_of_our_own_networks_is_done_to_one_after_another(grid: Any) -> None:
    """As a GPU's convolutions leave their maps, an average of all has no rule of vmap's."""
    maps = torch.randn(2, 8, 8, 3, 4).permute(3, 0, 4, 1, 2).requires_grad_()

    def averaged(maps: torch.Tensor) -> torch.Tensor:
        ordered = maps.contiguous(memory_format=torch.channels_last)
        return F.adaptive_avg_pool2d(ordered, grid)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with Stackable():
            means = torch.vmap(averaged)(maps)
        means.sum().backward()
    torch.testing.assert_close(means, maps.mean((3, 4), keepdim=True))


@pytest.mark.parametrize("distance", PROBED)
def test_every_distance_of_features_is_that_of_each(project: Path, distance: str) -> None:
    params = change(probes=PROBED[distance])
    variants = seeds("taught", count=2)
    alone = ahead(params, variants)
    train_ahead_as_one(params, variants)
    assert_alike(params, alone)


@pytest.mark.parametrize("distance", SOFT_TARGET_DISTANCES)
def test_every_distance_of_soft_targets_is_that_of_each(
    project: Path, distance: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without a kink: rounding turns a unit on, or takes another as the largest, on some processors.
    monkeypatch.setattr(torch.nn.ReLU, "forward", lambda _, inputs: F.silu(inputs))
    monkeypatch.setattr(torch.nn.MaxPool2d, "forward", lambda _, inputs: F.avg_pool2d(inputs, 2))
    params = change(soft_targets={"distance": distance})
    variants = seeds("taught", "mixed", count=2)
    alone = ahead(params, variants)
    train_ahead_as_one(params, variants)
    assert_alike(params, alone)


def test_what_is_told_at_each_look_is_what_each_tells_alone(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params, variants = load_params(), seeds("taught", "mixed")
    told: dict[str, list[Look]] = {}

    @contextmanager
    def telling(_params: Params, variant: Variant, *_: Any) -> Iterator[Callable[[Look], None]]:
        yield told.setdefault(variant.name, []).append

    monkeypatch.setattr("pipeline.stages.train.telling", telling)
    monkeypatch.setattr(Checkpoint, "save", lambda *_: None)
    for variant in variants:
        train_ahead(params, variant)
    alone = dict(told)
    told.clear()
    train_ahead_as_one(params, variants)
    assert [look.step for look in told["taught-mixed-0"]] == [2, 4, 6]
    for name, looks in alone.items():
        for own, other in zip(told[name], looks, strict=True):
            assert own.step == other.step
            assert own.terms == pytest.approx(other.terms, rel=1e-4)
            assert own.gradient_norm == pytest.approx(other.gradient_norm, rel=1e-4)
            assert own.weight_norm == pytest.approx(other.weight_norm, rel=1e-6)
            np.testing.assert_allclose(own.answers, other.answers, atol=1e-3)


def test_one_that_diverges_keeps_no_other_from_training(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params, variants = load_params(), seeds("taught", "mixed")
    alone = ahead(params, variants)
    step, begun = Stack.step, [0]

    def spoiled(stack: Stack, *arguments: Any) -> dict[str, torch.Tensor]:
        begun[0] += 1
        if begun[0] == 3:
            with torch.no_grad():
                stack.weights["student.network.classifier.bias"][1] = math.inf
        return step(stack, *arguments)

    monkeypatch.setattr(Stack, "step", spoiled)
    wrong = train_ahead_as_one(params, variants)
    assert [wrong[0], wrong[2]] == ["", ""]
    assert wrong[1].startswith("step 3: the loss term 'labels' is not finite")
    assert kept(variants[1])["step"] == 2, "what it had before"
    del alone[variants[1]]
    assert_alike(params, alone)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("saves", [3, 4])
def test_students_that_were_killed_go_on_as_one(
    project: Path, monkeypatch: pytest.MonkeyPatch, saves: int, optimizer: str
) -> None:
    """Between two looks, when all stand at one step, and amid one, when the first is ahead."""
    params = change(training={"optimizer": optimizer})
    variants = seeds("moving", "moving")
    train_ahead_as_one(params, variants)
    whole = {variant: kept(variant) for variant in variants}
    for variant in variants:
        Checkpoint(variant.name, "", None).remove()
    with monkeypatch.context() as patch:
        stop_after(saves, patch)
        with pytest.raises(KeyboardInterrupt):
            train_ahead_as_one(params, variants)
    steps = [kept(variant)["step"] for variant in variants]
    assert steps == ([2, 2, 2] if saves == 3 else [4, 2, 2])
    seen: list[int] = []
    see = Watch.see
    monkeypatch.setattr(
        Watch, "see", lambda watch, step, terms: (seen.append(step), see(watch, step, terms))
    )
    train_ahead_as_one(params, variants)
    assert sorted(seen) == ([3, 4, 5, 6] if saves == 3 else [3, 4, 5, 5, 6, 6])
    assert_alike(params, whole, 1e-5)


def test_the_state_of_one_is_taken_out_of_that_of_all_and_holds_no_other() -> None:
    """A view of it would, and a checkpoint keeps all that is behind a view."""
    states = [
        {"state": {0: {"step": torch.tensor(2.0), "exp_avg": torch.full((5,), float(number))}},
         "param_groups": [{"lr": 0.1}]}
        for number in range(3)
    ]  # fmt: skip
    of_all = stacked(states)
    for number, state in enumerate(states):
        own = unstacked(of_all, number)
        assert own["param_groups"] == state["param_groups"]
        torch.testing.assert_close(own["state"], state["state"])
        assert own["state"][0]["exp_avg"].untyped_storage().nbytes() == 5 * 4


def test_mentee_train_takes_up_what_was_trained_as_one(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The process that trains them is another, which no test keeps from it.
    monkeypatch.setattr(compute, "_cpu_is_fast_in_bfloat16", FAST_IN_BFLOAT16)
    params, variants = load_params(), seeds("taught", "mixed", 2)
    told = sorted(trained_ahead(params, [variants], 1))
    assert told == [f"{variant.name}: {TRAINED}" for variant in variants]
    states = {variant: kept(variant)["parts"]["student"] for variant in variants}
    monkeypatch.setattr(Watch, "see", lambda *_: pytest.fail("trained again"))
    for variant in variants:
        train(params, variant)
        student = load_student(Path("students", variant.name))
        assert torch.equal(flat(student.network.state_dict()), flat(states[variant]))
        curve = Path("students", variant.name, "live/plots/metrics/loss/labels.tsv").read_text()
        assert [line.split("\t")[0] for line in curve.splitlines()] == ["step", "2", "4", "6"]
    assert not any(FOLDER.iterdir())


CRD = {"teacher": "pooled", "student": "pooled", "distance": "crd", "match": "none"}


@pytest.mark.parametrize(
    ("mode", "settings", "blocks", "expected"),
    [
        ("taught", "mixed", {}, [2, 2]),
        ("taught", "penalised", {}, []),
        ("taught", "mixed", {"probes": [CRD]}, []),
        ("lone", "plain", {"probes": [CRD]}, [2, 2]),
        ("lone", "plain", {"training": {"gradient_clip": 1.0}}, []),
        ("lone", "plain", {"training": {"weight_average": 0.9}}, []),
        ("lone", "plain", {"student": {"model": "torchvision:mobilenet_v2"}}, []),
    ],
)
def test_on_a_gpu_students_train_as_one_that_differ_in_their_seed_alone(
    project: Path, mode: str, settings: str, blocks: Change, expected: list[int]
) -> None:
    params = change(**blocks)
    variants = [*seeds(mode, settings, 4), Variant("moving", "moving", 0)]
    groups, processes = shared_out(params, variants, 2, on_gpu=True)
    assert [len(group) for group in groups] == expected
    assert processes == 1
    for group in groups:
        assert {(one.mode, one.settings) for one in group} == {(mode, settings)}
    named = [variant for group in groups for variant in group]
    assert named == (variants[:4] if expected else [])


@pytest.mark.parametrize(
    ("settings", "shares"),
    [
        ({"label_smoothing": 0.1}, True),
        ({"unlabelled": 0.4}, True),
        ({"teachers": ["here", "lite2"]}, True),
        ({"dropout": 0.3}, False),
        ({"l1": 1e-5}, False),
        ({"mixup": 0.2}, False),
        ({"cutmix": 1.0}, False),
        ({"early_stopping": 3}, False),
        ({"unlabelled": 0.4, "dropout": 0.3}, False),
    ],
)
def test_settings_keep_no_students_apart_that_add_no_random_numbers_or_penalties(
    settings: dict[str, Any], shares: bool
) -> None:
    params = load_params(REPOSITORY / "params.yaml")
    found = can_share(Settings(**settings), params.probes, params.training, params.student)
    assert found == shares


def test_by_default_a_gpu_trains_eight_as_one(project: Path) -> None:
    groups, _ = shared_out(load_params(), seeds("lone", count=9), None, on_gpu=True)
    assert [len(group) for group in groups] == [8]


@pytest.mark.parametrize(("jobs", "count", "processes"), [(2, 3, 2), (9, 3, 3), (1, 3, 1)])
def test_on_a_cpu_each_has_a_process(project: Path, jobs: int, count: int, processes: int) -> None:
    variants = seeds("lone", count=count)
    groups, found = shared_out(load_params(), variants, jobs, on_gpu=False)
    assert found == processes
    assert groups == ([[variant] for variant in variants] if processes > 1 else [])


def test_by_default_a_cpu_trains_one_for_each_core_that_this_process_may_use(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.stages.sweep.own_cores", lambda: 3)
    _, processes = shared_out(load_params(), seeds("lone", count=5), None, on_gpu=False)
    assert processes == 3


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_students_as_one_come_out_as_alone(project: Path) -> None:
    params = change(runtime={"device": "cuda"})
    variants = seeds("taught", "mixed")
    alone = ahead(params, variants)
    train_ahead_as_one(params, variants)
    assert_alike(params, alone, 0.1)
