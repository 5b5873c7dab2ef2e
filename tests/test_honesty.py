"""Validation chooses, the test split only reports: nothing that is chosen knows it."""

from pathlib import Path

import h5py
import numpy as np
import pytest
from caches import files_under
from killing import prepare_small, set_params

from pipeline.params import Params, load_params
from pipeline.prepared import PREPARED_FILE
from pipeline.stages.dump import dump
from pipeline.stages.evaluate import evaluate, evaluate_teacher
from pipeline.stages.head import head
from pipeline.stages.report import report
from pipeline.stages.stability import Attempt, stability
from pipeline.stages.train import train

CHOSEN_BY = {
    "head": {"self_training": 2, "posterior": "laplace", "samples": 4, "temperatures": [0.1, 1.0]},
    "training": {"steps": 60, "batch_size": 20, "validations": 4, "learning_rate": 0.01},
    "student": {"width": 8, "input_size": 8},
    "settings": {"early": {"early_stopping": 2}},
    "sweep": {
        "seeds": [0],
        "labels": {"modes": ["independent"], "settings": ["plain", "dropout", "early"]},
        "features": {"modes": ["adamant", "obedient", "gullible"], "settings": ["plain"]},
        "unlabelled": {"modes": ["obedient"], "settings": ["unlabelled"]},
    },
    "stability": {"steps": 20},
}  # fmt: skip


def whole_run(folder: Path, test_split: str, patch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """All that a run leaves, but for what it says of the test split; that split is as told."""
    folder.mkdir()
    patch.chdir(folder)
    prepare_small(folder)
    set_params(folder, **CHOSEN_BY)
    if test_split == "false":  # what is right is wrong there, so that the worst look best
        with h5py.File(PREPARED_FILE, "r+") as file:
            images, labels = file["test/images"], file["test/labels"]
            images[:] = np.flip(images[:], axis=2)
            labels[:] = (labels[:] + 1) % 10
    params = load_params()
    dump(params)
    head(params)
    evaluate_teacher()
    for variant in params.variants():
        train(params, variant)
        evaluate(params, variant)
    stability(params, Attempt("obedient", 0.01, 5, 0))
    report(params)
    chosen = {**files_under(Path("students")), **files_under(Path("evidence/stability"))}
    for split in ("labelled", "unlabelled", "validation"):
        cache = files_under(Path("data/cache", split))
        chosen |= {f"{split}/{name}": content for name, content in cache.items()}
    chosen["head"] = Path("metrics/head.json").read_bytes()
    return {
        name: content for name, content in chosen.items() if "live/plots" not in name  # has times
    }  # fmt: skip


def titles_in_the_headline(folder: Path, params: Params) -> list[str]:
    """Which students the report speaks of, in its order."""
    text = (folder / "reports/results.txt").read_text().splitlines()[-1]
    titles = {variant.title for variant in params.variants()}
    return [word for word in text.replace("(", "|").replace(")", "|").split("|") if word in titles]


def test_with_another_test_split_everything_is_chosen_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = whole_run(tmp_path / "real", "real", monkeypatch)
    scores = Path("metrics/teacher.json").read_bytes()
    false = whole_run(tmp_path / "false", "false", monkeypatch)
    assert Path("metrics/teacher.json").read_bytes() != scores, "the split did change"
    assert set(false) == set(real)
    assert [name for name in real if false[name] != real[name]] == []
    spoken_of = titles_in_the_headline(tmp_path / "real", load_params())
    assert len(spoken_of) == 3
    assert titles_in_the_headline(tmp_path / "false", load_params()) == spoken_of
