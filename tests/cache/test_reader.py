"""Reading a kind of a cache: any rows of any views, and what is said of an incomplete one."""

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from caches import cache_spec, make_cache
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.cache.reader import Kind
from pipeline.cache.schema import places, shard_spec
from pipeline.cache.shard import write_shard
from pipeline.cache.writer import write_manifest
from pipeline.errors import MenteeError
from pipeline.files import digest_file, read_json, write_json


def spec(values: np.ndarray, rows_per_shard: int, **changes: Any) -> dict[str, Any]:
    """The spec of logits `(views, rows, ...)` that are stored as they are."""
    logits = {"encoding": values.dtype.name, "shape": list(values.shape[2:])}
    views = {"count": len(values), "seed": 0}
    return cache_spec(
        rows=values.shape[1], rows_per_shard=rows_per_shard, views=views, kinds={"logits": logits},
        **changes,
    )  # fmt: skip


def write_kind(folder: Path, values: np.ndarray, rows_per_shard: int) -> None:
    """All shards of `values` `(views, rows, ...)`, and their manifest."""
    content = spec(values, rows_per_shard)
    own = shard_spec(content, "logits")
    for place in places(content):
        part = {"values": values[place.view, place.start : place.stop]}
        write_shard(place.path(folder), part, own, place)
    write_manifest(folder, "logits", own, list(places(content)))


def numbers(views: int, rows: int, *shape: int) -> np.ndarray:
    values = np.random.default_rng(0).normal(3, 2, size=(views, rows, *shape))
    return values.astype("<f4")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two views of eleven rows in parts of four."""
    write_kind(tmp_path / "logits", numbers(2, 11, 5), rows_per_shard=4)
    return tmp_path / "logits"


def refusal(folder: Path) -> str:
    with pytest.raises(MenteeError) as caught:
        Kind(folder)
    text = str(caught.value)
    assert len(text.splitlines()) == 1
    return text


@settings(deadline=None, max_examples=25)
@given(data=st.data())
def test_gathering_is_indexing_in_any_order(data: st.DataObject) -> None:
    views, rows = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 11))
    shape = data.draw(st.sampled_from([(4,), (3, 2, 2), (1,)]))
    values = numbers(views, rows, *shape)
    place = st.tuples(st.integers(0, views - 1), st.integers(0, rows - 1))
    asked = np.array(data.draw(st.lists(place, max_size=40)), dtype=np.int64).reshape(-1, 2)
    with TemporaryDirectory() as name:
        write_kind(Path(name), values, data.draw(st.integers(1, 12)))
        kind = Kind(Path(name))
        assert (kind.views, kind.rows, kind.shape) == (views, rows, shape)
        got = kind.gather(asked[:, 0], asked[:, 1])
        assert got.dtype == values.dtype
        np.testing.assert_array_equal(got, values[asked[:, 0], asked[:, 1]])


def test_what_was_shown_is_gathered_by_its_name(tmp_path: Path) -> None:
    kind = Kind(make_cache(tmp_path) / "views")
    views, rows = np.array([2, 0, 1]), np.array([49, 0, 20])
    for name in ("regions", "pixels"):
        expected = [kind.view(view, name)[row] for view, row in zip(views, rows, strict=True)]
        np.testing.assert_array_equal(kind.gather(views, rows, name), expected)


@pytest.mark.parametrize(("view", "row"), [(2, 0), (-1, 0), (0, 11), (0, -1), (1, 10**9)])
def test_a_row_that_is_not_there_is_an_error_and_never_another_row(
    folder: Path, view: int, row: int
) -> None:
    with pytest.raises(IndexError):
        Kind(folder).gather(np.array([0, view]), np.array([0, row]))


def test_a_view_is_all_its_rows_in_order(folder: Path) -> None:
    kind = Kind(folder)
    for view in range(2):
        np.testing.assert_array_equal(kind.view(view), numbers(2, 11, 5)[view])


@pytest.mark.parametrize("view", [-1, 2])
def test_a_view_that_is_not_there_is_refused(folder: Path, view: int) -> None:
    with pytest.raises(MenteeError, match=f"has views 0 to 1, not {view}"):
        Kind(folder).view(view)


def test_shards_come_view_by_view(folder: Path) -> None:
    places_seen = [(place.view, place.start) for place, _ in Kind(folder).parts()]
    assert places_seen == [(0, 0), (0, 4), (0, 8), (1, 0), (1, 4), (1, 8)]


def test_the_last_views_may_stay_where_they_are(folder: Path) -> None:
    """Four views of sixteen are a quarter of the bytes to pull."""
    shutil.rmtree(folder / "v001")
    kind = Kind(folder)
    assert kind.views == 1
    np.testing.assert_array_equal(kind.view(0), numbers(2, 11, 5)[0])


@pytest.mark.parametrize("missing", ["v000/p00001.h5", "v000/p00002.h5", "v001/p00000.h5"])
def test_a_missing_part_is_named(folder: Path, missing: str) -> None:
    (folder / missing).unlink()
    assert f"{folder / missing} is missing" in refusal(folder)


def test_the_first_missing_view_in_the_middle_is_named(tmp_path: Path) -> None:
    write_kind(tmp_path, numbers(4, 4, 5), rows_per_shard=4)
    for view in ("v001", "v002"):
        shutil.rmtree(tmp_path / view)
    assert f"{tmp_path / 'v001' / 'p00000.h5'} is missing" in refusal(tmp_path)


@pytest.mark.parametrize(
    "listed", ["01", "01234", "01245", "12345", "345", "0123455", "011345", "001234"]
)
def test_a_manifest_that_does_not_list_every_shard_of_its_views_once_is_refused(
    folder: Path, listed: str
) -> None:
    """Three parts of two views; all files are there."""
    content = read_json(folder / "manifest.json")
    shards = content["shards"]
    write_json(folder / "manifest.json", content | {"shards": [shards[int(n)] for n in listed]})
    assert "it does not list every shard of its views once" in refusal(folder)
    write_json(folder / "manifest.json", content | {"shards": shards[::-1]})
    np.testing.assert_array_equal(Kind(folder).view(1), numbers(2, 11, 5)[1])
    write_json(folder / "manifest.json", content | {"shards": shards[:3]})
    assert Kind(folder).views == 1


def test_of_a_kind_without_any_shard_the_first_is_named(folder: Path) -> None:
    """As a clone is before `dvc pull`."""
    for view in ("v000", "v001"):
        shutil.rmtree(folder / view)
    assert refusal(folder) == (
        f"{folder / 'v000/p00000.h5'} is missing: dump again, or `dvc pull` it"
    )


def test_a_kind_of_an_empty_split_is_refused(tmp_path: Path) -> None:
    folder = make_cache(tmp_path, cache_spec(rows=0)) / "logits"
    assert refusal(folder) == f"{folder} holds no shards: its split is empty"


@pytest.mark.parametrize("kind", ["logits", "features/late"])
def test_decoded_bytes_are_those_of_all_rows_in_memory(tmp_path: Path, kind: str) -> None:
    """By them it is decided what a GPU can hold."""
    opened = Kind(make_cache(tmp_path) / kind)
    rows = [opened.view(view) for view in range(opened.views)]
    assert opened.decoded_bytes == sum(row.nbytes for row in rows)


def test_a_shard_of_another_dump_is_named(folder: Path) -> None:
    values = numbers(2, 11, 5)
    other = spec(values, 4, teacher={"model": "another"})
    place = list(places(other))[4]
    path = place.path(folder)
    write_shard(path, {"values": values[1, 4:8]}, shard_spec(other, "logits"), place)
    assert f"{path} is damaged, or of another dump" in refusal(folder)
    # Nor does a manifest that lists it make it fit.
    content = read_json(folder / "manifest.json")
    content["shards"][4] |= {"bytes": path.stat().st_size, "sha256": digest_file(path)}
    write_json(folder / "manifest.json", content)
    assert f"{path} is of another dump than" in refusal(folder)


@pytest.mark.parametrize("copied", ["v000/p00000.h5", "v001/p00001.h5"])
def test_a_shard_under_another_shards_name_is_named(folder: Path, copied: str) -> None:
    """A whole view lost this way must not look like a cache of fewer views."""
    shutil.copy(folder / copied, folder / "v001" / "p00002.h5")
    assert "v001/p00002.h5" in refusal(folder)


def test_a_last_view_that_was_overwritten_with_another_is_named(tmp_path: Path) -> None:
    write_kind(tmp_path, numbers(2, 4, 5), rows_per_shard=4)
    shutil.copy(tmp_path / "v000" / "p00000.h5", tmp_path / "v001" / "p00000.h5")
    assert "v001/p00000.h5" in refusal(tmp_path)


@pytest.mark.parametrize("exists", [True, False])
def test_an_empty_folder_says_what_to_run(tmp_path: Path, exists: bool) -> None:
    folder = tmp_path / "logits"
    if exists:
        folder.mkdir()
    text = refusal(folder)
    assert f"{folder} holds no cache" in text
    assert "mentee dump" in text


def test_a_damaged_shard_is_named(folder: Path) -> None:
    path = folder / "v001" / "p00000.h5"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert f"{path} is damaged" in refusal(folder)


@pytest.mark.parametrize("shape", [(6,), (6, 3, 2)], ids=["pooled", "spatial"])
@pytest.mark.parametrize("dtype", ["<f2", "<f4"])
@pytest.mark.parametrize("at_once", [40, 500, 1 << 20], ids=["rows", "in steps", "at once"])
def test_statistics_are_those_of_every_channel_over_view_0(
    tmp_path: Path, shape: tuple[int, ...], dtype: str, at_once: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("pipeline.cache.reader._AT_ONCE", at_once)
    values = numbers(2, 40, *shape).astype(dtype)
    values[1] += 100  # another view, which must not matter
    values[:, :, 0] /= 50  # a channel that moves little still moves
    write_kind(tmp_path, values, rows_per_shard=16)
    mean, std = Kind(tmp_path).statistics()
    assert (mean.dtype, std.dtype, mean.shape, std.shape) == ("f4", "f4", (6,), (6,))
    channels = np.moveaxis(values[0].astype(np.float64), 1, 0).reshape(6, -1)
    np.testing.assert_allclose(mean, np.mean(channels, axis=1), rtol=1e-6)
    np.testing.assert_allclose(std, np.std(channels, axis=1), rtol=1e-6)


def test_a_channel_that_never_moves_or_hardly_has_deviation_1(tmp_path: Path) -> None:
    values = numbers(1, 40, 4)
    values[..., 1] = 7.3
    values[..., 2] = 0
    values[..., 3] *= 1e-6
    write_kind(tmp_path, values, rows_per_shard=16)
    mean, std = Kind(tmp_path).statistics()
    assert std[0] != 1
    np.testing.assert_array_equal(std[1:], 1)
    standardised = (values[0] - mean) / std
    np.testing.assert_allclose(standardised[:, 1:], 0, atol=1e-4)
