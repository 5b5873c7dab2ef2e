"""Short trainings that may fail: what is recorded of those that learn and of those that do not."""

import json
from pathlib import Path

import pytest
from killing import set_params
from projects import REPOSITORY, edit_params, refusal, shell

from pipeline.params import load_params
from pipeline.stages.dump import dump
from pipeline.stages.head import head
from pipeline.stages.stability import Attempt, stability


@pytest.fixture
def project(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(prepared)
    set_params(
        prepared, training={"batch_size": 20}, student={"width": 8, "input_size": 8},
        stability={"steps": 40},
        probes=[{"teacher": "pooled", "student": "pooled", "match": "projection"}],
    )  # fmt: skip
    if not Path("data/cache").exists():
        dump(load_params())
        head(load_params())
    return prepared


def told(name: str) -> dict:
    return json.loads(Path(f"evidence/stability/{name}.json").read_text())


def test_one_that_learns_tells_its_accuracy_and_norms_over_training(project: Path) -> None:
    stability(load_params(), Attempt("independent", 0.01, 5, 0))
    content = told("independent-0.01-5-0")
    assert content["diverged"] is None
    assert content["chance"] == 0.1 < content["accuracy"]
    assert [look["step"] for look in content["curve"]] == list(range(2, 41, 2))
    assert content["curve"][-1]["accuracy"] == content["accuracy"]
    for look in content["curve"]:
        assert look["gradient_norm"] > 0
        assert look["weight_norm"] > 0


def test_too_small_a_learning_rate_learns_nothing(project: Path) -> None:
    stability(load_params(), Attempt("independent", 1e-8, 5, 0))
    content = told("independent-1e-08-5-0")
    assert content["diverged"] is None
    norms = [look["weight_norm"] for look in content["curve"]]
    assert norms[-1] == pytest.approx(norms[0], rel=1e-5)


def test_divergence_is_a_result_and_no_error(project: Path) -> None:
    edit_params(Path("params.yaml"), {"training": {"optimizer": "sgd", "weight_decay": 10.0}})
    stability(load_params(), Attempt("independent", 10.0, 5, 0))
    content = told("independent-10.0-5-0")
    assert content["diverged"]["term"] == "labels"
    assert 1 < content["diverged"]["step"] <= 40
    assert content["accuracy"] < 0.3
    assert len(content["curve"]) < 20


def test_depth_is_that_of_the_network_and_the_seed_decides(project: Path) -> None:
    for depth, seed in ((3, 0), (8, 0), (3, 1)):
        stability(load_params(), Attempt("gullible", 0.01, depth, seed))
    flat, deep, other = (told(f"gullible-0.01-{name}") for name in ("3-0", "8-0", "3-1"))
    assert deep["curve"][0]["weight_norm"] > flat["curve"][0]["weight_norm"]
    assert other["curve"][0] != flat["curve"][0]


def test_a_network_with_a_depth_of_its_own_takes_no_other(project: Path) -> None:
    edit_params(Path("params.yaml"), {"student": {"model": "resnet8x4"}})
    text = refusal(lambda: stability(load_params(), Attempt("independent", 0.01, 7, 0)))
    assert "stability.depths: resnet8x4 has a depth of its own: set it to [5]" in text


def test_settings_change_nothing(project: Path) -> None:
    """DVC does not ask for it where they change."""
    stability(load_params(), Attempt("gullible", 0.01, 3, 0))
    before = told("gullible-0.01-3-0")
    edit_params(Path("params.yaml"), {"settings": {"plain": {"dropout": 0.9, "l2": 1.0}}})
    stability(load_params(), Attempt("gullible", 0.01, 3, 0))
    assert told("gullible-0.01-3-0") == before


def test_too_few_steps_are_an_error_of_one_line(project: Path) -> None:
    edit_params(Path("params.yaml"), {"stability": {"steps": 3}})
    text = refusal(lambda: stability(load_params(), Attempt("independent", 0.01, 5, 0)))
    assert text.startswith("stability.steps: warmup: 0.25 of 3 steps leaves no step")


def test_dvc_names_the_file_as_the_command_does(project: Path, tmp_path: Path) -> None:
    for name in ("dvc.yaml", "params.yaml"):
        (tmp_path / name).write_text((REPOSITORY / name).read_text())
    rates = [1.0e-5, 1.0e-4, 0.03, 1.0]
    edit_params(
        tmp_path / "params.yaml",
        {"stability": {"modes": ["independent"], "learning_rates": rates, "seeds": [0]}},
    )
    for command in (("git", "init", "-q"), ("dvc", "init", "-q")):
        assert shell(*command, cwd=tmp_path).returncode == 0
    listed = shell("dvc", "stage", "list", "--name-only", "stability", cwd=tmp_path).stdout.split()
    assert listed == [f"stability@{Attempt('independent', rate, 5, 0).name}" for rate in rates]
