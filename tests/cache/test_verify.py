"""Finding what is wrong with a cache: any byte, any file, and its name."""

import json
import shutil
from pathlib import Path

import pytest
from caches import cache_spec, make_cache, mentee
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.cache.schema import read_manifest
from pipeline.files import read_json, write_json


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_cache(tmp_path_factory.mktemp("whole") / "labelled")


@pytest.fixture
def cache(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "labelled"))


def test_a_whole_cache_is_said_to_be_whole(whole: Path) -> None:
    done = mentee("cache", "verify", whole)
    assert done.exit_code == 0, done.output
    assert "27 shards in 3 kinds" in done.output
    assert "all whole" in done.output
    content = json.loads(mentee("cache", "verify", "--json", whole).stdout)
    assert (content["kinds"], content["shards"], content["wrong"]) == (3, 27, [])
    assert content["bytes"] == sum(path.stat().st_size for path in whole.rglob("*/v*/*.h5"))


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_single_flipped_byte_of_any_file_is_found_and_the_file_is_named(
    data: st.DataObject, whole: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    paths = sorted(path for path in whole.rglob("*") if path.is_file())
    chosen = data.draw(st.sampled_from(paths))
    content = bytearray(chosen.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= data.draw(st.integers(1, 255))
    cache = tmp_path_factory.mktemp("flipped") / "labelled"
    shutil.copytree(whole, cache, copy_function=_link)
    damaged = cache / chosen.relative_to(whole)
    damaged.unlink()
    damaged.write_bytes(content)
    done = mentee("cache", "verify", cache)
    assert done.exit_code == 1
    # A byte of a manifest or of spec.json may make another file look wrong.
    named = damaged if damaged.suffix == ".h5" else cache
    assert str(named) in done.output, done.output


def _link(source: str, target: str) -> None:
    Path(target).hardlink_to(source)


@pytest.mark.parametrize("array", ["values", "channel_scale", "channel_offset", "checksums"])
def test_the_damaged_data_set_is_named(cache: Path, array: str) -> None:
    folder = cache / "features/late"
    entry = read_manifest(folder).entries[4]
    path = read_manifest(folder).place(entry).path(folder)
    content = bytearray(path.read_bytes())
    content[entry.arrays[array].offset + 1] ^= 1
    path.write_bytes(content)
    done = mentee("cache", "verify", cache)
    assert f"{path}: damaged in {array}\n" in done.output
    found = mentee("cache", "verify", "--json", cache)
    assert (found.exit_code, len(found.stderr.splitlines())) == (1, 1)
    assert json.loads(found.stdout)["wrong"] == [f"{path}: damaged in {array}"]


def test_damage_outside_every_data_set_is_said_to_be_in_the_header(cache: Path) -> None:
    path = cache / "logits/v001/p00002.h5"
    content = bytearray(path.read_bytes())
    content[8] ^= 1
    path.write_bytes(content)
    assert f"{path}: damaged in its HDF5 header" in mentee("cache", "verify", cache).output


def test_truncated_missing_and_foreign_files_are_named(cache: Path) -> None:
    truncated, missing = cache / "logits/v000/p00001.h5", cache / "views/v002/p00000.h5"
    truncated.write_bytes(truncated.read_bytes()[:-1])
    missing.unlink()
    (cache / "logits/v000/p00009.h5").write_bytes(b"what is this")
    output = mentee("cache", "verify", cache).output
    assert f"{truncated}: truncated" in output
    assert f"{missing}: missing" in output
    assert f"{cache}/logits/v000/p00009.h5: not in manifest.json" in output
    assert "3 things wrong" in output


def test_a_manifest_that_says_where_no_byte_is_is_not_followed(cache: Path) -> None:
    path = cache / "logits/manifest.json"
    content = read_json(path)
    shard = content["shards"][0]
    shard["sha256"] = "0" * 64
    shard["arrays"]["values"]["offset"] = (1 << 62) - 1
    write_json(path, content)
    done = mentee("cache", "verify", cache)
    assert (done.exit_code, done.output.count(".h5: ")) == (1, 1), done.output
    assert f"{cache / 'logits' / shard['path']}: " in done.output


def test_the_last_views_may_not_have_been_pulled_but_verify_misses_them(cache: Path) -> None:
    shutil.rmtree(cache / "logits/v002")
    assert mentee("cache", "verify", cache).output.count("v002/p0000") == 3


@pytest.mark.parametrize("seed", [0, 1], ids=["same numbers", "other numbers"])
def test_a_shard_of_another_run_is_named_with_what_differs(
    cache: Path, tmp_path: Path, seed: int
) -> None:
    spec = cache_spec()
    other = make_cache(
        tmp_path / "o", {**spec, "teacher": {**spec["teacher"], "model": "timm:new"}}, seed
    )
    path = cache / "logits/v001/p00001.h5"
    shutil.copy(other / "logits/v001/p00001.h5", path)
    output = mentee("cache", "verify", cache).output
    assert str(path) in output
    assert "of another run (its teacher.model is timm:new)" in output


def test_a_whole_kind_of_another_run_does_not_pass_beside_the_others(
    cache: Path, tmp_path: Path
) -> None:
    spec = cache_spec()
    other = make_cache(
        tmp_path / "o", {**spec, "teacher": {**spec["teacher"], "model": "timm:new"}}
    )
    shutil.rmtree(cache / "logits")
    shutil.copytree(other / "logits", cache / "logits")
    output = mentee("cache", "verify", cache).output
    assert f"{cache / 'logits'}: of another dump" in output
    assert "timm:new" in output


def test_kinds_alone_are_whole_without_spec_and_index_beside_them(cache: Path) -> None:
    """As `dvc import` brings them."""
    for name in ("spec.json", "index.h5"):
        (cache / name).unlink()
    done = mentee("cache", "verify", cache)
    assert done.exit_code == 0, done.output
    assert "27 shards in 3 kinds" in done.output


def test_a_kind_of_the_same_teacher_with_other_views_or_encoding_does_not_pass(
    cache: Path, tmp_path: Path
) -> None:
    spec = cache_spec()
    fewer = make_cache(tmp_path / "fewer", cache_spec(views={**spec["views"], "count": 2}))
    kinds = {"logits": {"encoding": "float32", "shape": [3]}}
    finer = make_cache(tmp_path / "finer", cache_spec(kinds=kinds))
    for other, told in ((fewer, "2 views, "), (finer, "another logits than ")):
        shutil.rmtree(cache / "logits")
        shutil.copytree(other / "logits", cache / "logits")
        done = mentee("cache", "verify", cache)
        assert done.exit_code == 1
        assert done.stdout.startswith(f"{cache / 'logits'}: {told}{cache / 'spec.json'} ")


def test_a_kind_whose_name_spec_json_has_lost_is_named(cache: Path) -> None:
    spec = cache / "spec.json"
    spec.write_bytes(spec.read_bytes().replace(b'"logits"', b'"logitr"'))
    done = mentee("cache", "verify", cache)
    assert done.exit_code == 1
    assert f"{cache / 'logits'}: {spec} does not describe logits" in done.stdout


def test_a_file_that_no_manifest_lists_is_named(cache: Path) -> None:
    path = cache / "logits/v000/p00009.h5"
    shutil.copy(cache / "logits/v000/p00000.h5", path)
    done = mentee("cache", "verify", cache)
    assert (done.exit_code, len(done.stdout.splitlines())) == (1, 1)
    assert done.stdout.startswith(f"{path}: not in manifest.json")


def test_a_manifest_that_lists_too_few_shards_is_refused(cache: Path) -> None:
    path = cache / "logits/manifest.json"
    content = read_json(path)
    del content["shards"][4]
    write_json(path, content)
    done = mentee("cache", "verify", cache)
    assert done.exit_code == 1
    assert str(path) in done.output


@pytest.mark.parametrize("command", ["verify", "inspect"])
def test_an_archive_is_not_said_to_be_no_cache_but_packed(
    cache: Path, tmp_path: Path, command: str
) -> None:
    assert mentee("cache", "pack", cache, tmp_path / "packed").exit_code == 0
    done = mentee("cache", command, tmp_path / "packed")
    assert done.exit_code == 1
    assert done.stderr.endswith("packed is packed: run `mentee cache unpack` first\n")


def test_what_is_no_cache_is_refused_in_one_line(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nothing"):
        done = mentee("cache", "verify", path)
        assert (done.exit_code, len(done.output.splitlines())) == (1, 1)
        assert "holds no cache" in done.output
