"""What evaluating the teacher leaves for the report."""

from pathlib import Path

import pytest
from killing import prepare_small, set_params
from projects import REPOSITORY, refusal
from ruamel.yaml import YAML

from pipeline.params import load_params
from pipeline.stages.dump import dump
from pipeline.stages.evaluate import DUMP_RUN, evaluate_teacher
from pipeline.stages.head import head


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
