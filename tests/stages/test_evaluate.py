"""What evaluating the teacher leaves for the report."""

from pathlib import Path

import pytest
from killing import prepare_small, set_params
from projects import REPOSITORY
from ruamel.yaml import YAML

from pipeline.params import load_params
from pipeline.stages.dump import dump
from pipeline.stages.evaluate import evaluate_teacher
from pipeline.stages.head import head


def test_folders_that_dvc_wants_for_the_report_are_there_without_any_student(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    prepare_small(tmp_path)
    set_params(
        tmp_path, views={"labelled": 1, "unlabelled": 1}, head={"inverse_regularisation": [0.01]}
    )
    dump(load_params())
    head(load_params())
    evaluate_teacher()
    stages = YAML(typ="safe", pure=True).load(REPOSITORY / "dvc.yaml")["stages"]
    folders = {"metrics", "evidence", "students"}
    assert folders <= {*stages["report"]["deps"]}
    assert all(Path(folder).is_dir() for folder in folders)
