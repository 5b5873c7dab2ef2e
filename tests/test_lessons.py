"""From images through the real teacher to what a student reads: dump, head and lessons together.

Scikit-learn's digits, the default teacher at 64 pixels, all in temporary folders.
"""

import dataclasses
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from caches import files_under, mentee
from projects import refusal
from safetensors.torch import save_file
from stage_one import SIZE, SMALLEST, enter_copy, run_stage_one, set_params

from pipeline.cache.reader import Kind
from pipeline.cache.schema import PIXELS, REGIONS, TASK_LOGITS, VALUES, Place, places
from pipeline.cache.shard import check_shard, open_shard, write_shard
from pipeline.cache.writer import Scratch, write_manifest
from pipeline.compute import choose_compute
from pipeline.lessons import Lessons, lone_lessons, mentored_lessons
from pipeline.mentoring.objective import Batch
from pipeline.mixtures import Mixture
from pipeline.params import Params, load_params
from pipeline.prepared import PREPARED_FILE, Split, read_split
from pipeline.stages import dump as dumping
from pipeline.stages.dump import Collector, answer_filled_up, dump
from pipeline.stages.head import fit, write_task_logits
from pipeline.stages.prepare import prepare
from pipeline.teachers import Answers, Teacher, load_teacher
from pipeline.views import draw, pixel_digests, replay
from pipeline.views_ahead import BATCH_SIZE, show_batch

CPU = torch.device("cpu")
# Two parts of three views of the labelled split, one of two of the unlabelled, two plain splits.
PLACES = 2 * 3 + 2 + 1 + 1
KINDS = 3  # views, logits and the features at one tap


def params_of(**changes: Any) -> Params:
    """The smallest params, with one tap."""
    taps = {"pooled": {"module": "global_pool", "grid": 1}}
    probes = [{"teacher": "pooled", "student": "pooled", "match": "projection"}]
    fewer = ({"teacher": {"taps": None}}, {"teacher": {"taps": taps}, "probes": probes})
    return set_params(*fewer, SMALLEST, changes)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which prepare, dump and head have run: not to be changed."""
    return run_stage_one(tmp_path_factory.mktemp("finished"), params_of)


@pytest.fixture
def project(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return enter_copy(finished, tmp_path / "project", monkeypatch)


@pytest.fixture
def prepared(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the same images and no cache yet."""
    (tmp_path / PREPARED_FILE).parent.mkdir(parents=True)
    shutil.copy(finished / PREPARED_FILE, tmp_path / PREPARED_FILE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def split_of(project: Path, name: str = "labelled") -> Split:
    return read_split(project / PREPARED_FILE, name)


def lessons_of(project: Path, name: str = "labelled", input_size: int = SIZE) -> Lessons:
    split = split_of(project, name)
    return mentored_lessons(split, True, ["pooled"], input_size, CPU, project / "data/cache")


def cache_files(project: Path) -> dict[str, bytes]:
    """Every file of the teacher's answers; what the head makes of them is another stage's."""
    root = project / "data/cache"
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and not any(part.startswith("task_") for part in path.parts)
    }


@pytest.fixture
def answered(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pictures each batch of a dump holds, noted while the real teacher answers."""
    counts: list[int] = []

    def noting(teacher: Teacher, pictures: torch.Tensor) -> Answers:
        counts.append(len(pictures))
        return answer_filled_up(teacher, pictures)

    monkeypatch.setattr(dumping, "answer_filled_up", noting)
    return counts


# The right answer for every picture


@pytest.mark.parametrize("name", ["labelled", "unlabelled"])
def test_a_teacher_run_anew_on_a_students_pictures_says_what_the_cache_says(
    project: Path, name: str
) -> None:
    params, split, lessons = load_params(), split_of(project, name), lessons_of(project, name)
    teacher = load_teacher(params.teacher, choose_compute(params.runtime))
    logits = Kind(project / "data/cache" / name / "logits")
    chosen = fit(params, split_of(project), split_of(project, "validation"))
    generator = np.random.default_rng(0)
    rows = generator.integers(len(split), size=50)
    views = generator.integers(lessons.views, size=50)

    batch = lessons.batch(rows, views)
    anew = answer_filled_up(teacher, batch.pictures).cpu()
    features = anew.features["pooled"].half()
    assert torch.equal(batch.features["pooled"], features.float())
    np.testing.assert_array_equal(logits.gather(views, rows), anew.logits.half().numpy())
    assert batch.logits is not None
    assert len(np.unique(chosen.std)) == 1, "one scale for all channels"
    by_head = chosen.logits(features.numpy())
    np.testing.assert_allclose(batch.logits.numpy(), by_head, rtol=2e-3, atol=2e-3)
    np.testing.assert_array_equal(batch.labels, split.labels[rows])

    # Another row's or another view's answer would not have passed.
    views_of_one = torch.stack([lessons.batch(np.array([0]), np.array([v])).features["pooled"][0]
                                for v in range(lessons.views)])  # fmt: skip
    assert len(torch.unique(views_of_one, dim=0)) == lessons.views
    rows_of_one = Kind(project / "data/cache" / name / "features/pooled").view(0)
    assert len(np.unique(rows_of_one, axis=0)) == len(split)


def test_a_student_sees_at_its_own_size_the_region_that_the_teacher_saw(finished: Path) -> None:
    split, lessons = split_of(finished), lessons_of(finished, input_size=32)
    settings = load_params(finished / "params.yaml").views
    rows, views = np.arange(20), np.arange(20) % 3
    pictures = lessons.batch(rows, views).pictures
    assert (pictures.dtype, pictures.shape) == (torch.uint8, (20, 3, 32, 32))
    for row, view in zip(rows, views, strict=True):
        drawn = draw(split.ids, view, settings, split.image_size)[[row]]
        expected = replay(torch.from_numpy(split.images[row : row + 1]), drawn, 32)
        assert torch.equal(pictures[row], expected[0])
    plain = lessons.batch(rows, np.zeros(20, dtype=np.int64)).pictures
    assert torch.equal(plain, torch.from_numpy(split.images).permute(0, 3, 1, 2))


def test_evaluation_images_are_shown_once_and_plain(finished: Path) -> None:
    for name in ("validation", "test"):
        regions = Kind(finished / "data/cache" / name / "views")
        assert regions.views == 1
        expected = np.tile([0, 0, 32, 32, 0], (10, 1))
        np.testing.assert_array_equal(regions.view(0, REGIONS), expected)


def test_lessons_hold_what_was_asked_for_and_no_more(finished: Path) -> None:
    root, split = finished / "data/cache", split_of(finished)
    rows = views = np.zeros(4, dtype=np.int64)
    features_alone = mentored_lessons(split, False, ["pooled"], 32, CPU, root).batch(rows, views)
    assert features_alone.logits is None
    assert set(features_alone.features) == {"pooled"}
    logits_alone = mentored_lessons(split, True, [], 32, CPU, root).batch(rows, views)
    assert logits_alone.logits is not None
    assert logits_alone.logits.shape == (4, 10)
    assert logits_alone.features == {}


def test_a_student_without_a_teacher_sees_the_same_views(finished: Path) -> None:
    split, settings = split_of(finished), load_params(finished / "params.yaml").views
    lone = lone_lessons(split, settings, 32, CPU, 0.0)
    mentored = lessons_of(finished, input_size=32)
    assert np.array_equal(lone.regions, mentored.regions)
    rows, views = np.arange(20), np.arange(20) % 3
    alone = lone.batch(rows, views)
    assert torch.equal(alone.pictures, mentored.batch(rows, views).pictures)
    assert (alone.logits, alone.features) == (None, {})


# What is refused


def test_other_images_are_refused(project: Path) -> None:
    prepare(params_of(data={"seed": 1}))
    assert "was made for other images than the labelled split" in refusal(
        lambda: lessons_of(project)
    )


def test_one_pixel_or_one_label_is_enough_to_be_another_data_set(finished: Path) -> None:
    split = split_of(finished)
    images, labels = split.images.copy(), split.labels.copy()
    images[7, 3, 3, 1] ^= 1
    labels[7] = (labels[7] + 1) % 10
    for change in ({"images": images}, {"labels": labels}, {"ids": split.ids[::-1]}):
        other = dataclasses.replace(split, **change)
        text = refusal(
            lambda other=other: mentored_lessons(
                other, True, ["pooled"], 32, CPU, finished / "data/cache"
            )
        )
        assert "was made for other images" in text


def test_a_cache_of_another_number_of_images_is_refused(project: Path) -> None:
    """Whatever it says of the images themselves."""
    split = split_of(project)
    folder = project / "data/cache/labelled/task_logits"
    kind, fewer = Kind(folder), len(split) - 1
    spec = {**kind.spec, "rows": fewer, "rows_per_shard": fewer}
    answers = {VALUES: kind.view(0)[:fewer]}
    shutil.rmtree(folder)
    whole = Place(0, 0, 0, fewer)
    write_shard(whole.path(folder), answers, spec, whole)
    write_manifest(folder, TASK_LOGITS, spec, [whole])
    assert f"{folder} was made for other images" in refusal(lambda: lessons_of(project))


def test_another_order_of_classes_is_refused(finished: Path) -> None:
    split = split_of(finished)
    turned = dataclasses.replace(split, class_names=split.class_names[::-1])
    text = refusal(
        lambda: mentored_lessons(turned, True, ["pooled"], 32, CPU, finished / "data/cache")
    )
    assert "was made for other classes, or in another order" in text


@pytest.mark.parametrize(
    ("kind", "array"),
    [("views", REGIONS), ("views", PIXELS), ("task_logits", VALUES), ("features/pooled", VALUES)],
)
def test_a_flipped_bit_in_any_shard_is_refused(project: Path, kind: str, array: str) -> None:
    path = project / "data/cache/labelled" / kind / "v002/p00001.h5"
    with h5py.File(path) as file:
        offset, size = file[array].id.get_offset(), file[array].id.get_storage_size()
    content = bytearray(path.read_bytes())
    content[offset + size // 2] ^= 1
    path.write_bytes(content)
    assert f"{path} is damaged" in refusal(lambda: lessons_of(project))


def test_a_kind_that_was_not_dumped_says_what_to_run(project: Path) -> None:
    shutil.rmtree(project / "data/cache/labelled/task_logits")
    assert "run `mentee dump` and `mentee head`" in refusal(lambda: lessons_of(project))


def test_a_tap_that_was_not_dumped_is_named(finished: Path) -> None:
    root, split = finished / "data/cache", split_of(finished)
    text = refusal(lambda: mentored_lessons(split, False, ["early"], 32, CPU, root))
    assert str(root / "labelled/features/early") in text


def test_features_of_fewer_views_than_were_shown_are_refused(project: Path) -> None:
    shutil.rmtree(project / "data/cache/labelled/features/pooled/v002")
    assert "has 2 views" in refusal(lambda: lessons_of(project))


def rewrite(folder: Path, change: Callable[[dict[str, np.ndarray], dict[str, Any]], None]) -> None:
    """Another whole and well-formed kind in the same folder, with a manifest that fits it."""
    manifest = Kind(folder).manifest
    made = [manifest.place(entry) for entry in manifest.entries]
    for place in made:
        shard = open_shard(place.path(folder))
        arrays = {name: array.copy() for name, array in shard.arrays.items() if name != "checksums"}
        change(arrays, shard.spec)
        write_shard(place.path(folder), arrays, shard.spec, place)
    write_manifest(folder, manifest.kind, shard.spec, made)


@pytest.mark.parametrize(
    ("column", "by"), [(0, 1), (1, -1), (4, 1)], ids=["shifted down", "shifted left", "mirrored"]
)
def test_a_view_that_is_not_what_the_teacher_saw_is_found_by_replaying(
    project: Path, column: int, by: int
) -> None:
    def change(arrays: dict[str, np.ndarray], _spec: dict[str, Any]) -> None:
        arrays[REGIONS][:, column] += by
        arrays[REGIONS][:, 4] %= 2

    rewrite(project / "data/cache/labelled/views", change)
    text = refusal(lambda: lessons_of(project))
    assert re.search("view [0-2] of digit/", text)
    assert "replays to other pixels than the teacher saw" in text


@pytest.mark.parametrize(
    ("column", "value"),
    [(0, -32), (1, 32), (2, 2**31 - 1), (2, 0), (3, -5), (3, 64), (4, 2), (0, -(2**31))],
)
def test_a_region_that_is_no_part_of_its_image_is_refused(
    project: Path, column: int, value: int
) -> None:
    """A stranger's view of a billion lines would fill the memory when it is replayed."""

    def change(arrays: dict[str, np.ndarray], _spec: dict[str, Any]) -> None:
        arrays[REGIONS][:, column] = value

    folder = project / "data/cache/labelled/views"
    rewrite(folder, change)
    assert f"{folder} shows regions that do not lie in" in refusal(lambda: lessons_of(project))
    done = mentee("cache", "verify", "--views", folder)
    assert (done.exit_code, "regions that do not lie in" in done.output) == (1, True)


def test_one_bad_region_among_many_is_refused(project: Path) -> None:
    def change(arrays: dict[str, np.ndarray], _spec: dict[str, Any]) -> None:
        arrays[REGIONS][7, 2] = 10**9

    rewrite(project / "data/cache/labelled/views", change)
    assert "regions that do not lie in" in refusal(lambda: lessons_of(project))


def test_answers_out_of_order_are_refused(project: Path) -> None:
    """Each file is whole and fits the images; only what the teacher said of them tells."""
    folder = project / "data/cache/labelled/task_logits"
    recorded = Kind(folder).spec["head"]["labelled_accuracy"]
    logits, split = Kind(folder).view(0), split_of(project)
    assert recorded == (logits.argmax(1) == split.labels).mean() > 0.8

    def change(arrays: dict[str, np.ndarray], _spec: dict[str, Any]) -> None:
        arrays["values"] = np.roll(arrays["values"], 1, axis=1)

    rewrite(folder, change)
    text = refusal(lambda: lessons_of(project))
    assert "of the labelled images rightly, its head had" in text


@pytest.mark.parametrize("kind", ["task_logits", "features/pooled"])
@pytest.mark.parametrize("block", ["views", "teacher"])
def test_answers_of_another_dump_than_the_views_are_refused(
    project: Path, kind: str, block: str
) -> None:
    """Two parts of a cache fit together exactly when their specs say so."""

    def change(_arrays: dict[str, np.ndarray], spec: dict[str, Any]) -> None:
        spec[block] = {
            **spec[block],
            **{"views": {"seed": 1}, "teacher": {"device": "else"}}[block],
        }

    rewrite(project / "data/cache/labelled" / kind, change)
    assert str(project / "data/cache/labelled") in refusal(lambda: lessons_of(project))


# Batches


@pytest.fixture
def mixed(finished: Path) -> Callable[..., Mixture]:
    labelled = lessons_of(finished, "labelled", input_size=32)
    unlabelled = lessons_of(finished, "unlabelled", input_size=32)

    def make(share: float, batch_size: int, seed: int = 0, alone: bool = False) -> Mixture:
        return Mixture(labelled, None if alone else unlabelled, [(0, share)], batch_size, seed)

    return make


def samples(pictures: torch.Tensor, lessons: Lessons) -> list[int]:
    """The row of each picture in the split, by the pixels of all its views."""
    known = {}
    for view in range(lessons.views):
        rows = np.arange(len(lessons.split))
        shown = lessons.batch(rows, np.full_like(rows, view)).pictures
        known |= dict(zip(pixel_digests(shown).tolist(), rows.tolist(), strict=True))
    return [known[digest] for digest in pixel_digests(pictures).tolist()]


def test_a_batch_is_labelled_first_and_has_its_share_of_unlabelled(
    mixed: Callable[..., Mixture], finished: Path
) -> None:
    labelled, unlabelled = (lessons_of(finished, n, 32) for n in ("labelled", "unlabelled"))
    batch = mixed(share=0.7, batch_size=10).next(0.5)
    assert len(batch.labels) == 3
    assert len(batch.pictures) == 10
    assert batch.logits is not None
    assert batch.logits.shape == (10, 10)
    assert batch.features["pooled"].shape == (10, 1280)
    rows = samples(batch.pictures[:3], labelled)
    assert batch.labels.tolist() == labelled.split.labels[rows].tolist()
    assert len(set(samples(batch.pictures[3:], unlabelled))) == 7


def test_every_row_of_a_batch_comes_with_its_own_answers(
    mixed: Callable[..., Mixture], finished: Path
) -> None:
    """Pictures, features and logits are joined in the same order."""
    parts = [lessons_of(finished, name, 32) for name in ("labelled", "unlabelled")]
    known = {}
    for lessons in parts:
        for view in range(lessons.views):
            rows = np.arange(len(lessons.split))
            shown = lessons.batch(rows, np.full_like(rows, view))
            for number, digest in enumerate(pixel_digests(shown.pictures).tolist()):
                known[digest] = (shown.features["pooled"][number], shown.logits[number])
    assert len(known) > 20 + 12, "a view that moves nothing is the plain image once more"
    mixture = mixed(share=0.5, batch_size=16)
    for _ in range(4):
        batch = mixture.next(0.5)
        for number, digest in enumerate(pixel_digests(batch.pictures).tolist()):
            features, logits = known[digest]
            assert torch.equal(batch.features["pooled"][number], features)
            assert torch.equal(batch.logits[number], logits)


@pytest.mark.parametrize(
    ("share", "size", "alone", "labelled"),
    [(0, 8, False, 8), (0.5, 8, False, 4), (0.99, 8, False, 1), (0.7, 8, True, 8)],
)
def test_the_share_that_is_labelled(
    mixed: Callable[..., Mixture], share: float, size: int, alone: bool, labelled: int
) -> None:
    batch = mixed(share=share, batch_size=size, alone=alone).next(0.5)
    assert (len(batch.pictures), len(batch.labels)) == (size, labelled)


def test_every_sample_is_seen_as_often_as_every_other(
    mixed: Callable[..., Mixture], finished: Path
) -> None:
    labelled, unlabelled = (lessons_of(finished, n, 32) for n in ("labelled", "unlabelled"))
    mixture = mixed(share=0.5, batch_size=8)  # four and four, of 20 and 12
    seen = np.zeros(20, dtype=int), np.zeros(12, dtype=int)
    order = []
    for step in range(1, 31):
        batch = mixture.next(0.5)
        order.append(samples(batch.pictures[:4], labelled))
        np.add.at(seen[0], order[-1], 1)
        np.add.at(seen[1], samples(batch.pictures[4:], unlabelled), 1)
        for counts in seen:
            assert counts.max() - counts.min() <= 1, f"after {step} batches"
    assert set(seen[0]) == {30 * 4 // 20}
    assert set(seen[1]) == {30 * 4 // 12}
    assert order[:5] != order[5:10], "every round has an order of its own"


def test_every_view_is_shown(mixed: Callable[..., Mixture], finished: Path) -> None:
    lessons = lessons_of(finished, input_size=32)
    rows = np.arange(20)
    views = [pixel_digests(lessons.batch(rows, np.full_like(rows, v)).pictures) for v in range(3)]
    mixture = mixed(share=0, batch_size=20)
    shown = np.concatenate([pixel_digests(mixture.next(0.5).pictures) for _ in range(10)])
    for view in views:
        assert np.isin(shown, view).sum() > 200 / 3 / 2


def same(one: Batch, other: Batch) -> bool:
    return (
        torch.equal(one.pictures, other.pictures)
        and torch.equal(one.labels, other.labels)
        and torch.equal(one.logits, other.logits)
        and torch.equal(one.features["pooled"], other.features["pooled"])
    )


def test_the_same_seed_gives_the_same_batches(mixed: Callable[..., Mixture]) -> None:
    one, again, other = (mixed(share=0.5, batch_size=8, seed=seed) for seed in (3, 3, 4))
    differ = []
    for _ in range(8):
        batch = one.next(0.5)
        assert same(batch, again.next(0.5))
        differ.append(not same(batch, other.next(0.5)))
    assert all(differ)


# Dumps that stop, grow and turn back


def stop_after(batches: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on the teacher answers so many whole batches and is interrupted then."""
    answer, left = Teacher.answer, [batches]

    def interrupted(teacher: Teacher, pictures: torch.Tensor) -> Answers:
        if len(pictures) == BATCH_SIZE:
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
        return answer(teacher, pictures)

    monkeypatch.setattr(Teacher, "answer", interrupted)


@pytest.mark.parametrize("batches", [0, 4])
def test_a_stopped_dump_resumes_to_the_same_bytes(
    prepared: Path, finished: Path, answered: list[int], batches: int
) -> None:
    params = params_of()
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_after(batches, patch)
        dump(params)
    done = sorted((prepared / ".work/cache").rglob("p*.h5"))
    assert len(done) == batches * KINDS
    for path in done:
        check_shard(open_shard(path))
    assert list((prepared / ".work/cache").rglob("*.partial")) == []
    assert not (prepared / "data/cache").exists(), "nothing is published before all is there"

    before = {path: path.read_bytes() for path in done}
    answered.clear()
    dump(params)
    assert len(answered) == PLACES - batches, "what was finished is not answered again"
    assert {path: path.read_bytes() for path in done} == before
    assert cache_files(prepared) == cache_files(finished)


def test_a_dump_that_grows_and_turns_back_keeps_every_old_shard(
    project: Path, answered: list[int]
) -> None:
    before = cache_files(project)
    shards = {name: content for name, content in before.items() if re.search(r"/v\d", name)}
    assert len(shards) == PLACES * KINDS

    dump(params_of(views={"labelled": 4}))
    assert answered == [12, 8], "the new view of twenty samples alone"
    after = cache_files(project)
    assert shards.items() <= after.items()
    grown = {f"labelled/{kind}/v003/p0000{part}.h5"
             for kind in ("views", "logits", "features/pooled") for part in (0, 1)}  # fmt: skip
    assert {name for name in after.keys() - before.keys()} == grown

    answered.clear()
    early = {"module": "blocks.2", "grid": 2}
    dump(params_of(teacher={"taps": {"early": early}}))
    assert len(answered) == PLACES, "no place has the new tap yet"
    after = cache_files(project)
    assert shards.items() <= after.items()
    added = after.keys() - before.keys()
    assert len(added) == PLACES + 4, "shards, and a manifest in every split"
    assert all("/features/early/" in name for name in added)
    assert Kind(project / "data/cache/labelled/features/early").shape == (40, 2, 2)

    answered.clear()
    dump(params_of())
    assert answered == [], "all is there already"
    assert before.items() <= cache_files(project).items()


def test_another_teacher_answers_everything_anew(prepared: Path, finished: Path) -> None:
    """Also where it is the same network with one weight changed."""
    params = params_of()
    compute = choose_compute(params.runtime)
    teacher = load_teacher(params.teacher, compute)
    state = {name: value.contiguous() for name, value in teacher.network.state_dict().items()}
    state["classifier.bias"][0] += 1
    save_file(state, "other.safetensors")
    shutil.copytree(finished / ".work", prepared / ".work")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_after(0, patch)  # it asks the teacher, although every place is there for the old one
        dump(params_of(teacher={"weights": "other.safetensors"}))


# Numbers that are none


@pytest.mark.parametrize("kind", ["logits", "features/pooled"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_answer_that_is_not_finite_stops_the_dump_and_is_named(
    prepared: Path, monkeypatch: pytest.MonkeyPatch, kind: str, value: float
) -> None:
    params = params_of()
    split = split_of(prepared)
    sample, view = split.ids[5], 1
    region = draw((sample,), view, params.views, split.image_size)
    culprit = pixel_digests(replay(torch.from_numpy(split.images[5:6]), region, SIZE))
    answer = Teacher.answer

    def spoilt(teacher: Teacher, pictures: torch.Tensor) -> Answers:
        answers = answer(teacher, pictures)
        logits, pooled = answers.logits.clone(), answers.features["pooled"].clone()
        spot = torch.from_numpy(pixel_digests(pictures) == culprit)
        (logits if kind == "logits" else pooled)[spot, 3] = value
        return Answers(logits, {"pooled": pooled})

    monkeypatch.setattr(Teacher, "answer", spoilt)
    text = refusal(lambda: dump(params))
    assert f"{kind} of sample {sample}, view {view}, is not finite" in text
    assert not (prepared / "data/cache").exists()
    assert len(list((prepared / ".work/cache").rglob("v001/p*.h5"))) == 0
    assert len(list((prepared / ".work/cache").rglob("v000/p*.h5"))) == 2 * KINDS


@pytest.mark.parametrize("stored", ["float16", "top10"])
def test_logits_too_large_for_float16_stop_the_dump_and_say_what_to_do(
    prepared: Path, stored: str
) -> None:
    params = params_of()
    teacher = load_teacher(params.teacher, choose_compute(params.runtime))
    state = {name: value.contiguous() for name, value in teacher.network.state_dict().items()}
    state["classifier.weight"] = state["classifier.weight"] * 1e5
    save_file(state, "loud.safetensors")
    changes = {"teacher": {"weights": "loud.safetensors"}, "cache": {"logits": stored}}
    text = refusal(lambda: dump(params_of(**changes)))
    assert re.match(rf"logits of sample \S+, view 0, is not finite in {stored}:", text)
    assert "set cache.logits to float32" in text


def test_a_head_whose_logits_do_not_fit_leaves_the_old_ones(project: Path) -> None:
    params = load_params()
    split, before = split_of(project), files_under(project / "data/cache/labelled/task_logits")
    fitted = fit(params, split, split_of(project, "validation"))
    loud = dataclasses.replace(fitted, weight=fitted.weight * 1e6)
    text = refusal(lambda: write_task_logits(params, split, loud, 1.0))
    assert "logits of labelled, view 0, are not finite as float16: set cache.logits to" in text
    assert files_under(project / "data/cache/labelled/task_logits") == before


def test_a_span_too_large_for_8_bits_stops_the_dump_too(finished: Path, tmp_path: Path) -> None:
    split, scratch = split_of(finished), Scratch(tmp_path)
    logits = {"encoding": "uint8 per row", "shape": [3]}
    spec = {"rows": len(split), "rows_per_shard": 12, "views": {"count": 1},
            "kinds": {"views": {}, "logits": logits}}  # fmt: skip
    place = next(places(spec))
    collector = Collector(spec, split, place)
    batch = show_batch(split, place, slice(0, 12), load_params(finished / "params.yaml").views, 8)
    values = torch.zeros(12, 3)
    values[7] = torch.tensor([-3e38, 0, 3e38])  # each is a float32, their difference is none
    collector.add(batch, Answers(values, {}))
    text = refusal(lambda: collector.write(scratch, ["views", "logits"]))
    assert f"logits of sample {split.ids[7]}, view 0, is not finite in uint8 per row" in text
    assert not list(tmp_path.rglob("*.h5"))


def test_features_that_are_no_numbers_are_refused_before_a_head_is_fitted(project: Path) -> None:
    folder = project / "data/cache/labelled/features/pooled"

    def spoil(arrays: dict[str, np.ndarray], _spec: dict[str, Any]) -> None:
        arrays[VALUES][3] = np.nan

    rewrite(folder, spoil)
    done = mentee("head")
    assert done.exit_code == 1
    assert (
        f"{folder.relative_to(project)}: view 0 holds features that are not finite" in done.output
    )
    assert len([line for line in done.output.splitlines() if "error" in line]) == 1
