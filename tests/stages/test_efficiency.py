"""Students with fewer labels, on scikit-learn's digits: which they and their head may see."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from killing import set_params
from projects import REPOSITORY, edit_params, refusal, shell

from pipeline.blocks import Training
from pipeline.files import read_json
from pipeline.heads import common_scale, fit_heads
from pipeline.lessons import CACHE, OTHER_CACHES, open_kind
from pipeline.params import Params, load_params
from pipeline.runs import Run, set_up
from pipeline.stages.dump import dump
from pipeline.stages.efficiency import ask_another_head, efficiency
from pipeline.stages.evaluate import evaluate
from pipeline.stages.head import head
from pipeline.stages.train import train
from pipeline.transfer import drawn_rows
from pipeline.variants import Budget, Variant

LONE, TAUGHT = Variant("independent", "plain", 0), Variant("obedient", "unlabelled", 0)


@pytest.fixture
def params(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    monkeypatch.chdir(prepared)
    set_params(
        prepared, training={"batch_size": 20, "steps": 40}, student={"width": 8, "input_size": 8},
        probes=[{"teacher": "pooled", "student": "pooled", "match": "projection"}],
    )  # fmt: skip
    if not Path("data/cache").exists():
        dump(load_params())
        head(load_params())
    return load_params()


def scores(budget: Budget) -> dict:
    return read_json(Path(f"evidence/efficiency/{budget.name}.json"))


@pytest.mark.parametrize("variant", [LONE, TAUGHT])
def test_with_all_labels_it_is_the_student_of_train(params: Params, variant: Variant) -> None:
    """But for the last bit of the head's logits, which a cache keeps in half precision."""
    labels = params.data.labelled_per_class
    efficiency(params, Budget(variant, labels))
    train(params, variant)
    evaluate(params, variant)
    whole = read_json(Path(f"metrics/{variant.name}.json"))
    for split in ("validation", "test"):
        found = scores(Budget(variant, labels))[split]
        if variant == LONE:
            assert found == whole[split]
        assert found["accuracy"] == pytest.approx(whole[split]["accuracy"], abs=0.05)
        assert found["nll"] == pytest.approx(whole[split]["nll"], rel=0.1)


@pytest.mark.parametrize("variant", [LONE, TAUGHT])
def test_labels_that_were_not_drawn_are_not_shown(params: Params, variant: Variant) -> None:
    run = set_up(params, variant)
    labelled = run.lessons[0]
    drawn = drawn_rows(labelled.split.labels, 2, variant.seed)
    assert np.bincount(labelled.split.labels[drawn]).tolist() == [2] * 10
    views = {
        picture.numpy().tobytes()
        for view in range(labelled.views)
        for picture in labelled.batch(drawn, np.full_like(drawn, view)).pictures
    }
    run.mixture.keep_to(drawn)
    for _ in range(9):
        batch = run.mixture.next(0.0)
        shown = [picture.numpy().tobytes() for picture in batch.pictures[: len(batch.labels)]]
        assert views.issuperset(shown)


def test_the_head_knows_the_drawn_labels_alone(params: Params) -> None:
    """As one that is fitted on nothing else from the start, for one of the regularisations."""
    run = set_up(params, TAUGHT)
    labelled, unlabelled = run.lessons
    rows = drawn_rows(labelled.split.labels, 2, 0)
    ask_another_head(params, run, rows)
    kind = open_kind(CACHE, labelled.split, "features/pooled")
    mean, std = kind.statistics()
    features = np.concatenate([kind.view(view)[rows] for view in range(kind.views)])
    labels = np.tile(labelled.split.labels[rows], kind.views)
    strengths = params.head.inverse_regularisation
    heads = fit_heads(features, labels, mean, common_scale(std), strengths)
    for lessons in (labelled, unlabelled):
        shown = np.arange(len(lessons.split))
        (told,) = lessons.answers(lessons.logits[:1], shown, np.ones_like(shown))
        seen = open_kind(CACHE, lessons.split, "features/pooled").view(1)
        assert any(np.allclose(told, one.logits(seen), atol=1e-4) for one in heads)
        cached = open_kind(CACHE, lessons.split, "task_logits").view(1)
        assert not np.allclose(told, cached, atol=0.05)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_seed_draws_labels_and_the_student_is_trained_on_them_with_their_head(
    params: Params, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    variant = Variant("obedient", "unlabelled", seed)
    labels = set_up(params, variant).lessons[0].split.labels
    drawn = {*drawn_rows(labels, 2, seed).tolist()}
    began = []

    def go(run: Run, training: Training, listen: object) -> None:
        began.append(run.student)
        labelled = run.lessons[0]
        batches = [run.mixture.draw(0.0)[0] for _ in range(9)]
        assert {row for _, rows, _ in batches for row in rows.tolist()} == drawn
        every = np.arange(len(labelled.split))
        (told,) = labelled.answers(labelled.logits[:1], every, np.zeros_like(every))
        cached = open_kind(CACHE, labelled.split, "task_logits").view(0)
        assert not np.allclose(told, cached, atol=0.05)

    monkeypatch.setattr(Run, "go", go)
    efficiency(params, Budget(variant, 2))
    assert len(began) == 1


def test_what_other_teachers_say_is_not_replaced_by_the_head_here(params: Params) -> None:
    """Also where there is but one of them: their heads know all labels."""
    shutil.copytree(CACHE, OTHER_CACHES / "far", dirs_exist_ok=True)
    probes = [{"teacher": tap, "student": "pooled", "match": "projection"}
              for tap in ("pooled", "far/pooled")]  # fmt: skip
    edit_params(Path("params.yaml"), {"settings": {"far": {"teachers": ["far"]}}, "probes": probes})
    text = refusal(lambda: efficiency(load_params(), Budget(Variant("obedient", "far", 0), 2)))
    assert "the heads of other teachers know all labels" in text


@pytest.mark.parametrize(
    "change", [{"finetune": {"layers": "head"}}, {"head": {"fit": False}}], ids=str
)
def test_a_teacher_that_knows_all_labels_is_refused_though_params_name_no_budgets(
    params: Params, change: dict
) -> None:
    edit_params(Path("params.yaml"), change)
    text = refusal(lambda: efficiency(load_params(), Budget(TAUGHT, 2)))
    assert "students with fewer labels need a teacher with no more" in text
    efficiency(load_params(), Budget(LONE, 2))


def test_more_labels_than_there_are_is_one_line(params: Params) -> None:
    text = refusal(lambda: efficiency(params, Budget(LONE, 1000)))
    assert "efficiency: 1000 labels a class are asked for, there are" in text
    edit_params(Path("params.yaml"), {"efficiency": {"labels": [1000]}})
    assert "efficiency.labels: 1000 is not allowed: must be less than" in refusal(load_params)


def test_dvc_names_the_file_as_the_command_does(tmp_path: Path) -> None:
    for name in ("dvc.yaml", "params.yaml"):
        (tmp_path / name).write_text((REPOSITORY / name).read_text())
    edit_params(
        tmp_path / "params.yaml",
        {"efficiency": {"labels": [5, 10]}, "sweep": {"seeds": [0, 1]}},
    )
    for command in (("git", "init", "-q"), ("dvc", "init", "-q")):
        assert shell(*command, cwd=tmp_path).returncode == 0
    listed = shell("dvc", "stage", "list", "--name-only", cwd=tmp_path).stdout.split()
    found = [name.split("@")[1] for name in listed if name.startswith("efficiency-")]
    assert sorted(found) == sorted(
        budget.name for budget in load_params(tmp_path / "params.yaml").budgets()
    )
