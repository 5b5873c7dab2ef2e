"""What runs on a GPU, on one that is pretended: all lies where it must, and nobody waits for it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from killing import prepare_small, set_params, stop_after
from pretended_gpu import GPU, Asked, obliging_gpu, pretended_gpu
from stage_one import enter_copy, run_stage_one

from pipeline.cache.schema import Place
from pipeline.checkpoints import Checkpoint
from pipeline.compute import Compute
from pipeline.mentoring.distances import DISTANCES
from pipeline.mentoring.losses import SOFT_TARGET_DISTANCES
from pipeline.params import Params, load_params
from pipeline.prepared import PREPARED_FILE, read_split
from pipeline.runs import Run, set_up
from pipeline.stages.dump import answer_filled_up
from pipeline.stages.efficiency import efficiency
from pipeline.stages.evaluate import evaluate
from pipeline.stages.examine import examine
from pipeline.stages.finetune import finetune
from pipeline.stages.stability import stability
from pipeline.stages.targets import targets
from pipeline.stages.train import train, train_ahead_as_one
from pipeline.students import load_student
from pipeline.teachers import load_teacher
from pipeline.together import Pupil, fit_together
from pipeline.training import answer_plain
from pipeline.variants import TEACHER, UNTRAINED, Attempt, Budget, Variant
from pipeline.views import replay
from pipeline.views_ahead import show

STEPS = 4
MODES: dict[str, Any] = {
    "lone": {"alpha": [[0, 1.0]], "beta": [[0, 0.0]], "gamma": [[0, 0.0]]},
    "taught": {"alpha": [[0, 0.2]], "beta": [[0, 1.0]], "gamma": [[0, 1.0]]},
}
LONE_SETTINGS: dict[str, Any] = {
    "plain": {},
    "penalised": {"l1": 1e-5, "l2": 1e-4, "dropout": 0.3},
    "mixup": {"mixup": 0.2},
    "cutmix": {"cutmix": 1.0},
    "smoothing": {"label_smoothing": 0.1},
    "stopping": {"early_stopping": 3},
}
TAUGHT_SETTINGS: dict[str, Any] = {"plain": {}, "mixed": {"unlabelled": 0.4}}
MATCHES = {"channels": "projection", "grid": "none", "nothing": "none", "negatives": "none"}
SMALL: dict[str, Any] = {
    "data": {"labelled_per_class": 4, "unlabelled": 30, "validation": 21, "test": 20},
    "cache": {"rows_per_shard": 30},
    "head": {"inverse_regularisation": [0.01]},
    "student": {"width": 8, "input_size": 16},
    "training": {"steps": STEPS, "batch_size": 15, "validations": 1, "warmup": 0.5},
    "modes": MODES,
    "settings": LONE_SETTINGS | TAUGHT_SETTINGS,
}
BEYOND: dict[str, Any] = {
    "examine": {"corrupted": 10, "per_class": [2], "draws": 1, "retrain_after": ["conv1"],
                "retrain_steps": 4},
    "stability": {"steps": 4},
}  # fmt: skip


def change(**blocks: Any) -> Params:
    set_params(Path(), **SMALL | blocks)
    return load_params()


def small() -> Params:
    prepare_small(Path())
    return change()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_stage_one(tmp_path_factory.mktemp("finished"), small)


@pytest.fixture(autouse=True)
def project(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return enter_copy(finished, tmp_path / "project", monkeypatch)


def steps_before_waiting(params: Params, variant: Variant) -> int:
    """Steps that training takes until it asks the GPU for a number; it must not wait before."""
    with pretended_gpu() as gpu:
        run = set_up(params, variant)
        steps = count_batches(run)
        gpu.waits.clear()  # setting up may wait
        with pytest.raises(Asked):
            run.go(params.training, lambda look: None)
        assert not gpu.waits
    return len(steps)


def count_batches(run: Run) -> list[float]:
    """The times of the batches that a run will have drawn."""
    times: list[float] = []
    draw = run.mixture.draw

    def noted(t: float) -> Any:
        times.append(t)
        return draw(t)

    run.mixture.draw = noted  # type: ignore[method-assign]
    return times


@pytest.mark.parametrize("settings", LONE_SETTINGS)
def test_a_lone_student_waits_for_no_gpu_before_the_look(settings: str) -> None:
    assert steps_before_waiting(change(), Variant("lone", settings, 0)) == STEPS


@pytest.mark.parametrize("settings", TAUGHT_SETTINGS)
def test_a_taught_student_waits_for_no_gpu_before_the_look(settings: str) -> None:
    assert steps_before_waiting(change(), Variant("taught", settings, 0)) == STEPS


@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")
@pytest.mark.parametrize("changed", [{"optimizer": "sgd"}, {"gradient_clip": 1.0},
                                     {"weight_average": 0.9}], ids=str)  # fmt: skip
def test_no_way_of_training_waits_for_a_gpu(changed: dict[str, Any]) -> None:
    params = change(training=SMALL["training"] | changed)
    assert steps_before_waiting(params, Variant("taught", "plain", 0)) == STEPS


@pytest.mark.parametrize("distance", DISTANCES)
def test_no_distance_of_features_waits_for_a_gpu(distance: str) -> None:
    probe = {"teacher": "middle", "student": "conv4", "distance": distance,
             "match": MATCHES[DISTANCES[distance].needs]}  # fmt: skip
    params = change(probes=[probe])
    assert steps_before_waiting(params, Variant("taught", "mixed", 0)) == STEPS


@pytest.mark.parametrize("distance", SOFT_TARGET_DISTANCES)
def test_no_distance_of_soft_targets_waits_for_a_gpu(distance: str) -> None:
    params = change(soft_targets={"distance": distance, "temperature": 3.0})
    assert steps_before_waiting(params, Variant("taught", "mixed", 0)) == STEPS


def test_what_a_gpu_cannot_hold_is_sent_there_without_waiting() -> None:
    params = change(runtime={"resident_share": 0.0})
    assert steps_before_waiting(params, Variant("taught", "mixed", 0)) == STEPS


@pytest.mark.parametrize(("mode", "settings"), [("lone", "plain"), ("taught", "mixed")])
def test_students_as_one_wait_for_no_gpu_before_the_look(mode: str, settings: str) -> None:
    params = change()
    with pretended_gpu() as gpu:
        first = set_up(params, Variant(mode, settings, 0))
        both = [first, set_up(params, Variant(mode, settings, 1), beside=first)]
        steps = [count_batches(run) for run in both]
        pupils = [
            Pupil(run.student, run.objective, run.mixture, lambda look: None,
                  Checkpoint(str(number), "", None))
            for number, run in enumerate(both)
        ]  # fmt: skip
        gpu.waits.clear()
        with pytest.raises(Asked):
            fit_together(pupils, first.validation, params.training, first.compute)
        assert not gpu.waits
    assert [len(times) for times in steps] == [STEPS, STEPS]


def test_a_teacher_answers_on_a_gpu_without_waiting() -> None:
    params = change()
    split = read_split(PREPARED_FILE, "labelled")
    work = [(split, Place(1, 0, 0, len(split)))]
    with pretended_gpu() as gpu:
        teacher = load_teacher(params.teacher, Compute(GPU, bfloat16=True))
        gpu.waits.clear()
        for batch in show(work, params.views, params.teacher.input_size, torch.device("cpu")):
            answers = answer_filled_up(teacher, batch.pictures)
            places = {told.device for told in [answers.logits, *answers.features.values()]}
            assert places == {GPU}
        assert not gpu.waits


def test_views_of_several_shapes_are_replayed_on_a_gpu_without_waiting() -> None:
    images = torch.zeros(4, 12, 12, 3, dtype=torch.uint8)
    regions = np.array([[0, 0, 12, 12, 0], [-1, 2, 12, 12, 1], [1, 1, 8, 8, 0], [0, 0, 6, 10, 1]])
    with pretended_gpu() as gpu:
        lying_there = images.to(GPU)
        gpu.waits.clear()
        pictures = replay(lying_there, regions, 8)
        assert (pictures.device, pictures.shape) == (GPU, (4, 3, 8, 8))
        assert not gpu.waits


def test_students_answer_on_a_gpu() -> None:
    with pretended_gpu():
        run = set_up(change(), Variant("lone", "plain", 0))
        (logits,) = answer_plain(run.student, run.validation.images, run.compute)
        assert (logits.device, logits.shape) == (GPU, (len(run.validation), 10))


def test_training_goes_on_on_a_gpu_where_it_was_killed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    params = change(training=SMALL["training"] | {"validations": 2})
    variant = Variant("taught", "mixed", 0)
    with obliging_gpu():
        with monkeypatch.context() as patch:
            stop_after(1, patch)
            with pytest.raises(KeyboardInterrupt):
                train(params, variant)
        train(params, variant)
    assert "going on after step 2" in capsys.readouterr().out
    load_student(Path("students") / variant.name)


def test_students_as_one_are_trained_to_their_end_on_a_gpu() -> None:
    variants = [Variant("taught", "mixed", seed) for seed in range(2)]
    with obliging_gpu():
        assert train_ahead_as_one(change(), variants) == ["", ""]


def test_what_is_asked_of_networks_is_asked_on_a_gpu() -> None:
    params = change(**BEYOND)
    student, teacher = Variant("taught", "plain", 0), Variant(TEACHER, "plain", 0)
    with obliging_gpu():
        train(params, student)
        evaluate(params, student)
        targets(params)
        for network in (student, teacher, Variant(UNTRAINED, "plain", 0)):
            examine(params, network)
        efficiency(params, Budget(student, 2))
        stability(params, Attempt("taught", 0.01, params.student.depth, 0))
    assert len(list(Path("evidence").rglob("*.json"))) == 6


def test_a_teacher_is_tuned_on_a_gpu() -> None:
    params = change(finetune={"layers": "head", "steps": 3, "batch_size": 8})
    with obliging_gpu():
        finetune(params)
    assert Path("data/teacher").is_dir()
