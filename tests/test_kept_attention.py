"""Taps that keep attention instead of channels: what is stored, who may read it, what it costs.

Scikit-learn's digits, a teacher with random weights, one module tapped in both ways.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from caches import mentee
from killing import prepare_small, set_params
from stage_one import enter_copy, run_stage_one

from pipeline.cache.card import read_by
from pipeline.cache.reader import Kind
from pipeline.cache.schema import VALUES
from pipeline.files import read_json
from pipeline.mentoring.probes import Probe
from pipeline.params import Params, load_params
from pipeline.stages.dump import dump

MAPS = {"module": "layer3", "grid": 2}
LOOKS = {**MAPS, "keep": "attention"}
POOLED = {"module": "global_pool", "grid": 1}
FEW_STEPS: dict[str, Any] = {
    "data": {"labelled_per_class": 4, "unlabelled": 20, "validation": 20, "test": 20},
    "teacher": {"taps": {"middle": MAPS, "looks": LOOKS, "pooled": POOLED}},
    "cache": {"rows_per_shard": 30, "features": "float32"},
    "head": {"inverse_regularisation": [0.01]},
    "student": {"width": 8, "input_size": 16},
    "training": {"steps": 6, "batch_size": 8, "validations": 1},
    "modes": {"probing": {"alpha": [[0, 1.0]], "beta": [[0, 100.0]], "gamma": [[0, 0.0]]}},
}


def change(**blocks: Any) -> Params:
    set_params(Path(), **{**FEW_STEPS, **blocks})
    return load_params()


def few_steps() -> Params:
    prepare_small(Path())
    return change()


def probe_of(tap: str, student: str = "conv4", **others: str) -> dict[str, str]:
    chosen = {"distance": "attention_transfer", "match": "none", **others}
    return {"teacher": tap, "student": student, **chosen}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which prepare, dump and head have run: not to be changed."""
    return run_stage_one(tmp_path_factory.mktemp("finished"), few_steps)


@pytest.fixture
def project(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return enter_copy(finished, tmp_path / "project", monkeypatch)


def kind_of(folder: Path, tap: str) -> Kind:
    return Kind(folder / "data/cache/labelled/features" / tap)


def test_attention_is_stored_without_its_channels(finished: Path) -> None:
    maps, looks = kind_of(finished, "middle"), kind_of(finished, "looks")
    channels = maps.shape[0]
    assert channels > 16
    assert looks.shape == (1, 2, 2)
    for view in range(maps.views):
        expected = np.sqrt((maps.view(view).astype(np.float64) ** 2).mean(1, keepdims=True))
        np.testing.assert_allclose(looks.view(view), expected, rtol=1e-5)
    for whole, kept in zip(maps.manifest.entries, looks.manifest.entries, strict=True):
        assert whole.arrays[VALUES].bytes == channels * kept.arrays[VALUES].bytes


@pytest.mark.parametrize("grid", [2, 4])
def test_attention_transfer_is_the_same_from_what_is_kept(finished: Path, grid: int) -> None:
    student = torch.randn(40, 5, grid, grid, generator=torch.Generator().manual_seed(0))
    said = []
    for tap in ("middle", "looks"):
        kind = kind_of(finished, tap)
        statistics = map(torch.from_numpy, kind.statistics())
        probe = Probe("attention_transfer", "none", student.shape[1:], kind.shape, *statistics)
        mine = student.clone().requires_grad_()
        loss = probe(mine, torch.from_numpy(kind.view(1)))
        loss.backward()
        said.append((loss.detach(), mine.grad))
    assert said[0][0] > 1e-3
    torch.testing.assert_close(said[0], said[1], rtol=1e-5, atol=1e-9)


def test_a_student_learns_the_same_from_either_tap(project: Path) -> None:
    losses = []
    for tap in ("middle", "looks"):
        change(probes=[probe_of(tap)])
        done = mentee("train", "probing")
        assert done.exit_code == 0, done.output
        metrics = read_json(project / "students/probing-plain-0/live/metrics.json")
        losses.append(metrics["loss"][f"probe {tap} conv4"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_only_the_tap_that_keeps_attention_has_another_fingerprint(project: Path) -> None:
    """Old caches say nothing of what a tap keeps, and must go on to fit."""
    names = ("views", "logits", "features/middle", "features/looks", "features/pooled")
    root = project / "data/cache/labelled"
    before = {name: Kind(root / name).fingerprint for name in names}
    spec = kind_of(project, "middle").spec["kinds"]["features/middle"]
    assert set(spec) == {"module", "grid", "encoding", "shape"}
    spelled_out = {**MAPS, "keep": "channels"}
    dump(change(teacher={"taps": {"middle": spelled_out, "looks": MAPS, "pooled": POOLED}}))
    after = {name: Kind(root / name).fingerprint for name in names}
    assert {name for name in names if before[name] != after[name]} == {"features/looks"}


def test_kept_attention_is_no_garbage_until_channels_are_asked_for(project: Path) -> None:
    assert mentee("cache", "gc").output.splitlines()[0] == "0.0 MB were freed"
    dump(change(teacher={"taps": {"middle": MAPS, "looks": MAPS, "pooled": POOLED}}))
    output = mentee("cache", "gc").output
    assert output.count(".work/cache/") == 4, "the old ones of four splits"


def test_what_a_dump_will_cost_counts_a_place_once(project: Path) -> None:
    sizes = {
        words[0]: int(words[1].replace(",", ""))
        for line in mentee("cache", "estimate").output.splitlines()
        if len(words := line.split()) > 3 and "bytes a view" in line
    }
    assert sizes["features/looks"] == 4 * 2 * 2 + 4, "four numbers and a checksum"
    channels = kind_of(project, "middle").shape[0]
    assert sizes["features/middle"] == channels * 4 * 2 * 2 + 4


def test_the_card_says_who_reads_attention(finished: Path) -> None:
    said = read_by(kind_of(finished, "looks").manifest)
    assert said.endswith("a probe with teacher: looks and distance: attention_transfer")
    assert "attention" not in read_by(kind_of(finished, "middle").manifest)


@pytest.mark.parametrize("encoding", ["float16", "uint8", "uint4"])
def test_attention_is_stored_in_fewer_bits_too(project: Path, encoding: str) -> None:
    exact = kind_of(project, "looks").view(0)
    dump(change(cache={"rows_per_shard": 30, "features": encoding}))
    levels = {"float16": 2**11, "uint8": 2**8, "uint4": 2**4}[encoding]
    np.testing.assert_allclose(
        kind_of(project, "looks").view(0), exact, atol=1.01 * exact.max() / (levels - 1)
    )


# What is refused


def test_a_cache_of_attention_refuses_other_distances_whatever_the_params_say(
    project: Path,
) -> None:
    """Another team's taps stand in the params as they were copied: the cache itself knows."""
    copied = {"middle": MAPS, "looks": MAPS, "pooled": POOLED}
    for distance, match in (("rmse", "projection"), ("cosine", "projection"), ("cka", "none")):
        probe = probe_of("looks", distance=distance, match=match)
        change(teacher={"taps": copied}, probes=[probe])
        done = mentee("train", "probing")
        assert done.exit_code == 1
        assert len(done.stderr.splitlines()) == 1
        assert f"probes: {distance} compares what the teacher saw, the tap looks" in done.stderr
        assert "set its keep to channels under teacher.taps" in done.stderr


def test_a_student_with_a_coarser_map_needs_a_coarser_grid(project: Path) -> None:
    taps = {"looks": {"module": "layer1", "grid": 4, "keep": "attention"}}
    dump(change(teacher={"taps": taps}))
    small = {"width": 8, "input_size": 8}
    change(teacher={"taps": taps}, probes=[probe_of("looks", "conv3")], student=small)
    done = mentee("train", "probing")
    assert done.exit_code == 1
    assert len(done.stderr.splitlines()) == 1
    assert "keeps attention at 4 x 4, conv3 has 2 x 2" in done.stderr
    assert "set its grid to 2 under teacher.taps, or its keep to channels" in done.stderr
