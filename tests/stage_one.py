"""Helpers: a folder in which stage one has run on scikit-learn's digits, and copies of it."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from projects import REPOSITORY, merge
from ruamel.yaml import YAML

from pipeline.params import Params, load_params
from pipeline.stages.dump import dump
from pipeline.stages.head import head
from pipeline.stages.prepare import prepare

SIZE = 64  # the teacher's input
SMALLEST: dict[str, Any] = {
    "data": {"source": "digits", "image_size": 32, "labelled_per_class": 2, "unlabelled": 12,
             "validation": 10, "test": 10},
    "views": {"labelled": 3, "unlabelled": 2},
    "teacher": {"input_size": SIZE},
    "cache": {"rows_per_shard": 12},
    "head": {"inverse_regularisation": [0.001, 0.01]},
    "runtime": {"device": "cpu", "threads": 1},
}  # fmt: skip


def set_params(*changes: dict[str, Any]) -> Params:
    """The repository's params in this folder with `changes` by block, one after another."""
    assert Path.cwd() != REPOSITORY, "the repository's own params.yaml is not the test's to write"
    yaml = YAML()
    content = yaml.load(REPOSITORY / "params.yaml")
    for change in changes:
        merge(content, change)
    yaml.dump(content, Path("params.yaml"))
    return load_params()


def run_stage_one(folder: Path, make_params: Callable[[], Params]) -> Path:
    """prepare, dump and head in `folder`, with the params that are made there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        params = make_params()
        prepare(params)
        dump(params)
        head(params)
    return folder


def enter_copy(finished: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of a finished folder that a test may change, and stands in."""
    shutil.copytree(finished, folder)
    monkeypatch.chdir(folder)
    return folder
