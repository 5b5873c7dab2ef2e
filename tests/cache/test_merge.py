"""Several caches as one: taps joined, teachers averaged, what does not fit refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from caches import VIEWS, answers, cache_spec, files_under, make_cache, mentee

from pipeline.cache.reader import Kind
from pipeline.cache.schema import places
from pipeline.cache.shard import write_shard
from pipeline.cache.writer import write_manifest

EARLY = {"module": "blocks.1", "grid": 2, "encoding": "float16", "shape": [6, 2, 2]}
TEACHER = cache_spec()["teacher"]


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    return make_cache(tmp_path / "ours" / "labelled").parent


def test_taps_of_one_dump_are_joined_and_every_file_stays_as_it_was(
    ours: Path, tmp_path: Path
) -> None:
    kinds = {"views": {}, "features/early": EARLY}
    theirs = make_cache(tmp_path / "theirs" / "labelled", cache_spec(kinds=kinds)).parent
    done = mentee("cache", "merge", tmp_path / "both", ours, theirs)
    assert done.exit_code == 0, done.output
    joined = files_under(tmp_path / "both")
    for source in (ours, theirs):
        for path, content in files_under(source).items():
            if path != "labelled/spec.json":
                assert joined[path] == content
    assert mentee("cache", "verify", tmp_path / "both").exit_code == 0


def test_a_cache_that_is_joined_with_itself_stays_as_it_is(ours: Path, tmp_path: Path) -> None:
    """With splits of other kinds, and with logits of a head, of which spec.json is silent."""
    make_cache(ours / "test", cache_spec(split="test", kinds={"views": {}}))
    with_own_logits_too(ours, 0, "task_logits", head={"features": "f" * 64})
    assert mentee("cache", "merge", tmp_path / "both", ours, ours).exit_code == 0
    assert files_under(tmp_path / "both") == files_under(ours)


@pytest.mark.parametrize("turned", [False, True])
def test_joining_with_a_cache_that_has_more_views_keeps_them(
    ours: Path, tmp_path: Path, turned: bool
) -> None:
    more = cache_spec(views={**cache_spec()["views"], "count": VIEWS + 2})
    theirs = make_cache(tmp_path / "theirs" / "labelled", more).parent
    sources = [theirs, ours] if turned else [ours, theirs]
    assert mentee("cache", "merge", tmp_path / "both", *sources).exit_code == 0
    assert files_under(tmp_path / "both") == files_under(theirs)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"teacher": {**TEACHER, "model": "timm:new"}}, "teacher.model is timm:new"),
        ({"data": {**cache_spec()["data"], "digest": "e" * 64}}, "data.digest is eee"),
        ({"views": {**cache_spec()["views"], "seed": 1}}, "views.seed is 1"),
        ({"kinds": {"views": {}, "logits": {"encoding": "float32", "shape": [3]}}},
         "kinds.logits.encoding is float32, not float16"),
    ],
    ids=["teacher", "data", "views", "encoding"],
)  # fmt: skip
def test_what_is_of_another_dump_is_not_joined(
    ours: Path, tmp_path: Path, change: dict, told: str
) -> None:
    theirs = make_cache(tmp_path / "theirs" / "labelled", cache_spec(**change)).parent
    done = mentee("cache", "merge", tmp_path / "both", ours, theirs)
    assert done.exit_code == 1
    assert told in done.output
    assert len(done.output.splitlines()) == 1
    assert not (tmp_path / "both").exists()


def test_a_tap_of_another_dump_is_not_joined_though_no_other_kind_is_in_both(
    ours: Path, tmp_path: Path
) -> None:
    change = {"teacher": {**TEACHER, "model": "timm:new"}, "kinds": {"features/early": EARLY}}
    theirs = make_cache(tmp_path / "theirs" / "labelled", cache_spec(**change)).parent
    done = mentee("cache", "merge", tmp_path / "both", ours, theirs)
    assert (done.exit_code, "teacher.model is timm:new" in done.output) == (1, True), done.output
    assert not (tmp_path / "both").exists()


def test_the_logits_of_two_teachers_are_averaged_over_the_same_views(
    ours: Path, tmp_path: Path
) -> None:
    spec = cache_spec(teacher={**TEACHER, "model": "timm:new", "input_size": 20})
    theirs = make_cache(tmp_path / "theirs" / "labelled", spec, seed=1).parent
    out = tmp_path / "both"
    done = mentee("cache", "merge", "--average", out, ours, theirs)
    assert done.exit_code == 0, done.output
    assert mentee("cache", "verify", out).exit_code == 0
    kind = Kind(out / "labelled/logits")
    assert [t["model"] for t in kind.spec["teacher"]["ensemble"]] == ["timm:some", "timm:new"]
    for place in places(spec):
        mean = sum(answers(spec, "logits", place, seed) for seed in (0, 1)) / 2
        np.testing.assert_allclose(kind.part(place), mean, atol=4e-3)
    views = Kind(out / "labelled/views")
    assert views.spec["teacher"] == kind.spec["teacher"]
    assert views.spec["teacher"]["input_size"] == 16  # at which the digests were taken
    np.testing.assert_array_equal(
        views.view(1, "regions"), Kind(ours / "labelled/views").view(1, "regions")
    )
    assert not (out / "labelled/features").exists()


@pytest.mark.parametrize("turned", [False, True])
def test_of_teachers_that_were_shown_more_or_fewer_views_those_of_all_are_averaged(
    ours: Path, tmp_path: Path, turned: bool
) -> None:
    fewer = cache_spec(views={**cache_spec()["views"], "count": VIEWS - 1})
    theirs = make_cache(tmp_path / "theirs" / "labelled", fewer, seed=1).parent
    out = tmp_path / "both"
    sources = [theirs, ours] if turned else [ours, theirs]
    done = mentee("cache", "merge", "--average", out, *sources)
    assert done.exit_code == 0, done.output
    done = mentee("cache", "verify", out)
    assert done.exit_code == 0, done.output
    kind = Kind(out / "labelled/logits")
    assert (kind.views, Kind(out / "labelled/views").views) == (VIEWS - 1, VIEWS - 1)
    assert json.loads((out / "labelled/spec.json").read_text())["views"]["count"] == VIEWS - 1
    for place in places(fewer):
        mean = sum(answers(fewer, "logits", place, seed) for seed in (0, 1)) / 2
        np.testing.assert_allclose(kind.part(place), mean, atol=4e-3)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"data": {"digest": "d" * 64, "class_names": ["dog", "cat", "eel"]}}, "class_names"),
        ({"rows": 40}, "rows is 40"),
        ({"rows_per_shard": 25}, "rows_per_shard is 25"),
        ({"split": "validation"}, "split is validation"),
        ({"views": {**cache_spec()["views"], "seed": 1}}, "views.seed is 1"),
        ({"kinds": {"views": {}, "logits": {"encoding": "float16", "shape": [4]}}}, "same classes"),
    ],
    ids=["class order", "rows", "parts", "split", "views", "classes"],
)
def test_teachers_of_other_tasks_are_not_averaged(
    ours: Path, tmp_path: Path, change: dict, told: str
) -> None:
    theirs = make_cache(tmp_path / "theirs" / "labelled", cache_spec(**change)).parent
    done = mentee("cache", "merge", "--average", tmp_path / "both", ours, theirs)
    assert (done.exit_code, told in done.output) == (1, True), done.output
    assert not (tmp_path / "both").exists()


def test_views_of_another_dump_than_the_logits_beside_them_are_not_averaged(
    ours: Path, tmp_path: Path
) -> None:
    """As `dvc update` of one import alone mixes them."""
    theirs = Path(shutil.copytree(ours, tmp_path / "theirs"))
    other = make_cache(tmp_path / "other" / "labelled", cache_spec(rows_per_shard=25))
    shutil.rmtree(theirs / "labelled/views")
    shutil.copytree(other / "views", theirs / "labelled/views")
    done = mentee("cache", "merge", "--average", tmp_path / "both", ours, theirs)
    assert (done.exit_code, "rows_per_shard is" in done.output) == (1, True), done.output
    assert len(done.output.splitlines()) == 1


@pytest.mark.parametrize("average", [[], ["--average"]], ids=["joined", "averaged"])
def test_a_cache_that_was_pulled_in_part_is_not_merged(
    ours: Path, tmp_path: Path, average: list[str]
) -> None:
    shutil.rmtree(ours / "labelled/logits/v002")
    theirs = Path(shutil.copytree(ours, tmp_path / "theirs"))
    done = mentee("cache", "merge", *average, tmp_path / "both", ours, theirs)
    assert (done.exit_code, "logits has 2 views" in done.output) == (1, True), done.output
    shutil.rmtree(theirs / "labelled/features/late/v002")  # views alone has all
    done = mentee("cache", "merge", *average, tmp_path / "both", theirs, theirs)
    assert (done.exit_code, " has 2 views, " in done.output) == (1, True), done.output
    assert len(done.output.splitlines()) == 1
    assert not (tmp_path / "both").exists()


@pytest.mark.parametrize(("value", "told"), [(3e38, ""), (np.inf, "not finite")])
def test_the_mean_of_large_logits_is_finite_if_they_are(
    tmp_path: Path, value: float, told: str
) -> None:
    kinds = {"views": {}, "logits": {"encoding": "float32", "shape": [3]}}
    source = make_cache(tmp_path / "one" / "labelled", cache_spec(kinds=kinds)).parent
    kind = Kind(source / "labelled/logits")
    for place in kind.places:
        large = np.full((place.stop - place.start, 3), value, "<f4")
        write_shard(place.path(kind.folder), {"values": large}, kind.spec, place)
    write_manifest(kind.folder, "logits", kind.spec, kind.places)
    done = mentee("cache", "merge", "--average", tmp_path / "both", source, source)
    assert (done.exit_code, told in done.output) == (bool(told), True), done.output
    if not told:
        assert (Kind(tmp_path / "both/labelled/logits").view(0) == np.float32(value)).all()


def with_empty_split(cache: Path, **changes: dict) -> Path:
    """As `data.unlabelled: 0` makes one."""
    make_cache(cache / "unlabelled", cache_spec(split="unlabelled", rows=0, **changes))
    return cache


@pytest.mark.parametrize("average", [[], ["--average"]], ids=["joined", "averaged"])
def test_an_empty_split_stays_one(ours: Path, tmp_path: Path, average: list[str]) -> None:
    """It lost spec.json and index.h5, which DVC asks for, or was left out."""
    theirs = Path(shutil.copytree(with_empty_split(ours), tmp_path / "theirs"))
    out = tmp_path / "both"
    done = mentee("cache", "merge", *average, out, ours, theirs)
    assert done.exit_code == 0, done.output
    assert mentee("cache", "verify", out).exit_code == 0
    before, after = files_under(ours / "unlabelled"), files_under(out / "unlabelled")
    if average:
        assert after.keys() == before.keys() - {"features/late/manifest.json"}
        assert json.loads(after["spec.json"])["kinds"].keys() == {"views", "logits"}
        assert json.loads(after["spec.json"])["views"]["count"] == VIEWS  # as asked for
        assert after["index.h5"] == before["index.h5"]
    else:
        assert after == before


@pytest.mark.parametrize("average", [[], ["--average"]], ids=["joined", "averaged"])
def test_a_split_that_is_empty_in_one_cache_alone_is_not_merged(
    ours: Path, tmp_path: Path, average: list[str]
) -> None:
    theirs = with_empty_split(Path(shutil.copytree(ours, tmp_path / "theirs")))
    make_cache(ours / "unlabelled", cache_spec(split="unlabelled"))
    done = mentee("cache", "merge", *average, tmp_path / "both", ours, theirs)
    assert (done.exit_code, "rows is 0, not 50" in done.output) == (1, True), done.output
    assert not (tmp_path / "both").exists()


def test_an_empty_split_of_another_dump_is_not_joined(ours: Path, tmp_path: Path) -> None:
    theirs = Path(shutil.copytree(ours, tmp_path / "theirs"))
    with_empty_split(theirs, teacher={**TEACHER, "model": "timm:new"})
    done = mentee("cache", "merge", tmp_path / "both", with_empty_split(ours), theirs)
    assert (done.exit_code, "teacher.model is timm:new" in done.output) == (1, True), done.output


@pytest.mark.parametrize("views", [{}, [], None, {"count": "3"}], ids=str)
def test_a_spec_beside_an_empty_split_that_makes_no_sense_is_refused(
    ours: Path, tmp_path: Path, views: object
) -> None:
    path = with_empty_split(ours) / "unlabelled/spec.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "views": views}))
    done = mentee("cache", "merge", tmp_path / "both", ours, ours)
    assert (done.exit_code, f"{path} is not a spec" in done.output) == (1, True), done.output
    assert len(done.output.splitlines()) == 1


def test_of_empty_splits_alone_there_is_nothing_to_average(ours: Path, tmp_path: Path) -> None:
    theirs = Path(shutil.copytree(with_empty_split(ours), tmp_path / "theirs"))
    shutil.rmtree(theirs / "labelled/logits")
    done = mentee("cache", "merge", "--average", tmp_path / "both", ours, theirs)
    assert (done.exit_code, "no logits in common" in done.output) == (1, True), done.output


def with_task_logits(cache: Path, seed: int, kind: str, **changes: dict) -> Path:
    """As `mentee head` writes them: fitted, or the logits of a teacher that knew the classes."""
    cache = with_own_logits_too(cache, seed, kind, **changes)
    shutil.rmtree(cache / "labelled/logits")
    return cache


def with_own_logits_too(cache: Path, seed: int, kind: str, **changes: dict) -> Path:
    logits = Kind(cache / "labelled/logits")
    spec = {**logits.spec, "kinds": {kind: logits.spec["kinds"]["logits"]}, **changes}
    folder = cache / "labelled/task_logits"
    for place in logits.places:
        values = answers(cache_spec(), "logits", place, seed).astype("<f2")
        write_shard(place.path(folder), {"values": values}, spec, place)
    write_manifest(folder, kind, spec, logits.places)
    return cache


@pytest.mark.parametrize("turned", [False, True])
def test_a_teacher_with_a_fitted_head_is_averaged_with_one_that_knew_the_classes(
    ours: Path, tmp_path: Path, turned: bool
) -> None:
    other = make_cache(tmp_path / "theirs" / "labelled", seed=1).parent
    fitted = with_task_logits(ours, 0, "task_logits", head={"features": "f" * 64})
    tuned = with_task_logits(other, 1, "logits")
    sources = [tuned, fitted] if turned else [fitted, tuned]
    out = tmp_path / "both"
    done = mentee("cache", "merge", "--average", out, *sources)
    assert done.exit_code == 0, done.output
    done = mentee("cache", "verify", out)
    assert done.exit_code == 0, done.output
    kind = Kind(out / "labelled/task_logits")
    assert kind.spec["head"]["members"].count(None) == 1
    for place in kind.places:
        mean = sum(answers(cache_spec(), "logits", place, seed) for seed in (0, 1)) / 2
        np.testing.assert_allclose(kind.part(place), mean, atol=4e-3)


@pytest.mark.parametrize(
    "own", [{"encoding": "float16", "shape": [4]}, {"encoding": "top2", "shape": [3]}],
    ids=["other classes", "the largest alone"],
)  # fmt: skip
def test_own_logits_without_a_mean_do_not_keep_those_of_the_task_from_being_averaged(
    ours: Path, tmp_path: Path, own: dict
) -> None:
    kinds = {**cache_spec()["kinds"], "logits": own}
    theirs = make_cache(tmp_path / "theirs" / "labelled", cache_spec(kinds=kinds)).parent
    for seed, cache in enumerate((ours, theirs)):
        task = {"kinds": {"task_logits": {"encoding": "float16", "shape": [3]}}}
        with_own_logits_too(cache, seed, "task_logits", head={"features": "f" * 64}, **task)
    out = tmp_path / "both"
    done = mentee("cache", "merge", "--average", out, ours, theirs)
    assert done.exit_code == 0, done.output
    assert mentee("cache", "verify", out).exit_code == 0
    kind = Kind(out / "labelled/task_logits")
    for place in kind.places:
        mean = sum(answers(cache_spec(), "logits", place, seed) for seed in (0, 1)) / 2
        np.testing.assert_allclose(kind.part(place), mean, atol=4e-3)
    assert not (out / "labelled/logits").exists()


def test_teachers_that_were_shown_other_views_are_not_averaged(ours: Path, tmp_path: Path) -> None:
    """Another version of a library may draw others of the same settings."""
    theirs = Path(shutil.copytree(ours, tmp_path / "theirs"))
    kind = Kind(theirs / "labelled/views")
    place = kind.places[-1]
    arrays = {name: kind.part(place, name).copy() for name in ("regions", "pixels")}
    arrays["regions"][-1, -1] += 1
    write_shard(place.path(kind.folder), arrays, kind.spec, place)
    write_manifest(kind.folder, "views", kind.spec, kind.places)
    done = mentee("cache", "merge", "--average", tmp_path / "both", ours, theirs)
    assert (done.exit_code, "has other views than" in done.output) == (1, True), done.output
    assert len(done.output.splitlines()) == 1
    assert not (tmp_path / "both").exists()


@pytest.mark.parametrize("average", [[], ["--average"]], ids=["joined", "averaged"])
@pytest.mark.parametrize(
    ("one", "other"), [("", "labelled"), ("labelled", "labelled/logits"),
                       ("labelled/views", "labelled/logits")],
)  # fmt: skip
def test_other_parts_of_a_cache_are_not_put_beside_each_other(
    ours: Path, tmp_path: Path, one: str, other: str, average: list[str]
) -> None:
    """A split beside a whole cache was said to be joined, and nothing could read it."""
    done = mentee("cache", "merge", *average, tmp_path / "both", ours / one, ours / other)
    assert done.exit_code == 1
    assert done.stderr.startswith(
        f"error: {ours / other} is another part of a cache than {ours / one}: "
    )
    assert not (tmp_path / "both").exists()


@pytest.mark.parametrize("average", [[], ["--average"]], ids=["joined", "averaged"])
@pytest.mark.parametrize("missing", ["spec.json", "index.h5"])
def test_kinds_that_were_fetched_without_what_lies_beside_them_are_merged(
    ours: Path, tmp_path: Path, missing: str, average: list[str]
) -> None:
    (ours / "labelled" / missing).unlink()
    done = mentee("cache", "merge", *average, tmp_path / "both", ours, ours)
    assert done.exit_code == 0, done.output
    assert not [path for path in (tmp_path / "both/labelled").iterdir() if path.is_file()]
    assert mentee("cache", "verify", tmp_path / "both").exit_code == 0


@pytest.mark.parametrize("kind", ["views", "logits", "features/late"])
def test_a_kind_alone_is_joined_and_nothing_is_written_beside_it(
    ours: Path, tmp_path: Path, kind: str
) -> None:
    """Of views, spec.json and index.h5 replaced those of the split around the new folder."""
    here = Path(shutil.copytree(ours, tmp_path / "here")) / "labelled"
    before, added = files_under(here), files_under(ours / "labelled" / kind)
    done = mentee("cache", "merge", here / "new", *[ours / "labelled" / kind] * 2)
    assert done.exit_code == 0, done.output
    assert files_under(here) == before | {f"new/{path}": file for path, file in added.items()}


def test_a_kind_alone_has_no_views_to_be_averaged_with(ours: Path, tmp_path: Path) -> None:
    logits = ours / "labelled/logits"
    done = mentee("cache", "merge", "--average", tmp_path / "both", logits, logits)
    assert done.exit_code == 1
    assert done.stderr.startswith(f"error: {logits} has no views beside it in every source: ")


def test_the_largest_logits_alone_have_no_mean(ours: Path, tmp_path: Path) -> None:
    """Each teacher keeps other classes."""
    kinds = {**cache_spec()["kinds"], "logits": {"encoding": "top2", "shape": [3]}}
    theirs = make_cache(tmp_path / "theirs" / "labelled", cache_spec(kinds=kinds)).parent
    done = mentee("cache", "merge", "--average", tmp_path / "both", ours, theirs)
    assert (done.exit_code, "keeps the largest logits only" in done.output) == (1, True)
    assert len(done.output.splitlines()) == 1
    assert not (tmp_path / "both").exists()


def test_the_largest_logits_of_the_task_alone_have_no_mean(tmp_path: Path) -> None:
    kinds = {"views": {}, "task_logits": {"encoding": "top2", "shape": [3]}}
    source = make_cache(tmp_path / "ours" / "labelled", cache_spec(kinds=kinds)).parent
    done = mentee("cache", "merge", "--average", tmp_path / "both", source, source)
    assert (done.exit_code, "keeps the largest logits only" in done.output) == (1, True)


def test_caches_without_common_logits_cannot_be_averaged(ours: Path, tmp_path: Path) -> None:
    theirs = Path(shutil.copytree(ours, tmp_path / "theirs"))
    shutil.rmtree(theirs / "labelled/logits")
    done = mentee("cache", "merge", "--average", tmp_path / "both", ours, theirs)
    assert (done.exit_code, "no logits in common" in done.output) == (1, True)
