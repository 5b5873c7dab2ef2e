"""Packing and unpacking: smaller, lossless, and safe with what strangers packed."""

import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from caches import cache_spec, files_under, make_cache, mentee

from pipeline.cache import archive as archives
from pipeline.files import digest_file, read_json, write_json


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_cache(tmp_path_factory.mktemp("cache") / "labelled")


@pytest.fixture
def archive(cache: Path, tmp_path: Path) -> Path:
    assert mentee("cache", "pack", cache, tmp_path / "archive").exit_code == 0
    return tmp_path / "archive"


def test_unpacking_gives_every_file_back_byte_for_byte(
    cache: Path, archive: Path, tmp_path: Path
) -> None:
    done = mentee("cache", "unpack", archive, tmp_path / "back")
    assert done.exit_code == 0, done.output
    assert files_under(tmp_path / "back") == files_under(cache)


def test_an_archive_is_plain_hdf5_in_gzip_chunks(archive: Path) -> None:
    with h5py.File(archive / "features/late/v000/p00000.h5") as file:
        assert file["values"].compression == "gzip"
        assert file["values"].shape == (20, 700)


def test_answers_of_many_images_become_smaller(tmp_path: Path) -> None:
    """Normal numbers in 8 bits hold 7.2 bits each, and headers are nothing beside them."""
    spec = cache_spec(rows=3000, rows_per_shard=1500)
    cache = make_cache(tmp_path / "labelled", spec)
    assert mentee("cache", "pack", cache, tmp_path / "archive").exit_code == 0
    sizes = [
        sum(map(len, files_under(folder / "features").values()))
        for folder in (cache, tmp_path / "archive")
    ]
    assert sizes[1] < 0.95 * sizes[0]


@pytest.mark.parametrize(
    ("rows", "shape"), [(8192, [2, 14, 14]), (3, [2, 1030, 1020])], ids=["rows", "map"]
)
def test_maps_of_which_one_channel_is_more_than_a_chunk_unpack_to_the_same_bytes(
    tmp_path: Path, rows: int, shape: list[int]
) -> None:
    kind = {"module": "late", "grid": shape[1], "encoding": "uint8 per channel", "shape": shape}
    views = {**cache_spec()["views"], "count": 1}
    kinds = {"views": {}, "features/map": kind}
    spec = cache_spec(rows=rows, rows_per_shard=8192, views=views, kinds=kinds)
    cache = make_cache(tmp_path / "labelled", spec)
    assert mentee("cache", "pack", cache, tmp_path / "archive").exit_code == 0
    done = mentee("cache", "unpack", tmp_path / "archive", tmp_path / "back")
    assert done.exit_code == 0, done.output
    assert files_under(tmp_path / "back") == files_under(cache)


def test_a_packed_cache_says_that_it_must_be_unpacked(archive: Path) -> None:
    from pipeline.cache.reader import Kind
    from pipeline.errors import MenteeError

    with pytest.raises(MenteeError, match="mentee cache unpack"):
        Kind(archive / "logits")


def test_what_is_there_already_is_not_written_over(cache: Path, archive: Path) -> None:
    before = files_under(archive)
    done = mentee("cache", "pack", cache, archive)
    assert done.exit_code == 1
    assert "there already" in done.output
    assert files_under(archive) == before


def test_a_damaged_cache_is_not_packed(cache: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(cache, tmp_path / "copy"))
    path = copy / "logits/v000/p00000.h5"
    content = bytearray(path.read_bytes())
    content[5000 % len(content)] ^= 1
    path.write_bytes(content)
    done = mentee("cache", "pack", copy, tmp_path / "out")
    assert done.exit_code == 1
    assert str(path) in done.output
    assert not (tmp_path / "out").exists()


def refusal_to_pack(cache: Path) -> str:
    """The one line with which packing failed, having left nothing."""
    out = cache.parent / "refused"
    done = mentee("cache", "pack", cache, out)
    assert done.exit_code == 1, done.output
    assert len(done.output.splitlines()) == 1
    assert not out.exists()
    return done.output


@pytest.mark.parametrize("name", ["values", "checksums"])
def test_a_shard_whose_numbers_are_not_those_of_its_digests_is_not_packed(
    cache: Path, tmp_path: Path, name: str
) -> None:
    copy = Path(shutil.copytree(cache, tmp_path / "copy"))
    path = copy / "logits/v000/p00000.h5"
    with h5py.File(path, "r+") as file:
        file[name][...] += 1
    resign(copy / "logits")
    assert f"{path}: {name} is damaged" in refusal_to_pack(copy)


def test_a_shard_whose_digests_are_not_those_of_the_manifest_is_not_packed(
    cache: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(cache, tmp_path / "copy"))
    content = read_json(copy / "logits/manifest.json")
    content["shards"][0]["arrays"]["values"]["sha256"] = "0" * 64
    write_json(copy / "logits/manifest.json", content)
    path = copy / "logits/v000/p00000.h5"
    assert f"{path} holds other data sets than manifest.json says" in refusal_to_pack(copy)


def resign(kind: Path) -> None:
    """Have the manifest say the digests of the files as they are now."""
    content = read_json(kind / "manifest.json")
    for shard in content["shards"]:
        shard["sha256"] = digest_file(kind / shard["path"])
    write_json(kind / "manifest.json", content)


def test_of_a_partly_pulled_cache_the_missing_file_is_named(cache: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(cache, tmp_path / "copy"))
    shutil.rmtree(copy / "logits/v001")
    missing = copy / "logits/v001/p00000.h5"
    assert f"{missing} is missing: dump again, or `dvc pull` it" in refusal_to_pack(copy)


def test_what_is_too_large_to_be_unpacked_is_not_packed(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "MAX_ARRAY_BYTES", 10_000)
    copy = Path(shutil.copytree(cache, tmp_path / "copy"))
    path = copy / "features/late/v000/p00000.h5"
    assert f"{path}: values has 14000 bytes, an archive takes at most" in refusal_to_pack(copy)


def test_a_flipped_byte_or_a_missing_file_of_an_archive_is_named(
    archive: Path, tmp_path: Path
) -> None:
    path = archive / "logits/v001/p00001.h5"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    done = mentee("cache", "unpack", archive, tmp_path / "back")
    assert (done.exit_code, f"{path} is damaged" in done.output) == (1, True)
    path.unlink()
    done = mentee("cache", "unpack", archive, tmp_path / "back")
    assert (done.exit_code, f"{path} is missing" in done.output) == (1, True)
    assert not (tmp_path / "back").exists()


def external(file: h5py.File) -> None:
    file.create_dataset("values", (20, 3), "<f2", external=[("/etc/hostname", 0, 120)])


def external_link(file: h5py.File) -> None:
    file["values"] = h5py.ExternalLink("../v001/p00000.h5", "values")


def soft_link(file: h5py.File) -> None:
    file.create_dataset("other", data=np.zeros((20, 3), "<f2"), compression="gzip", shuffle=True)
    file["values"] = h5py.SoftLink("/other")


def virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((20, 3), "<f2")
    layout[:] = h5py.VirtualSource("p00001.h5", "values", (20, 3))
    file.create_virtual_dataset("values", layout)


def unfiltered(file: h5py.File) -> None:
    file.create_dataset("values", data=np.zeros((20, 3), "<f2"), chunks=(20, 3))


def other_filter(file: h5py.File) -> None:
    file.create_dataset("values", data=np.zeros((20, 3), "<f2"), compression="lzf", shuffle=True)


def huge_and_empty(file: h5py.File) -> None:
    file.create_dataset(
        "values", (1 << 40, 3), "<f2", chunks=(1 << 20, 3), compression="gzip", shuffle=True
    )


def huge_chunk(file: h5py.File) -> None:
    file.create_dataset(
        "values", (20, 3), "<f2", maxshape=(None, 3), chunks=(1 << 28, 3), compression="gzip",
        shuffle=True,
    )  # fmt: skip


@pytest.mark.parametrize(
    "craft",
    [external, external_link, soft_link, virtual, unfiltered, other_filter, huge_and_empty,
     huge_chunk],
    ids=lambda craft: craft.__name__,
)  # fmt: skip
def test_a_crafted_file_in_an_archive_is_refused(
    archive: Path, tmp_path: Path, craft: Callable[[h5py.File], None]
) -> None:
    path = archive / "logits/v000/p00000.h5"
    with h5py.File(path, "r+") as file:
        del file["values"]
        craft(file)
    content = read_json(archive / "logits/archive.json")
    content["files"]["v000/p00000.h5"]["sha256"] = digest_file(path)
    write_json(archive / "logits/archive.json", content)
    done = mentee("cache", "unpack", archive, tmp_path / "back")
    assert done.exit_code == 1
    assert "cannot be unpacked" in done.output, done.output
    assert len(done.output.splitlines()) == 1
    assert not (tmp_path / "back").exists()


@pytest.mark.parametrize("path", ["../../escaped.h5", "/tmp/escaped.h5", "v000/../p00000.h5"])
def test_a_path_out_of_the_folder_is_refused(archive: Path, tmp_path: Path, path: str) -> None:
    content = read_json(archive / "logits/archive.json")
    content["manifest"]["shards"][0]["path"] = path
    write_json(archive / "logits/archive.json", content)
    done = mentee("cache", "unpack", archive, tmp_path / "back")
    assert (done.exit_code, "is not an archive" in done.output) == (1, True)
