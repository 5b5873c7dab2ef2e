"""Students of several teachers: here the same network at two input sizes, each with its cache."""

import shutil
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from caches import mentee
from projects import refusal
from stage_one import SMALLEST, enter_copy, run_stage_one, set_params

from pipeline.lessons import CACHE, OTHER_CACHES, Lessons, mentored_lessons
from pipeline.params import Params
from pipeline.prepared import PREPARED_FILE, read_split

CPU = torch.device("cpu")
QUICK: dict[str, Any] = {
    "student": {"width": 8},
    "training": {"steps": 6, "batch_size": 20, "validations": 2},
    "settings": {
        "both": {"teachers": ["here", "large"]},
        "other": {"teachers": ["large"], "unlabelled": 0.5},
    },
    "probes": [
        {"teacher": "middle", "student": "conv4", "match": "projection"},
        {"teacher": "large/pooled", "student": "pooled", "match": "projection"},
    ],
}


def quick_params(**changes: Any) -> Params:
    return set_params(SMALLEST, deepcopy(QUICK), changes)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the caches of two teachers: not to be changed."""
    folder = tmp_path_factory.mktemp("finished")
    run_stage_one(folder, lambda: quick_params(teacher={"input_size": 80}))
    (folder / OTHER_CACHES).mkdir()
    (folder / CACHE).rename(folder / OTHER_CACHES / "large")
    return run_stage_one(folder, quick_params)


@pytest.fixture
def project(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return enter_copy(finished, tmp_path / "project", monkeypatch)


def lessons_of(*teachers: str, taps: tuple[str, ...] = ()) -> Lessons:
    split = read_split(PREPARED_FILE, "labelled")
    return mentored_lessons(split, True, taps, 32, CPU, teachers=teachers)


def test_logits_are_averaged_and_each_tap_is_its_teachers_own(project: Path) -> None:
    rows, views = np.arange(20), np.arange(20) % 3
    here = lessons_of("here", taps=("pooled",)).batch(rows, views)
    large = lessons_of("large", taps=("large/pooled",)).batch(rows, views)
    both = lessons_of("here", "large", taps=("pooled", "large/pooled")).batch(rows, views)
    assert not torch.equal(here.logits, large.logits)
    torch.testing.assert_close(both.logits, (here.logits + large.logits) / 2)
    assert torch.equal(both.features["pooled"], here.features["pooled"])
    assert torch.equal(both.features["large/pooled"], large.features["large/pooled"])
    assert not torch.equal(both.features["pooled"], both.features["large/pooled"])
    assert torch.equal(both.pictures, here.pictures)


def test_a_student_learns_from_both_and_its_curves_name_each_probe(project: Path) -> None:
    done = mentee("train", "obedient", "--settings", "both")
    assert done.exit_code == 0, done.output
    losses = project / "students/obedient-both-0/live/plots/metrics/loss"
    names = {path.relative_to(losses).as_posix() for path in losses.rglob("*.tsv")}
    assert names == {
        "labels.tsv", "soft targets.tsv", "probe middle conv4.tsv",
        "probe large/pooled pooled.tsv",
    }  # fmt: skip


def test_a_student_of_another_teacher_alone_does_not_read_the_one_here(project: Path) -> None:
    shutil.rmtree(project / CACHE)
    done = mentee("train", "obedient", "--settings", "other")
    assert done.exit_code == 0, done.output


def test_a_student_of_the_teacher_here_does_not_read_the_others(project: Path) -> None:
    shutil.rmtree(project / OTHER_CACHES)
    assert mentee("train", "obedient").exit_code == 0
    done = mentee("train", "obedient", "--settings", "both")
    assert (done.exit_code, "data/caches/large" in done.output) == (1, True), done.output
    assert len(done.output.splitlines()) == 1


def test_the_largest_logits_of_several_teachers_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, project: Path
) -> None:
    """One teacher's will do, at temperature 1; of two that keep other classes there is no mean."""
    soft = {"distance": "kl", "temperature": 1.0}
    run_stage_one(project, lambda: quick_params(cache={"logits": "top5"}, soft_targets=soft))
    assert mentee("train", "obedient").exit_code == 0
    done = mentee("train", "obedient", "--settings", "both")
    assert done.exit_code == 1
    told = "the mean of several teachers needs every logit, data/cache/labelled/task_logits keeps"
    assert told in done.output


def test_fewer_views_of_one_teacher_are_the_views_of_all(project: Path) -> None:
    for kind in ("views", "task_logits"):
        shutil.rmtree(project / OTHER_CACHES / "large/labelled" / kind / "v002")
    assert lessons_of("here", "large").views == 2


def test_a_teacher_that_was_shown_other_views_is_refused(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = enter_copy(finished, tmp_path / "project", monkeypatch)
    shutil.rmtree(project / CACHE)
    run_stage_one(project, lambda: quick_params(views={"seed": 1}))
    assert "has other views than" in refusal(lambda: lessons_of("here", "large"))


def test_a_teacher_of_other_images_is_refused(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = enter_copy(finished, tmp_path / "project", monkeypatch)
    run_stage_one(project, lambda: quick_params(data={"seed": 1}))
    text = refusal(lambda: lessons_of("here", "large"))
    assert "data/caches/large" in text
    assert "was made for other images" in text


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"sweep": {"features": {"modes": ["obedient"], "settings": ["both"]}}}, "sweep.teachers"),
        ({"sweep": {"teachers": {"modes": ["obedient"], "settings": ["plain"]}}}, "sweep.features"),
        ({"sweep": {"teachers": {"modes": ["independent"], "settings": ["both"]}}}, "no term"),
        ({"settings": {"far": {"teachers": ["far"]}},
          "sweep": {"teachers": {"modes": ["obedient"], "settings": ["far"]}}}, "no probe asks"),
        ({"settings": {"both": {"teachers": ["here", "here"]}}}, "once only"),
        ({"settings": {"both": {"teachers": []}}}, "at least 1"),
        ({"probes": [{"teacher": "../pooled", "student": "pooled", "match": "projection"}]},
         "probes.0.teacher"),
        ({"probes": [{"teacher": "late", "student": "pooled", "match": "projection"}]},
         "not one of middle, pooled"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict, told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert told in refusal(lambda: quick_params(**change))
