"""Training: schedules, regularisers, what is kept, and runs that are killed and go on."""

import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from caches import files_under
from killing import prepare_small, set_params, stop_after
from projects import edit_params

from pipeline.blocks import Mode, Settings, SoftTargets, Training, Views
from pipeline.checkpoints import FOLDER, STATE, Checkpoint
from pipeline.compute import Compute
from pipeline.errors import MenteeError
from pipeline.lessons import lone_lessons
from pipeline.mentoring.objective import Batch, Objective
from pipeline.metrics import score
from pipeline.mixtures import Mixture
from pipeline.params import Params, load_params
from pipeline.prepared import PREPARED_FILE, Split, read_split
from pipeline.regularisers import EarlyStopping, mixing, weights_of
from pipeline.results import read_curve
from pipeline.runs import set_up
from pipeline.stages.dump import dump
from pipeline.stages.head import head
from pipeline.stages.sweep import trained_ahead
from pipeline.stages.train import train
from pipeline.students import Card, Student, load_student
from pipeline.training import (
    Look,
    Watch,
    cosine,
    fit,
    make_optimizer,
    make_schedule,
    predict_logits,
    stairs,
)
from pipeline.variants import Variant

CPU = Compute(torch.device("cpu"), bfloat16=False)
LABELS_ONLY = Mode(alpha=[(0, 1.0)], beta=[(0, 0.0)], gamma=[(0, 0.0)])
STEPS = 12


def training(**changes: Any) -> Training:
    return Training(**{
        "steps": STEPS, "batch_size": 8, "learning_rate": 0.01, "weight_decay": 0.0, "warmup": 0.25,
        "validations": 4, **changes,
    })  # fmt: skip


def random_split(count: int, seed: int) -> Split:
    generator = np.random.default_rng(seed)
    images = generator.integers(256, size=(count, 8, 8, 3), dtype=np.uint8)
    ids = tuple(f"{seed}/{n}" for n in range(count))
    return Split("labelled", images, np.arange(count) % 2, ids, ("cat", "dog"))


@dataclass
class Run:
    """A small student trained on noise; `seen` is called with it after every step."""

    folder: Path
    settings: Settings = field(default_factory=Settings)
    changes: dict[str, Any] = field(default_factory=dict)
    looks: list[Look] = field(default_factory=list)

    def go(self, seen: Callable[[Student], None], monkeypatch: pytest.MonkeyPatch) -> Student:
        monkeypatch.chdir(self.folder)
        torch.manual_seed(0)
        images = random_split(16, 0)
        self.validation = random_split(10, 1)
        from pipeline.blocks import Student as StudentParams

        params = StudentParams(model="fiveconv", width=4, input_size=16)
        card = Card.of(
            params, self.settings.dropout, images.class_names, torch.from_numpy(images.images), {}
        )
        student = Student(card)
        views = Views(labelled=2, unlabelled=1, padding=1, flip=True, seed=0)
        lessons = lone_lessons(images, views, 16, CPU.device, 0.0)
        chosen = training(**self.changes)
        mixture = Mixture(lessons, None, [(0, 0.0)], chosen.batch_size, seed=0)
        objective = Objective(
            LABELS_ONLY, SoftTargets(distance="kl", temperature=1.0), [], self.settings,
            weights_of(student.network),
        )  # fmt: skip
        see = Watch.see

        def watched(watch: Watch, step: int, terms: dict[str, torch.Tensor]) -> None:
            see(watch, step, terms)
            seen(student)

        monkeypatch.setattr(Watch, "see", watched)
        (self.folder / "curves").mkdir()
        fit(
            student, objective, mixture, self.validation, chosen, self.settings, CPU,
            self.looks.append, Checkpoint("one", "key", self.folder / "curves"),
        )  # fmt: skip
        return student


def test_each_look_tells_the_norms_of_gradients_and_of_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[float, float]] = []

    def note(student: Student) -> None:
        gradients, weights = (
            math.sqrt(sum(float(part.detach().square().sum()) for part in parts))
            for parts in ([p.grad for p in student.parameters()], list(student.parameters()))
        )
        seen.append((gradients, weights))

    run = Run(tmp_path)
    run.go(note, monkeypatch)
    assert [look.step for look in run.looks] == [3, 6, 9, 12]
    for look in run.looks:
        by_hand = seen[look.step - 1]
        assert (look.gradient_norm, look.weight_norm) == pytest.approx(by_hand, rel=1e-5)


# Learning rates


def test_a_cosine_falls_from_the_peak_to_nothing() -> None:
    assert [cosine(t) for t in (0, 0.5, 1)] == pytest.approx([1, 0.5, 0])


def test_stairs_fall_by_ten_at_their_milestones() -> None:
    shares = [stairs(t) for t in (0, 0.62, 0.625, 0.74, 0.75, 0.874, 0.875, 1)]
    assert shares == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01, 0.001, 0.001])


@pytest.mark.parametrize("schedule", ["one_cycle", "cosine", "step"])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_the_learning_rate_rises_to_its_peak_and_falls(optimizer: str, schedule: str) -> None:
    chosen = training(steps=100, optimizer=optimizer, schedule=schedule, weight_decay=0.5)
    made = make_optimizer([torch.nn.Parameter(torch.ones(1))], chosen)
    rates = make_schedule(made, chosen)
    seen = []
    for _ in range(100):
        seen.append(made.param_groups[0]["lr"])
        made.step()
        rates.step()
    peak = int(np.argmax(seen))
    assert 23 <= peak <= 26
    assert seen[peak] == pytest.approx(0.01, rel=0.05)
    assert seen[:peak] == sorted(seen[:peak])
    assert seen[peak:] == sorted(seen[peak:], reverse=True)
    assert seen[0] < 0.1 * seen[peak]
    assert seen[-1] < 0.01 * seen[peak]
    assert made.param_groups[0]["weight_decay"] == 0.5


def test_the_stairs_stand_where_params_say_whatever_the_warmup() -> None:
    chosen = training(steps=80, schedule="step", warmup=0.5)
    made = make_optimizer([torch.nn.Parameter(torch.ones(1))], chosen)
    rates = make_schedule(made, chosen)
    seen = []
    for _ in range(80):
        seen.append(made.param_groups[0]["lr"] / 0.01)
        made.step()
        rates.step()
    assert seen[40:] == pytest.approx([1] * 10 + [0.1] * 10 + [0.01] * 10 + [0.001] * 10)


def test_sgd_has_nesterovs_momentum() -> None:
    made = make_optimizer([torch.nn.Parameter(torch.ones(1))], training(optimizer="sgd"))
    assert (made.defaults["momentum"], made.defaults["nesterov"]) == (0.9, True)


# Regularisers


def pictures(count: int) -> torch.Tensor:
    return torch.arange(count * 3 * 16, dtype=torch.uint8).reshape(count, 3, 4, 4)


def test_without_mixing_there_is_nothing_to_do() -> None:
    assert mixing(Settings(dropout=0.5), 3) is None


def test_mixup_blends_pictures_and_labels_in_the_same_shares() -> None:
    torch.manual_seed(3)
    batch = Batch(pictures(4), torch.tensor([0, 1, 2, 2]))
    mixed = mixing(Settings(mixup=1.0), 3)(batch)
    share = mixed.labels[1, 1].item()
    assert 0.01 < share < 0.99
    rolled = batch.pictures.roll(1, 0).float()
    expected = share * batch.pictures.float() + (1 - share) * rolled
    torch.testing.assert_close(mixed.pictures, expected)
    torch.testing.assert_close(mixed.labels.sum(1), torch.ones(4))
    assert mixed.labels[3].tolist() == pytest.approx([0, 0, 1]), "both are of the last class"


def test_cutmix_pastes_a_part_and_shares_labels_by_its_area() -> None:
    torch.manual_seed(5)
    batch = Batch(pictures(4), torch.tensor([0, 1, 2, 0]))
    mixed = mixing(Settings(cutmix=1.0), 3)(batch)
    own = mixed.pictures == batch.pictures
    assert (own | (mixed.pictures == batch.pictures.roll(1, 0))).all()
    share = own[1, 0].float().mean().item()
    assert 0 < share < 1
    assert mixed.labels[1].tolist() == pytest.approx([1 - share, share, 0])


def test_a_batch_is_mixed_in_either_way_where_both_are_asked_for() -> None:
    torch.manual_seed(0)
    batch = Batch(pictures(4), torch.tensor([0, 1, 2, 0]))
    mix = mixing(Settings(mixup=1.0, cutmix=1.0), 3)
    whole = {bool((mix(batch).pictures % 1 == 0).all()) for _ in range(20)}
    assert whole == {True, False}


def test_penalties_are_sums_over_kernels_and_matrices() -> None:
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 1, 1), torch.nn.Linear(2, 1))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(-2)
    settings = Settings(l1=0.5, l2=0.25)
    soft_targets = SoftTargets(distance="kl", temperature=1.0)
    objective = Objective(LABELS_ONLY, soft_targets, [], settings, weights_of(network))
    terms = objective(Batch(pictures(1), torch.tensor([0])), torch.zeros(1, 2), {}, 0.0)
    assert terms["l1"].item() == pytest.approx(0.5 * 3 * 2)
    assert terms["l2"].item() == pytest.approx(0.25 * 3 * 4)


def test_label_smoothing_gives_a_share_to_all_classes_alike() -> None:
    soft_targets = SoftTargets(distance="kl", temperature=1.0)
    objective = Objective(LABELS_ONLY, soft_targets, [], Settings(label_smoothing=0.3))
    logits = torch.tensor([[math.log(6), math.log(3), math.log(1)]])
    terms = objective(Batch(pictures(1), torch.tensor([0])), logits, {}, 0.0)
    by_hand = -(0.8 * math.log(0.6) + 0.1 * math.log(0.3) + 0.1 * math.log(0.1))
    assert terms["labels"].item() == pytest.approx(by_hand)


def test_early_stopping_keeps_the_first_of_the_best() -> None:
    network = torch.nn.Linear(1, 1, bias=False)
    stopping = EarlyStopping(patience=2)
    for accuracy, is_over in ((0.2, False), (0.5, False), (0.4, False), (0.5, True)):
        with torch.no_grad():
            network.weight.fill_(accuracy)
        stopping.look(network, accuracy)
        assert stopping.is_over is is_over
    network.load_state_dict(stopping.weights)
    assert network.weight.item() == 0.5
    again = EarlyStopping(patience=2)
    again.load_state_dict(stopping.state_dict())
    assert again.is_over


def test_a_network_that_asks_for_its_version_is_given_its_best_weights() -> None:
    """torchvision's MNASNet refuses weights that do not tell theirs."""
    network = torchvision.models.mnasnet0_5(weights=None)
    stopping = EarlyStopping(patience=2)
    stopping.look(network, 0.5)
    best = network.layers[0].weight.clone()
    with torch.no_grad():
        network.layers[0].weight.zero_()
    network.load_state_dict(stopping.weights)
    assert torch.equal(network.layers[0].weight, best)


def test_a_run_that_gets_no_better_stops_with_its_best_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(tmp_path, Settings(early_stopping=1), {"steps": 60, "validations": 30})
    student = run.go(lambda student: None, monkeypatch)
    accuracies = [float((look.answers.argmax(1) == run.validation.labels).mean())
                  for look in run.looks]  # fmt: skip
    assert len(accuracies) < 30
    assert accuracies[-1] <= accuracies[-2]
    best = max(accuracies)
    own = predict_logits(student, run.validation.images, CPU)
    assert (own.argmax(1) == run.validation.labels).mean() == best
    np.testing.assert_array_equal(own, run.looks[accuracies.index(best)].answers)


@pytest.mark.parametrize("name", ["classifier.weight", "conv1.2.running_mean"])
def test_the_average_of_weights_and_statistics_is_kept_and_judged(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    run = Run(tmp_path, changes={"weight_average": 0.75})
    kept = run.go(
        lambda student: seen.append(student.network.state_dict()[name].clone()), monkeypatch
    )
    average = seen[0]
    for value in seen[1:]:
        average = 0.75 * average + 0.25 * value
    torch.testing.assert_close(kept.network.state_dict()[name], average)
    own = predict_logits(kept, run.validation.images, CPU)
    np.testing.assert_allclose(own, run.looks[-1].answers, atol=1e-6)


@pytest.mark.parametrize("largest", [None, 0.05])
def test_gradients_are_no_longer_than_they_may_be(
    largest: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    norms = []

    def measure(student: Student) -> None:
        squares = [parameter.grad.square().sum() for parameter in student.parameters()]
        norms.append(torch.stack(squares).sum().sqrt().item())

    Run(tmp_path, changes={"gradient_clip": largest}).go(measure, monkeypatch)
    assert len(norms) == STEPS
    assert max(norms) <= 0.0501 if largest else max(norms) > 0.1


# Numbers that are none


def test_the_first_term_that_is_not_finite_is_named_with_its_step() -> None:
    watch = Watch()
    one, gone = torch.tensor(1.0), torch.tensor(math.nan)
    watch.see(1, {"labels": one})
    watch.see(2, {"labels": one, "probe a b": one})
    watch.check()
    watch.see(3, {"labels": one, "probe a b": gone})
    watch.see(4, {"labels": gone, "probe a b": gone})
    watch.see(5, {"labels": torch.tensor(math.inf)})
    with pytest.raises(MenteeError, match=r"step 3: the loss term 'probe a b' is not finite"):
        watch.check()


def test_a_run_that_diverges_stops_with_step_and_term(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = []

    def spoil(student: Student) -> None:
        steps.append(len(steps) + 1)
        if steps[-1] == 4:
            with torch.no_grad():
                student.network.classifier.weight.fill_(math.inf)

    with pytest.raises(MenteeError, match="step 5: the loss term 'labels' is not finite"):
        Run(tmp_path).go(spoil, monkeypatch)
    assert steps[-1] == 6, "it is found at the next look, without asking the device at every step"


# Runs that are killed and go on


MODES: dict[str, Any] = {
    "pretrained": {
        "alpha": [[0, 0.0], [0.5, 0.0], [0.51, 1.0]],
        "beta": [[0, 10.0], [0.5, 10.0], [0.51, 0.0]],
        "gamma": [[0, 5.0], [0.5, 5.0], [0.51, 0.0]],
    }
}
SETTINGS: dict[str, Any] = {
    "many": {"dropout": 0.2, "l1": 1e-6, "early_stopping": 9},
    "mixed": {"mixup": 0.4, "cutmix": 1.0, "label_smoothing": 0.1},
    "two_phases": {"unlabelled": [[0, 0.5], [0.5, 0.5], [0.51, 0.0]]},
}
STUDENT = {"width": 8, "input_size": 16}
TRAINING = {"steps": 24, "batch_size": 16, "validations": 6, "weight_average": 0.5}


def small_params(folder: Path, **changes: Any) -> Params:
    blocks = {"modes": MODES, "settings": SETTINGS, "student": STUDENT, "training": TRAINING}
    set_params(folder, **blocks, **changes)
    return load_params(folder / "params.yaml")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Stage one of a small teacher with random weights, on scikit-learn's digits."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        prepare_small(folder)
        params = small_params(folder)
        dump(params)
        head(params)
    return folder


@pytest.fixture
def project(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = Path(shutil.copytree(finished, tmp_path / "project"))
    monkeypatch.chdir(folder)
    return folder


# What params say is done


@pytest.mark.parametrize(
    ("mode", "block", "change"),
    [
        *(("independent", "settings", {"own": change}) for change in (
            {"dropout": 0.3}, {"l1": 1e-2}, {"l2": 1e-2}, {"label_smoothing": 0.2}, {"mixup": 1.0},
            {"cutmix": 1.0},
        )),
        *(("independent", "training", change) for change in (
            {"batch_size": 15}, {"optimizer": "sgd"}, {"schedule": "cosine"}, {"warmup": 0.5},
            {"learning_rate": 2e-3}, {"weight_decay": 0.5}, {"gradient_clip": 0.1},
            {"weight_average": 0.5},
        )),
        *(("independent", "views", change) for change in (
            {"labelled": 1}, {"padding": 0}, {"flip": False}, {"seed": 1},
        )),
        ("obedient", "settings", {"own": {"unlabelled": 0.5}}),
        ("obedient", "soft_targets", {"temperature": 1.0}),
        ("obedient", "soft_targets", {"distance": "rmse"}),
    ],
)  # fmt: skip
def test_nothing_that_params_say_of_training_is_without_effect(
    project: Path, mode: str, block: str, change: dict[str, Any]
) -> None:
    """A student of a few steps ends with other weights where one thing alone was changed."""

    def weights() -> dict[str, torch.Tensor]:
        params = load_params()
        run = set_up(params, Variant(mode, "own", 0))
        run.go(params.training, lambda look: None)
        return run.student.state_dict()

    few = {"steps": 6, "validations": 1, "weight_average": 0.0}
    edit_params(Path("params.yaml"), {"training": few, "settings": {"own": {}}})
    before = weights()
    edit_params(Path("params.yaml"), {block: change})
    after = weights()
    assert not all(torch.equal(before[name], value) for name, value in after.items())


def outcome(folder: Path) -> dict[str, bytes]:
    """Everything that a run leaves; DVCLive's curves carry the time of each look, so not these."""
    return {
        name: content for name, content in files_under(folder).items()
        if not name.startswith("live/plots")
    }  # fmt: skip


@pytest.mark.parametrize(
    ("mode", "settings"),
    [("independent", "many"), ("independent", "mixed"), ("obedient", "many"),
     ("pretrained", "two_phases")],
)  # fmt: skip
@pytest.mark.parametrize("looks", [1, 4])
def test_an_interrupted_run_ends_as_one_that_was_not(
    project: Path, monkeypatch: pytest.MonkeyPatch, mode: str, settings: str, looks: int
) -> None:
    assert_goes_on_alike(load_params(), Variant(mode, settings, 0), looks, monkeypatch)


@pytest.mark.parametrize(("mode", "settings"), [("obedient", "many"), ("pretrained", "two_phases")])
def test_an_interrupted_run_with_negatives_ends_as_one_that_was_not(
    project: Path, monkeypatch: pytest.MonkeyPatch, mode: str, settings: str
) -> None:
    contrast = {"teacher": "pooled", "student": "pooled", "distance": "crd", "match": "none"}
    params = small_params(project, probes=[contrast])
    assert_goes_on_alike(params, Variant(mode, settings, 0), 1, monkeypatch)


def assert_goes_on_alike(
    params: Params, variant: Variant, looks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped after so many looks at validation and started again, it leaves the same files."""
    train(params, variant)
    whole, curve = outcome(Path("students")), read_curve(variant)
    shutil.rmtree("students")
    with monkeypatch.context() as patch:
        stop_after(looks, patch)
        with pytest.raises(KeyboardInterrupt):
            train(params, variant)
    assert (FOLDER / variant.name / STATE).is_file()
    assert not Path("students", variant.name).exists()
    steps = []
    monkeypatch.setattr(Watch, "see", lambda watch, step, terms: steps.append(step))
    train(params, variant)
    assert steps[0] == 4 * looks + 1
    assert outcome(Path("students")) == whole
    assert read_curve(variant) == curve
    assert not (FOLDER / variant.name).exists()


def test_a_run_that_was_killed_goes_on_to_the_same_weights(project: Path) -> None:
    variant = Variant("obedient", "many", 1)
    train(load_params(), variant)
    whole = outcome(Path("students"))
    shutil.rmtree("students")
    command = [sys.executable, "-m", "pipeline", "train", "obedient", "--settings", "many",
               "--seed", "1"]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    state, deadline = FOLDER / variant.name / STATE, time.monotonic() + 120
    while not state.exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert not Path("students", variant.name).exists()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "going on after step" in done.stdout
    assert outcome(Path("students")) == whole


def test_sgd_takes_up_probes_after_the_first_step(project: Path) -> None:
    late = {"alpha": [[0, 1.0]], "beta": [[0, 0.0], [0.3, 0.0], [0.4, 1.0]], "gamma": [[0, 0.0]]}
    sgd = {**TRAINING, "optimizer": "sgd", "learning_rate": 0.01}
    set_params(project, modes={"late": late}, student=STUDENT, training=sgd)
    train(load_params(), Variant("late", "plain", 0))
    assert Path("students/late-plain-0", "student.safetensors").is_file()


def test_students_trained_ahead_at_once_come_out_as_one_by_one(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = load_params()
    variants = [Variant("obedient", "many", 0), Variant("independent", "mixed", 1)]
    for variant in variants:
        train(params, variant)
    whole = outcome(Path("students"))
    shutil.rmtree("students")
    groups = [[variant] for variant in [*variants, Variant("absent", "plain", 0)]]
    told = sorted(trained_ahead(params, groups, 2))
    assert told[0].startswith("absent-plain-0: no mode 'absent'"), "it keeps no other from training"
    assert told[1:] == ["independent-mixed-1: trained", "obedient-many-0: trained"]
    assert not Path("students").exists(), "what DVC keeps is left to it"
    monkeypatch.setattr(Watch, "see", lambda *_: pytest.fail("trained again"))
    for variant in variants:
        train(params, variant)
    assert outcome(Path("students")) == whole


@pytest.mark.parametrize("change", [{"training": {"learning_rate": 0.002}},
                                    {"probes": [{"teacher": "pooled", "student": "pooled",
                                                 "match": "first_channels"}]}])  # fmt: skip
def test_the_state_of_another_run_is_not_taken_up(
    project: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]
) -> None:
    variant = Variant("obedient", "many", 0)
    with monkeypatch.context() as patch:
        stop_after(2, patch)
        with pytest.raises(KeyboardInterrupt):
            train(load_params(), variant)
    steps = []
    monkeypatch.setattr(Watch, "see", lambda watch, step, terms: steps.append(step))
    blocks = {**change, "training": TRAINING | change.get("training", {})}
    set_params(project, modes=MODES, settings=SETTINGS, student=STUDENT, **blocks)
    train(load_params(), variant)
    assert steps[0] == 1


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04" + 100 * b"x"])
def test_a_damaged_state_is_not_taken_up(
    project: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    variant = Variant("independent", "many", 0)
    state = FOLDER / variant.name / STATE
    state.parent.mkdir(parents=True)
    state.write_bytes(content)
    train(load_params(), variant)
    assert Path("students", variant.name).is_dir()


def test_two_phases_learn_from_the_teacher_first_and_from_labels_then(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The paper's unsupervised mentoring: gullible, also on unlabelled images, then supervised."""
    told = {}

    def see(watch: Watch, step: int, terms: dict[str, torch.Tensor]) -> None:
        told[step] = set(terms)

    sizes = {}
    forward = Objective.forward

    def counted(objective: Objective, batch: Batch, *others: Any) -> dict[str, torch.Tensor]:
        sizes[len(sizes) + 1] = (len(batch.labels), len(batch.pictures))
        return forward(objective, batch, *others)

    monkeypatch.setattr(Watch, "see", see)
    monkeypatch.setattr(Objective, "forward", counted)
    train(load_params(), Variant("pretrained", "two_phases", 0))
    assert all("labels" not in told[step] and "soft targets" in told[step] for step in range(1, 13))
    assert all(told[step] == {"labels"} for step in range(14, 25))
    assert {sizes[step] for step in range(1, 13)} == {(8, 16)}
    assert {sizes[step] for step in range(14, 25)} == {(16, 16)}


def test_the_accuracy_that_training_tells_is_that_of_the_student_it_keeps(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(load_params(), Variant("independent", "many", 0))
    validation = read_split(PREPARED_FILE, "validation")
    student = load_student(Path("students/independent-many-0"))
    accuracy = score(predict_logits(student, validation.images, CPU), validation.labels)["accuracy"]
    assert f"validation accuracy {accuracy:.1%}" in capsys.readouterr().out
