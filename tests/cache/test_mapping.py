"""Many shards as one array: the right rows, read-only, released when done, bounded in memory."""

import ctypes
import gc
import importlib.util
import mmap
import os
import re
import subprocess
import sys
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType

import numpy as np
import pytest
from caches import answers, cache_spec, make_cache
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.cache import mapping, schema
from pipeline.cache.encodings import PER_ROW, Layout
from pipeline.cache.mapping import Piece, Region
from pipeline.cache.reader import Kind
from pipeline.cache.shard import write_shard
from pipeline.cache.writer import write_manifest
from pipeline.errors import MenteeError

PAGE = mmap.ALLOCATIONGRANULARITY
HUGE_PAGE = 2 << 20


def bytes_of(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(256, size=count, dtype=np.uint8)


def write_pieces(folder: Path, sizes: list[int], row_bytes: int, ahead: int) -> list[Piece]:
    """A file a piece: `ahead` bytes that are no rows, then its rows."""
    pieces = []
    for number, rows in enumerate(sizes):
        path = folder / f"piece{number}"
        content = bytes_of(rows * row_bytes, number).tobytes()
        path.write_bytes(b"\xff" * ahead + content + b"\xff" * 7)
        pieces.append(Piece(path, ahead, rows))
    return pieces


def assert_holds_its_pieces(region: Region, pieces: list[Piece], row_bytes: int) -> None:
    for number, piece in enumerate(pieces):
        start = number * region.stride
        got = region.array[start : start + piece.rows]
        np.testing.assert_array_equal(got.ravel(), bytes_of(piece.rows * row_bytes, number))


def maps_of(folder: Path) -> list[str]:
    """What of the files in a folder this process has mapped."""
    return [
        line for line in Path("/proc/self/maps").read_text().splitlines() if str(folder) in line
    ]


# The right rows.


@settings(deadline=None)
@given(data=st.data())
def test_every_row_of_every_piece_stands_at_its_stride(data: st.DataObject) -> None:
    row_bytes = data.draw(st.sampled_from([1, 2, 3, 7, 100, 108, 4095, 4096, 4097, 10_000]))
    most = data.draw(st.integers(1, 60))
    sizes = [*data.draw(st.lists(st.just(most), max_size=4)), data.draw(st.integers(1, most))]
    ahead = data.draw(st.sampled_from([0, 1, 2048, PAGE, 3 * PAGE, PAGE + 8]))
    with TemporaryDirectory() as folder:
        pieces = write_pieces(Path(folder), sizes, row_bytes, ahead)
        region = Region(pieces, Layout(np.dtype("u1"), (row_bytes,)))
        assert region.stride >= max(sizes)
        assert_holds_its_pieces(region, pieces, row_bytes)


@pytest.mark.parametrize("ahead", [0, PAGE, 2 * PAGE, 511 * PAGE, 512 * PAGE, 513 * PAGE, 2048])
@pytest.mark.parametrize("row_bytes", [4096, 70_000, HUGE_PAGE, HUGE_PAGE + 4096])
def test_data_sets_that_fill_huge_pages(tmp_path: Path, ahead: int, row_bytes: int) -> None:
    """With an uneven last part, at any page of a file and between pages."""
    rows = -(-HUGE_PAGE // row_bytes) + 1
    pieces = write_pieces(tmp_path, [rows, rows, 1], row_bytes, ahead)
    region = Region(pieces, Layout(np.dtype("u1"), (row_bytes,)))
    assert_holds_its_pieces(region, pieces, row_bytes)


@settings(deadline=None, max_examples=20)
@given(data=st.data())
def test_gathering_from_a_kind_is_plain_indexing(data: st.DataObject) -> None:
    views, rows = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 12))
    width = data.draw(st.sampled_from([1, 3, 50, 1023, 1024, 1025, 3000]))
    spec = cache_spec(
        rows=rows,
        rows_per_shard=data.draw(st.integers(1, 14)),
        views={**cache_spec()["views"], "count": views},
        kinds={"logits": {"encoding": "float32", "shape": [width]}},
    )
    everything = [answers(spec, "logits", place) for place in schema.places(spec)]
    plain = np.concatenate(everything).reshape(views, rows, width)
    place = st.tuples(st.integers(0, views - 1), st.integers(0, rows - 1))
    dtype = data.draw(st.sampled_from(["i8", "i4", "u1", "u8"]))
    asked = np.array(data.draw(st.lists(place, max_size=60)), dtype=dtype).reshape(-1, 2)
    with TemporaryDirectory() as folder:
        kind = Kind(make_cache(Path(folder), spec) / "logits")
        got = kind.gather(asked[:, 0], asked[:, 1])
        np.testing.assert_array_equal(got, plain[asked[:, 0], asked[:, 1]])


# Never beside them.


@pytest.fixture(scope="module")
def logits(tmp_path_factory: pytest.TempPathFactory) -> Kind:
    """Three views of fifty rows in parts of twenty, the last of ten."""
    return Kind(make_cache(tmp_path_factory.mktemp("cache")) / "logits")


@pytest.mark.parametrize("dtype", ["i8", "i4", "i2"])
@pytest.mark.parametrize(
    ("view", "row"),
    [(0, 50), (0, -1), (-1, 0), (-3, -50), (3, 0), (0, 32_767), (32_767, 0), (-32_768, -32_768)],
)
def test_an_index_outside_is_an_error_and_never_a_crash(
    logits: Kind, view: int, row: int, dtype: str
) -> None:
    views, rows = np.array([0, view], dtype=dtype), np.array([0, row], dtype=dtype)
    with pytest.raises(IndexError, match="has 3 views of 50 rows"):
        logits.gather(views, rows)


def test_the_array_is_read_only(tmp_path: Path) -> None:
    """Views of it too, so that nobody writes to the pages of a file, nor to a copy of them."""
    for ahead in (PAGE, 100):
        pieces = write_pieces(tmp_path, [9, 9], 64, ahead)
        array = Region(pieces, Layout(np.dtype("u1"), (64,))).array
        for some in (array, array[3:], array.reshape(-1), array.view("<u4")):
            assert not some.flags.writeable
            with pytest.raises(ValueError, match="read-only"):
                some[0] = 0
        with pytest.raises(ValueError):
            array.flags.writeable = True


def test_a_truncated_file_is_refused_in_one_line(tmp_path: Path) -> None:
    pieces = write_pieces(tmp_path, [9, 9], 64, PAGE)
    pieces[1].path.write_bytes(pieces[1].path.read_bytes()[:-8])
    with pytest.raises(MenteeError) as caught:
        Region(pieces, Layout(np.dtype("u1"), (64,)))
    assert str(caught.value) == f"{pieces[1].path} is truncated: remove it and dump again"
    del caught
    gc.collect()
    assert not maps_of(tmp_path)


def test_rows_that_would_need_more_addresses_than_there_are_still_open(tmp_path: Path) -> None:
    """2,000 parts of rows that share no factor with a huge page: 62,769 bytes, 1,281 x 7 x 7."""
    row_bytes = 62_769
    rows = HUGE_PAGE // row_bytes + 1
    pieces = write_pieces(tmp_path, [rows], row_bytes, 0) * 2_000
    region = Region(pieces, Layout(np.dtype("u1"), (row_bytes,)))
    last = region.array[1_999 * region.stride + rows - 1]
    np.testing.assert_array_equal(last, bytes_of(rows * row_bytes, 0)[-row_bytes:])


# Released when done.


@pytest.mark.parametrize("row_bytes", [64, HUGE_PAGE], ids=["pages", "huge pages"])
def test_memory_is_unmapped_when_the_last_array_that_views_it_is_gone(
    tmp_path: Path, row_bytes: int
) -> None:
    pieces = write_pieces(tmp_path, [4, 4], row_bytes, PAGE)
    region = Region(pieces, Layout(np.dtype("u1"), (row_bytes,)))
    assert len(maps_of(tmp_path)) >= 2
    some = region.array[1:3]
    del region
    gc.collect()
    np.testing.assert_array_equal(some.ravel(), bytes_of(4 * row_bytes)[row_bytes : 3 * row_bytes])
    del some
    gc.collect()
    assert not maps_of(tmp_path)


def test_a_kind_that_is_gone_leaves_nothing_mapped(tmp_path: Path) -> None:
    kind = Kind(make_cache(tmp_path / "labelled") / "features/late")
    assert maps_of(tmp_path)
    answer = kind.gather(np.array([0, 2]), np.array([49, 3]))  # a copy, which keeps nothing
    del kind
    gc.collect()
    assert answer.shape == (2, 700)
    assert not maps_of(tmp_path)


def test_arrays_outlive_the_exit_of_the_interpreter() -> None:
    """What runs last, a thread or an exit handler, may still read; the system unmaps."""
    code = (
        "import atexit, sys, numpy as np\n"
        "from pathlib import Path\n"
        "from pipeline.cache.encodings import Layout\n"
        "from pipeline.cache.mapping import Piece, Region\n"
        "late = []\n"
        "atexit.register(lambda: print('last', late[0].sum()))\n"
        "pieces = [Piece(Path(sys.executable), 4096, 9)]\n"
        "late.append(Region(pieces, Layout(np.dtype('u1'), (64,))).array[:9])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("last ")


@pytest.mark.parametrize("ahead", [PAGE, 100], ids=["mapped", "copied"])
def test_forgetting_leaves_the_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ahead: int
) -> None:
    """Small parts between pages are copied, and nothing could bring them back from their file."""
    pieces = write_pieces(tmp_path, [50, 50, 1], 64, ahead)
    monkeypatch.setattr(mapping, "memory_bytes", lambda: 2 * 64)  # room for one row
    # Pieces so small may count for nothing: whenever it is asked, more is held.
    monkeypatch.setattr(mapping, "_resident_bytes", count(step=PAGE).__next__)
    region = Region(pieces, Layout(np.dtype("u1"), (64,)))
    assert not region.fits
    for _ in range(3):
        for number, piece in enumerate(pieces):
            start = number * region.stride
            got = region.part(start, start + piece.rows)
            np.testing.assert_array_equal(got.ravel(), bytes_of(piece.rows * 64, number))


# Where nothing can be mapped at an address of our choice.


@pytest.fixture
def copying() -> ModuleType:
    """The module as Windows loads it: without the C library, and with little in mmap."""
    spec = importlib.util.spec_from_file_location("pipeline.cache.copying", mapping.__file__)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as windows:
        windows.setattr(os, "name", "nt")
        windows.delattr(ctypes, "CDLL")
        for name in dir(mmap):
            if name.startswith(("MAP_", "PROT_", "MADV_")):
                windows.delattr(mmap, name)
        windows.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
    return module


def test_shards_are_copied_where_they_cannot_be_mapped(tmp_path: Path, copying: ModuleType) -> None:
    pieces = write_pieces(tmp_path, [50, 50, 7], 64, 2 * PAGE)
    region = copying.Region(pieces, Layout(np.dtype("u1"), (64,)))
    assert_holds_its_pieces(region, pieces, 64)
    assert maps_of(tmp_path) == []
    np.testing.assert_array_equal(region.part(50, 100).ravel(), bytes_of(50 * 64, 1))
    taken = region.take(np.array([106, 0]))
    np.testing.assert_array_equal(taken, [bytes_of(7 * 64, 2)[-64:], bytes_of(50 * 64, 0)[:64]])
    with pytest.raises(ValueError, match="read-only"):
        region.array[0] = 0


def test_a_truncated_shard_is_refused_before_it_is_copied(
    tmp_path: Path, copying: ModuleType
) -> None:
    (piece,) = write_pieces(tmp_path, [50], 64, PAGE)
    os.truncate(piece.path, PAGE + 49 * 64)
    with pytest.raises(MenteeError, match="piece0 is truncated: remove it and dump again"):
        copying.Region([piece], Layout(np.dtype("u1"), (64,)))


# Bounded in memory.

LIMIT, ROW_BYTES, MOST = 16 << 20, 40_000, 4  # of rows that are read at a time


def resident() -> int:
    """Bytes of files that this process holds in memory."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"RssFile:\s+(\d+) kB", status)[1]) << 10


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Features six times larger than LIMIT, in twelve parts."""
    folder = tmp_path_factory.mktemp("large")
    rows = 6 * LIMIT // ROW_BYTES // 3
    described = {"encoding": PER_ROW, "shape": [ROW_BYTES]}
    spec = cache_spec(rows=rows, rows_per_shard=-(-rows // 4), kinds={"features/late": described})
    own = schema.shard_spec(spec, "features/late")
    for place in schema.places(spec):
        count = place.stop - place.start
        arrays = {
            "values": np.full((count, ROW_BYTES), place.view * 4 + place.part, dtype="u1"),
            "scale": np.ones(count, dtype="<f4"), "offset": np.zeros(count, dtype="<f4"),
        }  # fmt: skip
        write_shard(place.path(folder), arrays, own, place)
    write_manifest(folder, "features/late", own, list(schema.places(spec)))
    return folder


def test_little_of_a_large_kind_stays_in_memory_while_it_is_read_at_random(
    large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mapping, "memory_bytes", lambda: 2 * LIMIT)  # half of it is used
    kind = Kind(large)
    generator = np.random.default_rng(0)
    before, most = resident(), 0
    for _ in range(400):
        views, rows = generator.integers(3, size=MOST), generator.integers(kind.rows, size=MOST)
        got = kind.gather(views, rows)
        np.testing.assert_array_equal(got[:, 0], views * 4 + rows // kind.rows_per_shard)
        most = max(most, resident() - before)
    # The system may bring 2 MiB in with every row of the last batch and with its numbers.
    assert LIMIT / 2 < most < LIMIT + MOST * (HUGE_PAGE + (3 << 16))


def test_reading_a_large_kind_part_by_part_holds_one_part_more(
    large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mapping, "memory_bytes", lambda: 2 * LIMIT)  # half of it is used
    kind = Kind(large)
    before, most = resident(), 0
    for place in kind.places:
        rows = kind.part(place)[:, 0]
        np.testing.assert_array_equal(rows, place.view * 4 + place.part)
        most = max(most, resident() - before)
    assert most < LIMIT + kind.rows_per_shard * ROW_BYTES + 2 * HUGE_PAGE


def test_a_kind_smaller_than_the_limit_is_held_whole(
    large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mapping, "memory_bytes", lambda: 14 * LIMIT)
    kind = Kind(large)
    before = resident()
    for _ in range(2):
        for place in kind.places:
            kind.part(place)
    assert resident() - before > 5 * LIMIT
