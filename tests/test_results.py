"""Results of a sweep as rows: what they are made of, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
from projects import REPOSITORY, edit_params, refusal

from pipeline.params import Params, load_params
from pipeline.results import Row, best, gather_rows, here_and_absent, read_curve, read_logged
from pipeline.variants import TEACHER, Variant

SCORES: dict[str, Any] = {
    "test": {"accuracy": 0.6}, "validation": {"accuracy": 0.5}, "parameters": 10,
    "latency_ms": {"1": 1.0, "64": 9.0},
}  # fmt: skip
SWEEP = {
    "seeds": [0, 1],
    "labels": {"modes": ["independent"], "settings": ["plain", "dropout"]},
    "features": {"modes": ["obedient"], "settings": ["plain"]},
    "unlabelled": {"modes": [], "settings": []},
}
CURVE = "live/plots/metrics/validation/accuracy.tsv"


def row(title: str, group: str, *scores: dict[str, Any]) -> Row:
    seeds = tuple(range(len(scores)))
    return Row(title, group, tuple(f"{title}-{seed}" for seed in seeds), seeds, scores)


def leave(name: str, scores: Any = SCORES, folder: str = "metrics") -> None:
    path = Path(folder, f"{name}.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(scores))


def leave_curve(name: str, text: str = "step\taccuracy\n2\t0.25\n4\t0.5\n") -> None:
    path = Path("students", name, CURVE)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_bytes((REPOSITORY / "params.yaml").read_bytes())
    edit_params(Path("params.yaml"), {"sweep": SWEEP})
    return load_params()


def test_a_row_has_the_numbers_of_the_seeds_that_have_them() -> None:
    slow = {"latency_ms": {"1": 7.0}, "test": {"accuracy": 0.5, "ece": 0.0}}
    both = row("both", "labels", SCORES, slow, {"latency_ms": {"1": 2.0}})
    assert both.values("test", "accuracy") == [0.6, 0.5]
    assert both.by_seed("test", "ece") == {1: 0.0}
    assert both.mean("test", "accuracy") == pytest.approx(0.55)
    assert both.spread("test", "accuracy") == pytest.approx(0.0707, abs=1e-4)
    assert both.latency(1) == 2.0, "the median"
    assert both.mean("test", "ece") == 0.0
    assert both.spread("test", "ece") is None
    assert both.mean("likeness", "agreement") is None


def test_students_are_here_whose_scores_and_curve_are(params: Params) -> None:
    for name in ("independent-plain-0", "independent-plain-1", "obedient-plain-1"):
        leave(name)
    for name in ("independent-plain-0", "independent-dropout-0", "obedient-plain-1"):
        leave_curve(name)
    here, absent = here_and_absent(params)
    assert [one.name for one in here] == ["independent-plain-0", "obedient-plain-1"]
    assert [one.name for one in absent] == [
        "independent-plain-1", "independent-dropout-0", "independent-dropout-1", "obedient-plain-0",
    ]  # fmt: skip


def test_rows_are_the_teacher_and_then_students_by_title_with_their_group(params: Params) -> None:
    for name in (TEACHER, *(one.name for one in params.variants())):
        leave(name)
    leave("obedient-plain-1", {"corrupted": 0.3}, "metrics/examine")
    rows = gather_rows(params, params.variants())
    assert [(one.title, one.group) for one in rows] == [
        (TEACHER, TEACHER), ("independent", "labels"), ("independent + dropout", "labels"),
        ("obedient", "features"),
    ]  # fmt: skip
    assert rows[0].names == (TEACHER,)
    assert rows[0].seeds == ()
    assert rows[3].names == ("obedient-plain-0", "obedient-plain-1")
    assert rows[3].seeds == (0, 1)
    assert rows[3].by_seed("examine", "corrupted") == {1: 0.3}


@pytest.mark.parametrize(
    "lacking",
    [("test", "accuracy"), ("validation", "accuracy"), ("parameters",), ("latency_ms", "1"),
     ("latency_ms", "64")],
)  # fmt: skip
@pytest.mark.parametrize("instead", [None, "a", {}, [1]])
def test_scores_without_what_the_report_needs_are_damaged(
    params: Params, lacking: tuple[str, ...], instead: Any
) -> None:
    scores = part = json.loads(json.dumps(SCORES))
    for key in lacking[:-1]:
        part = part[key]
    if instead is None:
        del part[lacking[-1]]
    else:
        part[lacking[-1]] = instead
    leave(TEACHER, scores)
    assert refusal(lambda: gather_rows(params, [])) == (
        "metrics/teacher.json is damaged: run `dvc repro`, or `mentee evaluate`"
    )


def test_scores_and_curves_that_are_missing_are_named_with_what_makes_them(params: Params) -> None:
    assert refusal(lambda: gather_rows(params, [])) == (
        "metrics/teacher.json is missing: run `dvc repro`, or `mentee evaluate`"
    )
    one = Variant("obedient", "plain", 0)
    assert refusal(lambda: read_curve(one)) == (
        f"students/obedient-plain-0/{CURVE} is missing: run `dvc repro`, or `mentee train`"
    )
    leave_curve(one.name)
    assert read_curve(one) == [(2, 0.25), (4, 0.5)]
    assert read_logged(one.name, Path("live/plots/metrics/norm/gradient.tsv")) == []


def test_the_best_row_of_some_groups_is_that_which_validation_likes() -> None:
    def liked(title: str, group: str, validation: float) -> Row:
        return row(title, group, {**SCORES, "validation": {"accuracy": validation}})

    rows = [liked("a", "labels", 0.4), liked("b", "labels", 0.7), liked("c", "features", 0.9)]
    found = best(rows, ("labels",))
    assert found is not None
    assert found.title == "b"
    assert best(rows, ("logits",)) is None
