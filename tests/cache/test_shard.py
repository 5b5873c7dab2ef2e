"""One HDF5 file of a cache: written whole, mapped right, refused when it is not what it says."""

import hashlib
import json
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from pipeline.cache.schema import Place
from pipeline.cache.shard import check_shard, open_shard, write_shard
from pipeline.errors import MenteeError

SPEC = {"format": 2, "rows": 40, "data": {"class_names": ["Zwölf", "b"]}, "kinds": {"logits": {}}}
PLACE = Place(view=2, part=1, start=40, stop=70)  # thirty rows


def two_arrays() -> dict[str, np.ndarray]:
    """One array larger than a page and one that is smaller, thirty rows each."""
    generator = np.random.default_rng(0)
    return {
        "regions": generator.integers(-9, 9, size=(30, 50), dtype=np.int32),
        "pixels": generator.integers(2**64, size=30, dtype=np.uint64),
    }


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    path = tmp_path / "v002" / "p00001.h5"
    write_shard(path, two_arrays(), SPEC, PLACE)
    return path


def refusal(path: Path) -> str:
    """Why this file is refused: one line that names it."""
    with pytest.raises(MenteeError) as caught:
        check_shard(open_shard(path))
    text = str(caught.value)
    assert len(text.splitlines()) == 1
    assert str(path) in text
    return text


def test_what_was_written_is_read_back(shard: Path) -> None:
    opened = open_shard(shard)
    check_shard(opened)
    assert (opened.path, opened.spec, opened.place) == (shard, SPEC, PLACE)
    assert set(opened.arrays) == {"regions", "pixels", "checksums"}
    for name, array in two_arrays().items():
        assert opened.arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(opened.arrays[name], array)


@settings(deadline=None, max_examples=40)
@given(data=st.data(), dtype=st.sampled_from(["<f2", "<f4", "<i4", "<u8"]))
def test_any_shape_and_number_comes_back_bit_for_bit(data: st.DataObject, dtype: str) -> None:
    shapes = arrays_of.array_shapes(min_dims=1, max_dims=4, max_side=9)
    values = data.draw(arrays_of.arrays(dtype, shapes))  # nan and infinities among them
    with TemporaryDirectory() as folder:
        path = Path(folder) / "p00000.h5"
        write_shard(path, {"values": values}, SPEC, Place(0, 0, 0, len(values)))
        opened = open_shard(path)
        check_shard(opened)
        read = opened.arrays["values"]
        assert (read.dtype, read.shape) == (values.dtype, values.shape)
        assert read.tobytes() == values.tobytes()


def test_arrays_in_any_memory_order_are_stored_row_by_row(tmp_path: Path) -> None:
    values = np.asfortranarray(np.arange(30 * 6, dtype="<f4").reshape(30, 2, 3))
    write_shard(tmp_path / "p.h5", {"values": values[:, ::-1]}, SPEC, PLACE)
    np.testing.assert_array_equal(open_shard(tmp_path / "p.h5").arrays["values"], values[:, ::-1])


def test_the_maps_are_read_only(shard: Path) -> None:
    for array in open_shard(shard).arrays.values():
        with pytest.raises(ValueError, match="read-only"):
            array[:] = 0


def test_the_same_work_gives_the_same_bytes(tmp_path: Path) -> None:
    write_shard(tmp_path / "one" / "p.h5", two_arrays(), SPEC, PLACE)
    time.sleep(1.1)  # HDF5 would keep dates in whole seconds
    reordered = dict(reversed(SPEC.items()))
    write_shard(tmp_path / "two" / "q.h5", two_arrays(), reordered, PLACE)
    assert (tmp_path / "one" / "p.h5").read_bytes() == (tmp_path / "two" / "q.h5").read_bytes()


def test_h5py_alone_reads_plain_aligned_little_endian_data_sets(shard: Path) -> None:
    raw = shard.read_bytes()
    with h5py.File(shard) as file:
        assert json.loads(file.attrs["spec"]) == SPEC
        assert [int(file.attrs[name]) for name in ("format", "view", "part", "start", "stop")] == [
            2, 2, 1, 40, 70,
        ]  # fmt: skip
        assert set(file) == {"regions", "pixels", "checksums"}
        for name, array in two_arrays().items():
            np.testing.assert_array_equal(file[name][:], array)
        for dataset in file.values():
            offset, size = dataset.id.get_offset(), dataset.id.get_storage_size()
            assert dataset.id.get_create_plist().get_layout() == h5py.h5d.CONTIGUOUS
            assert dataset.dtype == dataset.dtype.newbyteorder("<")
            assert (
                dataset.attrs["sha256"].decode()
                == hashlib.sha256(raw[offset : offset + size]).hexdigest()
            )
        assert file["regions"].id.get_storage_size() >= 4096
        assert file["regions"].id.get_offset() % 4096 == 0


@pytest.mark.parametrize("row_bytes", [512, 4096, 70_000])
def test_every_data_set_that_fills_a_page_begins_on_one(tmp_path: Path, row_bytes: int) -> None:
    arrays = {name: np.ones((30, row_bytes), dtype=np.uint8) for name in "abc"}
    write_shard(tmp_path / "p.h5", arrays, SPEC, PLACE)
    with h5py.File(tmp_path / "p.h5") as file:
        assert [file[name].id.get_offset() % 4096 for name in "abc"] == [0, 0, 0]


def test_every_row_has_its_crc_32_over_all_arrays(shard: Path) -> None:
    checksums = open_shard(shard).arrays["checksums"]
    assert checksums.dtype == np.uint32
    rows = zip(*two_arrays().values(), strict=True)
    expected = [zlib.crc32(b"".join(array.tobytes() for array in row)) for row in rows]
    np.testing.assert_array_equal(checksums, expected)


def test_a_write_that_fails_midway_leaves_what_was_there(shard: Path) -> None:
    before = shard.read_bytes()
    # The first array is in the file already when the second turns out to be no numbers at all.
    arrays = {**two_arrays(), "words": np.array(["a word"] * 30, dtype=object)}
    with pytest.raises(TypeError):
        write_shard(shard, arrays, SPEC, PLACE)
    assert shard.read_bytes() == before
    assert list(shard.parent.iterdir()) == [shard]


def test_a_full_disk_leaves_nothing_under_the_final_name(tmp_path: Path) -> None:
    code = (
        "import resource, sys, numpy as np\n"
        "from pathlib import Path\n"
        "from pipeline.cache.schema import Place\n"
        "from pipeline.cache.shard import write_shard\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "values = np.ones((30, 10_000), dtype='<f4')\n"
        "write_shard(Path(sys.argv[1]), {'values': values}, {'rows': 30}, Place(0, 0, 0, 30))\n"
    )
    folder = tmp_path / "shards"
    command = [sys.executable, "-c", code, str(folder / "p00000.h5")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode != 0
    assert "File too large" in done.stderr
    assert list(folder.iterdir()) == []


def test_a_disk_that_keeps_other_bytes_is_noticed_and_what_was_there_stays(
    shard: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, write = shard.read_bytes(), Path.write_bytes
    with monkeypatch.context() as disk:
        disk.setattr(Path, "write_bytes", lambda path, data: write(path, bytes(data)[:-1] + b"?"))
        with pytest.raises(MenteeError, match="did not reach the disk as it was written"):
            write_shard(shard, two_arrays(), SPEC, PLACE)
    assert shard.read_bytes() == before
    assert list(shard.parent.iterdir()) == [shard]


def test_a_shard_with_fewer_rows_than_its_place_says_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(MenteeError, match="not 30 rows"):
        write_shard(tmp_path / "p.h5", {"values": np.ones((29, 2), dtype="<f4")}, SPEC, PLACE)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["regions", "pixels", "checksums"])
@pytest.mark.parametrize("where", [0.0, 0.5, 1.0])
def test_one_flipped_bit_in_a_data_set_is_found(shard: Path, name: str, where: float) -> None:
    with h5py.File(shard) as file:
        offset, size = file[name].id.get_offset(), file[name].id.get_storage_size()
    content = bytearray(shard.read_bytes())
    content[offset + round(where * (size - 1))] ^= 1
    shard.write_bytes(content)
    assert f"{name} is damaged" in refusal(shard)


@settings(deadline=None, max_examples=30)
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_file_cut_off_anywhere_is_refused(share: float) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "p00000.h5"
        write_shard(path, two_arrays(), SPEC, PLACE)
        content = path.read_bytes()
        path.write_bytes(content[: int(share * len(content))])
        refusal(path)


@pytest.mark.parametrize("content", [b"", b"a shard, honestly\n" * 1000], ids=["empty", "text"])
def test_a_file_that_is_no_hdf5_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "p00000.h5"
    path.write_bytes(content)
    assert "is not a whole shard" in refusal(path)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert "is not a whole shard" in refusal(tmp_path / "p00000.h5")


@pytest.mark.parametrize("signature", [b"OHDR", b"OCHK"])
def test_a_damaged_table_of_contents_is_refused(shard: Path, signature: bytes) -> None:
    content = shard.read_bytes()
    assert signature in content
    shard.write_bytes(content.replace(signature, b"XXXX"))
    refusal(shard)


@pytest.mark.parametrize("version", [0, 1, 3, "2\n1", None])
def test_another_format_version_is_refused(shard: Path, version: Any) -> None:
    with h5py.File(shard, "r+") as file:
        del file.attrs["format"]
        if version is not None:
            file.attrs["format"] = version
    assert "this version reads 2" in refusal(shard)


@pytest.mark.parametrize("attribute", ["spec", "view", "part", "start", "stop", "max_error"])
def test_a_shard_that_does_not_say_what_it_is_is_refused(shard: Path, attribute: str) -> None:
    with h5py.File(shard, "r+") as file:
        del file.attrs[attribute]
    assert "is not a whole shard" in refusal(shard)


@pytest.mark.parametrize("spec", ["no JSON", "[" * 100_000], ids=["text", "deep"])
def test_a_spec_that_is_no_spec_is_refused(shard: Path, spec: str) -> None:
    with h5py.File(shard, "r+", libver=("v108", "v110")) as file:
        del file.attrs["spec"]
        file.attrs["spec"] = fixed(spec)
    refusal(shard)


def test_a_data_set_without_a_digest_is_refused(shard: Path) -> None:
    with h5py.File(shard, "r+") as file:
        del file["pixels"].attrs["sha256"]
    refusal(shard)


# What strangers may put under the name "values". The secret lies in another file beside the shard.

SECRET = np.arange(30, dtype="<f4")


def plain(file: h5py.File, _secret: Path) -> None:
    file.create_dataset("values", data=SECRET)


def fewer_rows(file: h5py.File, _secret: Path) -> None:
    file.create_dataset("values", data=SECRET[:29])


def external_link(file: h5py.File, secret: Path) -> None:
    file["values"] = h5py.ExternalLink(str(secret), "/values")


def soft_link(file: h5py.File, _secret: Path) -> None:
    others = file.create_dataset("others", data=SECRET)
    others.attrs["sha256"] = fixed(hashlib.sha256(SECRET).hexdigest())
    file["values"] = h5py.SoftLink("/others")


def external_storage(file: h5py.File, secret: Path) -> None:
    raw = secret.with_suffix(".raw")
    file.create_dataset("values", (30,), "<f4", external=[(str(raw), 0, h5py.h5f.UNLIMITED)])


def virtual(file: h5py.File, secret: Path) -> None:
    layout = h5py.VirtualLayout((30,), "<f4")
    layout[:] = h5py.VirtualSource(secret, "values", (30,))
    file.create_virtual_dataset("values", layout)


def chunked(file: h5py.File, _secret: Path) -> None:
    file.create_dataset("values", data=SECRET, chunks=(10,))


def compressed(file: h5py.File, _secret: Path) -> None:
    file.create_dataset("values", data=SECRET, chunks=(10,), compression="gzip")


def compact(file: h5py.File, _secret: Path) -> None:
    layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    layout.set_layout(h5py.h5d.COMPACT)
    space = h5py.h5s.create_simple((30,))
    made = h5py.h5d.create(file.id, b"values", h5py.h5t.IEEE_F32LE, space, dcpl=layout)
    h5py.Dataset(made)[...] = SECRET


def objects(file: h5py.File, _secret: Path) -> None:
    file.create_dataset("values", data=["a word"] * 30, dtype=h5py.string_dtype())


def structure(file: h5py.File, _secret: Path) -> None:
    file.create_dataset("values", data=np.zeros(30, dtype=[("a", "<f4"), ("b", "<i4")]))


def group(file: h5py.File, _secret: Path) -> None:
    file.create_group("values")


def unwritten(file: h5py.File, _secret: Path) -> None:
    file.create_dataset("values", (30,), "<f4")  # HDF5 gives it no place in the file


def crafted(folder: Path, make: Callable[[h5py.File, Path], None]) -> Path:
    """A shard made by hand that is right in all but what `make` puts under "values"."""
    secret = folder / "secret.h5"
    secret.with_suffix(".raw").write_bytes(SECRET.tobytes())
    with h5py.File(secret, "w") as file:
        file.create_dataset("values", data=SECRET)
        file["values"].attrs["sha256"] = fixed(hashlib.sha256(SECRET).hexdigest())
    path = folder / "p00000.h5"
    with h5py.File(path, "w") as file:
        file.attrs["format"] = 2
        file.attrs["max_error"] = 0.0
        file.attrs["spec"] = fixed(json.dumps(SPEC))
        file.attrs.update({"view": 0, "part": 0, "start": 0, "stop": 30})
        make(file, secret)
        if isinstance(file.get("values", getlink=True), h5py.HardLink):
            file["values"].attrs["sha256"] = fixed(hashlib.sha256(SECRET).hexdigest())
    return path


def fixed(text: str) -> np.bytes_:
    """What h5py writes as a text of fixed length, the only kind that a shard may hold."""
    return np.bytes_(text.encode())


def test_a_plain_data_set_made_by_hand_is_accepted(tmp_path: Path) -> None:
    opened = open_shard(crafted(tmp_path, plain))
    check_shard(opened)
    np.testing.assert_array_equal(opened.arrays["values"], SECRET)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (external_link, "values is a link to elsewhere"),
        (soft_link, "values is a link to elsewhere"),
        (external_storage, "values is not stored contiguously in this file"),
        (virtual, "values is not stored contiguously in this file"),
        (chunked, "values is not stored contiguously in this file"),
        (compressed, "values is not stored contiguously in this file"),
        (compact, "values is not stored contiguously in this file"),
        (objects, "values is not a numeric data set"),
        (structure, "values is not a numeric data set"),
        (group, "values is not a numeric data set"),
        (unwritten, "values reaches past the end of the file"),
        (fewer_rows, "values has shape (29,), not 30 rows"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_crafted_file_is_refused(
    tmp_path: Path, make: Callable[[h5py.File, Path], None], reason: str
) -> None:
    assert reason in refusal(crafted(tmp_path, make))
