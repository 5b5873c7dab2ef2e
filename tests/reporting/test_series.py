"""The numbers behind the pictures, against numbers on paper."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from projects import REPOSITORY

from pipeline.corruptions import CORRUPTIONS as KINDS
from pipeline.evidence_blocks import Efficiency
from pipeline.params import load_params
from pipeline.reporting.evidence import STRENGTHS
from pipeline.reporting.plots import write_plots
from pipeline.reporting.series import (
    CORRUPTIONS,
    corrupted_images,
    corruptions,
    efficiency,
    likeness,
    norms,
    reliability,
    retrained,
    shares_that_train,
    transfer,
)
from pipeline.results import Row

PAIR = Row("pair", "features", ("pair-0", "pair-1"), (0, 1), ({}, {}))


CORRUPTED = {
    "images": 5, "clean": 0.9, "gaussian_noise": [0.8, 0.7, 0.6, 0.5, 0.4],
    "gaussian_blur": [0.5] * 5, "contrast": [0.5] * 5, "jpeg": [0.1] * 5,
}  # fmt: skip


def attempt(accuracy: float, rate: float = 0.1, diverged: Any = None, **about: Any) -> Any:
    return {"mode": "obedient", "depth": 5, "seed": 0, "chance": 0.1, "curve": [],
            "accuracy": accuracy, "learning_rate": rate, "diverged": diverged, **about}  # fmt: skip


def leave(folder: Path, stage: str, name: str, content: Any) -> None:
    path = folder / f"evidence/{stage}/{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_run_has_trained_that_comes_half_way_from_chance_to_the_best_of_all() -> None:
    """Chance 0.1, best 0.5: half way is 0.3."""
    runs = [attempt(0.5), attempt(0.31), attempt(0.29), attempt(0.301, rate=0.01)]
    assert shares_that_train(runs, 0.5) == {("obedient", 5): {0.1: (2, 3), 0.01: (1, 1)}}
    assert shares_that_train(runs, 0.9) == {("obedient", 5): {0.1: (1, 3), 0.01: (0, 1)}}
    exactly = [attempt(1.0, chance=0.0), attempt(0.5, chance=0.0)]
    assert shares_that_train(exactly, 0.5)[("obedient", 5)] == {0.1: (2, 2)}


def test_a_run_that_diverged_has_not_trained_whatever_it_had_reached() -> None:
    runs = [attempt(0.5), attempt(0.5, diverged={"step": 9, "term": "labels"})]
    assert shares_that_train(runs, 0.5)[("obedient", 5)] == {0.1: (1, 2)}


def test_where_nobody_leaves_chance_nobody_has_trained() -> None:
    assert shares_that_train([attempt(0.1), attempt(0.1)], 0.5)[("obedient", 5)] == {0.1: (0, 2)}


def test_seeds_share_their_reliability_by_how_many_answers_they_have(folder: Path) -> None:
    for name, accuracy, count in (("pair-0", 0.5, 10), ("pair-1", 0.8, 30)):
        bins = {
            "confidence": [0.7, *[None] * 14], "accuracy": [accuracy, *[None] * 14],
            "count": [count, *[0] * 14],
        }  # fmt: skip
        leave(folder, "evaluate", name, {"reliability": bins})
    pooled = reliability([PAIR])["pair"]
    assert pooled["count"].tolist() == [40, *[0] * 14]
    assert pooled["accuracy"][0] == pytest.approx((0.5 * 10 + 0.8 * 30) / 40)
    assert np.isnan(pooled["accuracy"][1])


def test_a_target_has_a_number_a_seed_the_mean_over_draws(folder: Path) -> None:
    for name, draws in (("pair-0", [0.2, 0.4]), ("pair-1", [0.6])):
        taps = {"conv1": {"10": draws}}
        leave(folder, "examine", name, {"targets": {"digits": {"taps": taps, "retrained": {}}}})
    assert transfer([PAIR]) == {
        ("digits", "10"): {"pair": {"conv1": [pytest.approx(0.3), pytest.approx(0.6)]}}
    }


def test_likeness_is_of_the_taps_that_all_seeds_have(folder: Path) -> None:
    """The second seed was trained when the student had a convolution less."""
    for name, lines in (
        ("pair-0", {"early": {"conv1": 0.9}, "late": {"conv1": 0.2, "conv2": 0.3, "pooled": 0.4}}),
        ("pair-1", {"late": {"conv1": 0.4, "pooled": 0.8}}),
    ):
        leave(folder, "evaluate", name, {"cka": lines})
    taught, own, values = likeness([PAIR])["pair"]
    assert (taught, own) == (["late"], ["conv1", "pooled"])
    assert values == pytest.approx(np.array([[0.3, 0.6]]))


@pytest.mark.parametrize("other", [{"pooled": {"conv1": 0.5}}, {"late": {"layer1": 0.5}}])
def test_seeds_that_share_no_taps_have_no_likeness(other: Any, folder: Path) -> None:
    leave(folder, "evaluate", "pair-0", {"cka": {"late": {"conv1": 0.5}}})
    leave(folder, "evaluate", "pair-1", {"cka": other})
    assert likeness([PAIR]) == {}


def test_a_network_trained_again_has_a_number_a_seed(folder: Path) -> None:
    for name, accuracies in (("pair-0", {"conv1": 0.5, "conv2": 0.6}), ("pair-1", {"conv1": 0.7})):
        target = {"taps": {}, "retrained": accuracies}
        leave(folder, "examine", name, {"targets": {"digits": target, "other": {"taps": {}}}})
    assert retrained([PAIR]) == {"digits": {"pair": {"conv1": [0.5, 0.7], "conv2": [0.6]}}}


def test_norms_are_a_curve_of_each_seed_that_has_one(folder: Path) -> None:
    for what, value in (("gradient", 3.5), ("weights", 20.0)):
        path = folder / f"students/pair-1/live/plots/metrics/norm/{what}.tsv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"step\t{what}\n2\t{value}\n4\t1.5\n")
    lone = replace(PAIR, title="lone", names=("lone-0",))
    assert norms([PAIR, lone], "gradient") == {"pair": [[(2, 3.5), (4, 1.5)]]}
    assert norms([PAIR, lone], "weights") == {"pair": [[(2, 20.0), (4, 1.5)]]}


def test_of_what_is_not_there_nothing_is_shown_and_of_others_all(folder: Path) -> None:
    series = (reliability, corruptions, transfer, retrained, likeness)
    for found in series:
        assert found([PAIR]) == {}
    assert shares_that_train([], 0.5) == {}
    bins = {part: [0.5] * 15 for part in ("confidence", "accuracy", "count")}
    leave(folder, "evaluate", "pair-0", {"reliability": bins, "cka": {"late": {"conv1": 0.5}}})
    target = {"taps": {"conv1": {"10": [0.4]}}, "retrained": {"conv1": 0.5}}
    leave(folder, "examine", "pair-0", {"corruptions": CORRUPTED, "targets": {"digits": target}})
    lone = replace(PAIR, title="lone", names=("lone-0",))
    for found in series:
        assert repr(found([lone, PAIR])) == repr(found([PAIR])) != "{}"


def test_the_report_knows_every_corruption_and_how_strong_it_is() -> None:
    assert tuple(KINDS) == CORRUPTIONS
    assert all(len(strengths) == STRENGTHS for _, strengths in KINDS.values())


def test_the_files_for_dvc_say_what_the_pictures_draw(folder: Path) -> None:
    leave(folder, "examine", "pair-0", {"corruptions": CORRUPTED})
    leave(folder, "efficiency", "obedient-plain-10-0", {"test": {"accuracy": 0.4}})
    params = load_params(REPOSITORY / "params.yaml")
    fewer = params.model_copy(update={"efficiency": Efficiency(labels=[10])})
    obedient = replace(PAIR, title="obedient", names=(), scores=({"test": {"accuracy": 0.6}},))
    write_plots(folder / "plots", fewer, [PAIR, obedient], [attempt(0.5), attempt(0.1)])
    assert (folder / "plots/efficiency.csv").read_text().splitlines() == [
        "network,part,labels,accuracy", "obedient,test,10,0.4", "obedient,test,50,0.6",
    ]  # fmt: skip
    lines = list(csv.DictReader((folder / "plots/corruptions.csv").open()))
    noise = [float(line["accuracy"]) for line in lines if line["part"] == "gaussian_noise"]
    assert noise == [0.9, 0.8, 0.7, 0.6, 0.5, 0.4]
    assert (folder / "plots/stability.csv").read_text().splitlines() == [
        "network,part,learning_rate,share", "obedient,depth 5,0.1,0.5",
    ]  # fmt: skip
    assert (folder / "plots/transfer.csv").read_text() == "network,part,tap,accuracy\n"


def test_of_a_network_without_a_row_no_labels_are_shown(folder: Path) -> None:
    """Its scores are not in this folder, or a picture shows but a few lone students."""
    for name in ("obedient-plain-10-0", "independent-plain-10-0"):
        leave(folder, "efficiency", name, {"test": {"accuracy": 0.4}})
    params = load_params(REPOSITORY / "params.yaml")
    fewer = params.model_copy(update={"efficiency": Efficiency(labels=[10])})
    obedient = replace(PAIR, title="obedient", scores=({"test": {"accuracy": 0.6}},))
    assert efficiency(fewer, [obedient]) == {"obedient": {10: [0.4], 50: [0.6]}}


def test_numbers_of_labels_rise_in_whatever_order_params_have_them(folder: Path) -> None:
    for labels in (25, 10):
        leave(folder, "efficiency", f"obedient-plain-{labels}-0", {"test": {"accuracy": 0.4}})
    params = load_params(REPOSITORY / "params.yaml")
    fewer = params.model_copy(update={"efficiency": Efficiency(labels=[25, 10])})
    obedient = replace(PAIR, title="obedient", scores=({"test": {"accuracy": 0.6}},))
    assert list(efficiency(fewer, [obedient])["obedient"]) == [10, 25, 50]


def test_so_many_images_were_corrupted_as_the_evidence_says(folder: Path) -> None:
    assert corrupted_images([PAIR]) == []
    for name, images in (("pair-0", 500), ("pair-1", 40)):
        leave(folder, "examine", name, {"corruptions": {**CORRUPTED, "images": images}})
    assert corrupted_images([PAIR, PAIR]) == [40, 500]
