"""Caches in a project: replayed views, what a dump will cost, what may go, where answers lie.

Scikit-learn's digits, the default teacher at 64 pixels, the real stages in temporary folders.
"""

import json
import re
import shutil
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import h5py
import numpy as np
import pytest
import torch
from caches import files_under, mentee
from scipy.special import log_softmax
from stage_one import SMALLEST, enter_copy, run_stage_one, set_params

from pipeline.cache.reader import Kind
from pipeline.cache.shard import write_shard
from pipeline.cache.writer import write_manifest
from pipeline.compute import Compute
from pipeline.errors import MenteeError
from pipeline.files import read_json
from pipeline.lessons import Lessons, lone_lessons, memory_for_lessons, mentored_lessons
from pipeline.params import Params
from pipeline.prepared import PREPARED_FILE, SPLITS, read_split
from pipeline.stages import dump as dumping
from pipeline.stages.dump import dump
from pipeline.stages.head import head
from pipeline.stages.prepare import prepare

CPU = torch.device("cpu")


def tiny_params(**changes: Any) -> Params:
    return set_params(SMALLEST, changes)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which prepare, dump and head have run: not to be changed."""
    return run_stage_one(tmp_path_factory.mktemp("finished"), tiny_params)


@pytest.fixture
def project(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return enter_copy(finished, tmp_path / "project", monkeypatch)


def lessons_of(taps: list[str], **options: Any) -> Lessons:
    split = read_split(PREPARED_FILE, "labelled")
    return mentored_lessons(split, True, taps, 32, CPU, **options)


# Every view replayed


def test_all_views_replay_to_what_the_teacher_saw(project: Path) -> None:
    done = mentee("cache", "verify", "--views")
    assert done.exit_code == 0, done.output
    assert "all whole" in done.output


def test_views_of_other_images_are_refused(project: Path) -> None:
    prepare(tiny_params(data={"seed": 1}))
    done = mentee("cache", "verify", "--views")
    assert done.exit_code == 1
    assert "made for other images" in done.output


def test_a_backend_that_draws_other_pixels_is_found(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.stages import replay as replaying

    right = replaying.replay

    def brighter(images: torch.Tensor, regions: torch.Tensor, size: int) -> torch.Tensor:
        pictures = right(images, regions, size)
        pictures[0, 0, 0, 0] ^= 1  # one bit of the first picture of each batch
        return pictures

    monkeypatch.setattr(replaying, "replay", brighter)
    done = mentee("cache", "verify", "--views", "data/cache/labelled")
    assert done.exit_code == 1
    assert done.output.count("1 of 12 views replay to other pixels") == 3
    assert "data/cache/labelled/views/v001/p00000.h5" in done.output


def test_a_teacher_that_sees_pixels_otherwise_answers_anew(project: Path) -> None:
    before = Kind(Path("data/cache/labelled/logits")).view(0)
    grey = {"mean": [0.2, 0.3, 0.4], "std": [0.3, 0.3, 0.3]}
    dump(tiny_params(teacher=grey))
    assert np.abs(Kind(Path("data/cache/labelled/logits")).view(0) - before).max() > 0.1


# What a dump will cost


def test_the_estimate_is_what_the_dump_then_writes(project: Path) -> None:
    output = mentee("cache", "estimate").output
    written = 0
    for kind in ("views", "logits", "features/middle", "features/pooled"):
        row = int(re.search(rf"{kind} +([\d,]+) bytes a view", output)[1].replace(",", ""))
        folder = Path("data/cache/labelled") / kind
        rows = sum(
            extent.bytes
            for entry in Kind(folder).manifest.entries
            for extent in entry.arrays.values()
        )
        assert row * 20 * 3 == rows
        written += row
    assert f"together {written:,} bytes a view" in re.sub(" +", " ", output)
    views = 20 * 3 + 12 * 2 + 10 + 10
    counts = [int(number) for number in re.findall(r"(\d+) views\n", output)]
    assert sum(counts) == views
    assert "ms a view (measured)" in output
    assert "the dump pays from 1 student on" in output
    content = json.loads(mentee("cache", "estimate", "--json").stdout)
    assert sum(content["views"].values()) == views
    assert sum(content["row_bytes"].values()) == written
    assert (content["bytes"], content["students"]) == (written * views, 1)


def test_the_estimate_needs_the_prepared_images(project: Path) -> None:
    shutil.rmtree("data/prepared")
    done = mentee("cache", "estimate")
    assert (done.exit_code, "mentee prepare" in done.output) == (1, True)


# What may go


def test_nothing_that_the_params_ask_for_is_removed(project: Path) -> None:
    before = files_under(Path(".work"))
    output = mentee("cache", "gc").output
    assert output == "0.0 MB were freed\n"
    assert files_under(Path(".work")) == before


def test_fewer_views_and_another_teacher_leave_garbage_that_gc_removes(project: Path) -> None:
    params = tiny_params(views={"labelled": 2}, teacher={"input_size": 80})
    dump(params)
    kept = files_under(Path(".work"))
    output = mentee("cache", "gc", "--dry-run").output
    assert files_under(Path(".work")) == kept
    assert "would be freed" in output
    # The kinds of the old teacher: views, logits and two taps of four splits.
    assert len(output.splitlines()) == 4 * 4 + 1
    mentee("cache", "gc")
    assert 0 < len(files_under(Path(".work"))) < len(kept)
    assert mentee("cache", "gc").output == "0.0 MB were freed\n"
    before = files_under(Path("data/cache/labelled/logits"))
    dump(params)  # answers nothing again: all that it needs was kept
    assert files_under(Path("data/cache/labelled/logits")) == before


def test_surplus_views_alone_go_too(project: Path) -> None:
    dump(tiny_params(views={"labelled": 2}))
    output = mentee("cache", "gc").output
    assert len(re.findall(r"/v002: ", output)) == 4  # views, logits, two taps
    assert not list(Path(".work").rglob("v002"))
    assert list(Path(".work").rglob("v001"))


def test_what_a_killed_dump_has_made_is_kept_until_a_dump_has_ended(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No published cache asks for it, but it would be made again."""
    params = tiny_params(teacher={"input_size": 80})
    with monkeypatch.context() as patch:
        patch.setattr(dumping, "publish", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            dump(params)
    before = files_under(Path(".work"))
    assert mentee("cache", "gc").output == "0.0 MB were freed\n"
    assert files_under(Path(".work")) == before
    dump(params)
    assert len(mentee("cache", "gc").output.splitlines()) == 4 * 4 + 1  # the old teacher's kinds


def test_a_tap_that_nobody_reads_is_pointed_out(project: Path) -> None:
    tiny_params(probes=[{"teacher": "pooled", "student": "pooled", "match": "projection"}])
    assert "reads the tap 'middle'" in mentee("cache", "gc").output


def test_without_a_published_cache_gc_removes_nothing(project: Path) -> None:
    shutil.rmtree("data/cache")
    before = files_under(Path(".work"))
    assert mentee("cache", "gc").exit_code == 1
    assert files_under(Path(".work")) == before


# The head


def test_a_head_that_learns_unlabelled_images_says_in_how_many_rounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    # So many that it helps, whatever the processor's rounding.
    data = {"unlabelled": 150, "validation": 40}
    params = tiny_params(data=data)
    prepare(params)
    dump(params)
    head(params)
    plain = read_json(Path("metrics/head.json"))
    head(tiny_params(data=data, head={"self_training": 3}))
    taught = read_json(Path("metrics/head.json"))
    spec = Kind(Path("data/cache/test/task_logits")).spec["head"]
    assert plain["self_training"] == 0
    assert spec["self_training"] == taught["self_training"] > 0
    assert spec["sha256"] == taught["sha256"] != plain["sha256"]
    assert taught["validation"]["nll"] < plain["validation"]["nll"]


def test_without_unlabelled_images_it_learns_the_labels_alone(project: Path) -> None:
    with h5py.File(PREPARED_FILE, "r+") as file:
        for name in ("images", "labels", "ids"):
            rows = file[f"unlabelled/{name}"][:0]
            del file[f"unlabelled/{name}"]
            file[f"unlabelled/{name}"] = rows
    shutil.rmtree("data/cache/unlabelled")
    head(tiny_params(head={"self_training": 3}))
    assert read_json(Path("metrics/head.json"))["self_training"] == 0


@pytest.mark.parametrize("posterior", ["point", "laplace", "langevin"])
def test_the_head_says_how_sure_it_is_of_every_view(
    project: Path, monkeypatch: pytest.MonkeyPatch, posterior: str
) -> None:
    monkeypatch.setattr("pipeline.posteriors.BURN_IN", 100)
    settings = {"posterior": posterior, "temperatures": [0.1, 1.0], "samples": 8}
    head(tiny_params(head=settings, cache={"logits": "float32"}))
    for split in ("labelled", "unlabelled", "validation", "test"):
        kinds = [
            Kind(Path("data/cache", split, name)) for name in ("task_logits", "task_uncertainty")
        ]
        assert kinds[0].places == kinds[1].places
        logs = log_softmax(np.stack([kinds[0].view(n) for n in range(kinds[0].views)]), axis=2)
        said = np.stack([kinds[1].view(n) for n in range(kinds[1].views)])
        entropy = -(np.exp(logs) * logs).sum(2)
        np.testing.assert_allclose(said[..., 0], entropy, atol=1e-5)
        assert ((said[..., 1] > 0) == (posterior != "point")).all()
        assert (said[..., 1] <= said[..., 0] + 1e-6).all()
    recorded = read_json(Path("metrics/head.json"))
    assert ("temperature" in recorded) == (posterior != "point")
    spec = kinds[0].spec["head"]
    assert (spec["posterior"], spec["sha256"]) == (posterior, recorded["sha256"])
    done = mentee("cache", "verify")
    assert done.exit_code == 0, done.output
    lessons_of(["pooled"])  # students read it as any other


def test_a_teacher_that_speaks_the_tasks_classes_needs_no_head(project: Path) -> None:
    params = tiny_params(head={"fit": False})
    with pytest.raises(MenteeError, match="speaks 1000 classes, the task has 10"):
        head(params)
    for split in SPLITS:  # the head's answers, as if the teacher had given them
        own = Kind(Path("data/cache", split, "task_logits"))
        folder = Path("data/cache", split, "logits")
        shutil.rmtree(folder)
        described = own.spec["kinds"]["task_logits"]
        spec = {k: v for k, v in own.spec.items() if k != "head"} | {"kinds": {"logits": described}}
        for place, rows in own.parts():
            write_shard(place.path(folder), {"values": rows}, spec, place)
        write_manifest(folder, "logits", spec, own.places)
    head(params)
    for split in SPLITS:
        folder = Path("data/cache", split)
        logits, taken, unsure = (
            Kind(folder / name) for name in ("logits", "task_logits", "task_uncertainty")
        )
        np.testing.assert_array_equal(taken.view(0), logits.view(0))
        logs = log_softmax(logits.view(0).astype("f8"), axis=1)
        np.testing.assert_allclose(unsure.view(0)[:, 0], -(np.exp(logs) * logs).sum(1), atol=1e-5)
        assert (unsure.view(0)[:, 1] == 0).all()
        assert mentee("cache", "verify", folder / "task_uncertainty").exit_code == 0
    lessons_of(["pooled"])


# Where answers lie, and how they are stored


@pytest.mark.parametrize("stored", ["float16", "float32", "uint8", "uint4"])
def test_answers_held_on_the_device_are_those_of_the_maps(
    project: Path, monkeypatch: pytest.MonkeyPatch, stored: str
) -> None:
    params = tiny_params(cache={"logits": "float16", "features": stored})
    dump(params)
    head(params)
    mapped = lessons_of(["middle", "pooled"])
    monkeypatch.setattr("pipeline.lessons.memory_for_lessons", lambda device, share: 10**9)
    held = lessons_of(["middle", "pooled"])
    generator = np.random.default_rng(0)
    rows, views = generator.integers(20, size=64), generator.integers(3, size=64)
    one, other = mapped.batch(rows, views), held.batch(rows, views)
    assert torch.equal(one.logits, other.logits)
    for tap in ("middle", "pooled"):
        assert torch.equal(one.features[tap], other.features[tap])
        assert held.features[tap] in held._held
    assert not mapped._held


def test_what_does_not_fit_stays_in_the_maps(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits = Kind(Path("data/cache/labelled/task_logits"))
    monkeypatch.setattr(
        "pipeline.lessons.memory_for_lessons", lambda device, share: logits.decoded_bytes
    )
    lessons = lessons_of(["middle"])
    assert [kind.manifest.kind for kind in lessons._held] == ["task_logits"]


def test_a_cpu_holds_no_second_copy_of_its_maps() -> None:
    assert memory_for_lessons(CPU, 0.5) == 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_a_share_of_a_gpus_free_memory_is_for_answers() -> None:
    device = torch.device("cuda")
    free, _ = torch.cuda.mem_get_info(device)
    assert 0 < memory_for_lessons(device, 0.25) <= free / 4


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_images_that_a_gpu_cannot_hold_are_shown_from_memory(project: Path) -> None:
    split, device = read_split(PREPARED_FILE, "labelled"), torch.device("cuda")
    views = tiny_params().views
    held, not_held = (lone_lessons(split, views, 16, device, share) for share in (0.5, 0.0))
    assert (held.images.device.type, not_held.images.device.type) == ("cuda", "cpu")
    rows, shown = np.arange(20), np.arange(20) % views.labelled
    batches = [lessons.batch(rows, shown) for lessons in (held, not_held)]
    assert torch.equal(batches[0].pictures, batches[1].pictures)


def other_backends() -> list[Any]:
    """What a cache may be made with elsewhere: bfloat16 or not, and a GPU where there is one."""
    gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
    return [
        pytest.param(Compute(CPU, True), id="cpu bfloat16"),
        pytest.param(Compute(torch.device("cuda"), True), id="gpu bfloat16", marks=gpu),
    ]


@pytest.mark.parametrize("elsewhere", other_backends())
def test_caches_of_two_backends_have_other_fingerprints_and_nearly_the_same_targets(
    project: Path, monkeypatch: pytest.MonkeyPatch, elsewhere: Compute
) -> None:
    params = tiny_params(head={"inverse_regularisation": [0.01]})
    opened = {}
    for compute in (Compute(CPU, False), elsewhere):
        shutil.rmtree(".work")
        shutil.rmtree("data/cache")
        monkeypatch.setattr(dumping, "choose_compute", lambda _, compute=compute: compute)
        dump(params)
        head(params)
        kept = Path(shutil.copytree("data/cache", f"cache-{compute.precision}"))
        opened[compute] = lessons_of(["middle", "pooled"], root=kept)
    one, other = opened.values()
    assert one.logits[0].fingerprint != other.logits[0].fingerprint
    rows, views = np.tile(np.arange(20), 3), np.repeat(np.arange(3), 20)
    batches = [lessons.batch(rows, views) for lessons in (one, other)]
    assert torch.equal(batches[0].pictures, batches[1].pictures)
    for tap in ("middle", "pooled"):
        mine, theirs = (batch.features[tap] for batch in batches)
        off = (mine - theirs).square().mean().sqrt() / mine.std()
        assert 0 < off < 0.1, (tap, off)
    log_p, log_q = (torch.log_softmax(batch.logits, 1) for batch in batches)
    divergence = (log_p.exp() * (log_p - log_q)).sum(1)
    assert divergence.mean() < 1e-2, divergence.mean()
    assert divergence.max() < 1e-1, divergence.max()
