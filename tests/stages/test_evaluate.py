"""What evaluating leaves for the report."""

from pathlib import Path

import numpy as np
import pytest
import torch
from killing import prepare_small, set_params
from projects import REPOSITORY, refusal
from ruamel.yaml import YAML

from pipeline.cache.reader import Kind
from pipeline.compute import Compute
from pipeline.likeness import cka, gram
from pipeline.params import load_params
from pipeline.prepared import PREPARED_FILE, read_split
from pipeline.stages import evaluate
from pipeline.stages.dump import dump
from pipeline.stages.evaluate import DUMP_RUN, compare_features, evaluate_teacher
from pipeline.stages.head import head
from pipeline.students import Card, Student


@pytest.fixture
def dumped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder, which is entered, with the logits of a teacher and its head."""
    monkeypatch.chdir(tmp_path)
    prepare_small(tmp_path)
    set_params(
        tmp_path, views={"labelled": 1, "unlabelled": 1}, head={"inverse_regularisation": [0.01]}
    )
    dump(load_params())
    head(load_params())


def test_folders_that_dvc_wants_for_the_report_are_there_without_any_student(dumped: None) -> None:
    evaluate_teacher()
    stages = YAML(typ="safe", pure=True).load(REPOSITORY / "dvc.yaml")["stages"]
    folders = {"metrics", "evidence", "students"}
    assert folders <= {*stages["report"]["deps"]}
    assert all(Path(folder).is_dir() for folder in folders)


def test_what_the_dump_measured_is_asked_for_again_where_it_is_damaged_or_missing(
    dumped: None,
) -> None:
    for content in ('{"parameters": 4, "byt', "[]", '{"parameters": 4}'):
        DUMP_RUN.write_text(content)
        assert refusal(evaluate_teacher) == (
            "runs/dump.json is damaged: run `dvc repro`, or `mentee dump`"
        )
    DUMP_RUN.unlink()
    assert "missing: run `dvc repro`, or `mentee dump`" in refusal(evaluate_teacher)


def test_features_are_compared_of_the_same_images_where_these_are_a_part(
    dumped: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate, "COMPARED", 6)
    split = read_split(PREPARED_FILE, "labelled")
    images = torch.from_numpy(split.images)
    as_stored = load_params().student.model_copy(update={"input_size": images.shape[1]})
    student = Student(Card.of(as_stored, 0.0, split.class_names, images, {})).eval()
    found = compare_features(student, split, ["pooled"], Compute(torch.device("cpu"), False))
    rows = np.linspace(0, len(split) - 1, 6).round().astype(int)
    told = torch.from_numpy(Kind(Path("data/cache/labelled/features/pooled")).view(0)[rows])
    with torch.no_grad(), student.tapped(["conv5"]) as features:
        student(images[rows].permute(0, 3, 1, 2))
        expected = cka(gram(told.float()), gram(features["conv5"]))
    assert found["pooled"]["conv5"] == pytest.approx(expected, abs=1e-4)
