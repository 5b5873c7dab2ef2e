"""The prepared file is mapped, not copied: what that promises, on real files."""

import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import psutil
import pytest
from projects import refusal

from pipeline.errors import MenteeError
from pipeline.prepared import SPLITS, Split, read_split, write_prepared

MIB = 1 << 20


def split_of(name: str, count: int, size: int = 8, seed: int = 0) -> Split:
    generator = np.random.default_rng(seed)
    images = generator.integers(256, size=(count, size, size, 3), dtype=np.uint8)
    labels = generator.integers(2, size=count)
    return Split(name, images, labels, tuple(f"{name}/{n}" for n in range(count)), ("one", "two"))


def test_every_split_is_read_as_it_was_written_also_one_without_images(tmp_path: Path) -> None:
    path = tmp_path / "images.h5"
    written = [split_of(name, count) for name, count in zip(SPLITS, (5, 0, 3, 7), strict=True)]
    write_prepared(path, written)
    for split in written:
        again = read_split(path, split.name)
        np.testing.assert_array_equal(again.images, split.images)
        assert (again.images.dtype, again.image_size) == (np.uint8, (8, 8))
        assert again.digest == split.digest


def test_names_of_classes_may_be_many_and_long(tmp_path: Path) -> None:
    names = tuple(f"{number:05} {'ä' * 20}" for number in range(5000))
    split = replace(split_of("labelled", 5), class_names=names)
    write_prepared(tmp_path / "images.h5", [split])
    assert read_split(tmp_path / "images.h5", "labelled").class_names == names


def test_images_take_memory_when_they_are_looked_at_and_not_before(tmp_path: Path) -> None:
    path = tmp_path / "images.h5"
    write_prepared(path, [split_of("labelled", 1024, size=256)])
    process = psutil.Process()
    before = process.memory_info().rss
    split = read_split(path, "labelled")
    assert process.memory_info().rss - before < 32 * MIB
    assert split.images.sum(dtype=np.int64) > 0
    assert process.memory_info().rss - before > 150 * MIB, "else the first bound says nothing"


def test_a_reader_keeps_its_images_when_others_are_prepared_and_changes_none(
    tmp_path: Path,
) -> None:
    path = tmp_path / "images.h5"
    old, new = split_of("labelled", 9), split_of("labelled", 9, seed=1)
    write_prepared(path, [old])
    reader = read_split(path, "labelled")
    write_prepared(path, [new])
    np.testing.assert_array_equal(reader.images, old.images)
    again = read_split(path, "labelled")
    again.images[0] = 0
    np.testing.assert_array_equal(read_split(path, "labelled").images, new.images)


def test_a_truncated_file_is_an_error_that_says_what_to_run(tmp_path: Path) -> None:
    path = tmp_path / "images.h5"
    write_prepared(path, [split_of("labelled", 100)])
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(MenteeError, match="run `mentee prepare` to make it"):
        read_split(path, "labelled")


# Writes the file where no file may have more bytes than so many, for many such limits.
ON_FULL_DISKS = """
import errno, resource, sys
from pathlib import Path
from test_prepared import split_of
from pipeline.prepared import SPLITS, write_prepared
path = Path(sys.argv[1])
splits = [split_of(name, 3) for name in SPLITS]
write_prepared(path, splits)
whole = path.read_bytes()
most = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
for limit in range(0, len(whole), 100):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, most))
    try:
        write_prepared(path, splits)
    except OSError as error:
        assert (error.errno, error.filename) == (errno.EFBIG, str(path)), (limit, error)
    else:
        raise AssertionError(limit)
    assert path.read_bytes() == whole
    assert list(path.parent.iterdir()) == [path]
"""


@pytest.mark.skipif(sys.platform == "win32", reason="it does not limit how large files become")
def test_wherever_a_disk_is_full_it_is_one_error_and_the_file_stays(tmp_path: Path) -> None:
    command = [sys.executable, "-c", ON_FULL_DISKS, str(tmp_path / "prepared/images.h5")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_same_splits_are_the_same_bytes(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("one.h5", "two.h5")]
    for path in paths:
        write_prepared(path, [split_of(name, 5) for name in SPLITS])
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_a_split_without_images_is_refused_where_all_is_learnt_from_it(tmp_path: Path) -> None:
    path = tmp_path / "images.h5"
    write_prepared(path, [split_of(name, 0) for name in SPLITS])
    for name in ("unlabelled", "validation", "test"):
        assert len(read_split(path, name)) == 0
    assert "its split labelled has no images" in refusal(lambda: read_split(path, "labelled"))


@pytest.mark.parametrize(
    ("name", "label", "is_read"),
    [
        ("labelled", 1, True), ("labelled", 2, False), ("labelled", -1, False),
        ("test", -1, False), ("unlabelled", -1, True), ("unlabelled", -2, False),
        ("unlabelled", 2, False),
    ],
)  # fmt: skip
def test_a_label_is_a_class_or_none_in_the_unlabelled_split(
    name: str, label: int, is_read: bool, tmp_path: Path
) -> None:
    path = tmp_path / "images.h5"
    split = split_of(name, 9)
    split.labels[4] = label
    write_prepared(path, [split])
    if is_read:
        assert read_split(path, name).labels[4] == label
    else:
        said = refusal(lambda: read_split(path, name))
        assert f"labels of the split {name} are " in said
        assert ", of 2 classes" in said


Change = Callable[[h5py.File, Path], None]


def holding(name: str, data: Any) -> Change:
    """The labelled split holds other data under a name."""

    def change(file: h5py.File, _folder: Path) -> None:
        del file[f"labelled/{name}"]
        file.create_dataset(f"labelled/{name}", data=data)

    return change


def stored(name: str, **how: Any) -> Change:
    """The labelled split claims a data set that was never written."""

    def change(file: h5py.File, _folder: Path) -> None:
        del file[f"labelled/{name}"]
        file.create_dataset(f"labelled/{name}", **how)

    return change


def linking(name: str, link: Callable[[Path], Any]) -> Change:
    """What stood under a name is a link to the same in the same file, or in another one."""

    def change(file: h5py.File, folder: Path) -> None:
        file.move(name, "kept")
        file[name] = link(folder / "other.h5")

    return change


def classes(value: Any) -> Change:
    def change(file: h5py.File, _folder: Path) -> None:
        file.attrs["class_names"] = np.bytes_(value) if isinstance(value, str) else value

    return change


def classes_of_any_length(file: h5py.File, _folder: Path) -> None:
    """Whatever length such a text claims, HDF5 takes memory for it before it looks."""
    file.attrs["class_names"] = '["one", "two"]'


def formatted(value: Any) -> Change:
    def change(file: h5py.File, _folder: Path) -> None:
        file.attrs["format"] = value

    return change


def without_split(file: h5py.File, _folder: Path) -> None:
    del file["labelled"]


def no_group(file: h5py.File, _folder: Path) -> None:
    del file["labelled"]
    file["labelled"] = 1


def images_a_group(file: h5py.File, _folder: Path) -> None:
    del file["labelled/images"]
    file.create_group("labelled/images")


def outside(file: h5py.File, folder: Path) -> None:
    """Pixels of any file that its user can read."""
    (folder / "secret").write_bytes(bytes(9 * 192))
    secret = [(str(folder / "secret"), 0, h5py.h5f.UNLIMITED)]
    stored("images", shape=(9, 8, 8, 3), dtype="u1", external=secret)(file, folder)


def virtual(file: h5py.File, folder: Path) -> None:
    layout = h5py.VirtualLayout((9, 8, 8, 3), "u1")
    layout[:] = h5py.VirtualSource(folder / "other.h5", "labelled/images", (9, 8, 8, 3))
    del file["labelled/images"]
    file["labelled"].create_virtual_dataset("images", layout)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (holding("images", np.zeros((9, 8, 8, 3), "f4")), "images are float32 (9, 8, 8, 3), not"),
        (holding("images", np.zeros((9, 8), "u1")), "images are uint8 (9, 8), not uint8 (n, h"),
        (holding("images", np.zeros((9, 8, 8, 4), "u1")), "images are uint8 (9, 8, 8, 4), not"),
        (holding("images", np.zeros((9, 0, 8, 3), "u1")), "images are uint8 (9, 0, 8, 3), not"),
        (holding("images", np.zeros((8, 8, 8, 3), "u1")), "labels are int64 (9,), not int64 (8,)"),
        (holding("images", h5py.Empty("u1")), "cannot be read"),
        (holding("labels", np.zeros(8, "<i8")), "labels are int64 (8,), not int64 (9,)"),
        (holding("labels", np.zeros(9, "<f8")), "labels are float64 (9,), not int64 (9,)"),
        (holding("labels", np.zeros(9, ">i8")), "labels are >i8 (9,), not int64 (9,)"),
        (holding("labels", np.full(9, 99)), "labels of the split labelled are 99 .. 99, of 2"),
        (holding("labels", np.full(9, -5)), "labels of the split labelled are -5 .. -5, of 2"),
        (holding("ids", np.arange(9)), "ids are int64 (9,), not bytes (9,)"),
        (holding("ids", ["a"] * 9), "ids have another size than their shape"),
        (holding("ids", np.array([b"a"] * 8)), "ids are |S1 (8,), not bytes (9,)"),
        (holding("ids", np.array([b"\xff"] * 9)), "'utf-8' codec can't decode byte 0xff"),
        (stored("labels", shape=(1 << 44,), dtype="<i8"), "labels have another size than"),
        (stored("images", shape=(9, 8, 8, 3), dtype="u1", chunks=(1, 8, 8, 3)),
         "images are not stored contiguously in this file"),
        (outside, "images are not stored contiguously in this file"),
        (virtual, "images are not stored contiguously in this file"),
        (images_a_group, "images is no dataset"),
        (no_group, "labelled is no group"),
        (without_split, "it has no labelled"),
        (linking("labelled", lambda other: h5py.ExternalLink(other, "/labelled")),
         "labelled is a link to elsewhere"),
        (linking("labelled", lambda other: h5py.SoftLink("/kept")),
         "labelled is a link to elsewhere"),
        (linking("labelled/ids", lambda other: h5py.ExternalLink(other, "/labelled/ids")),
         "ids is a link to elsewhere"),
        (linking("labelled/images", lambda other: h5py.SoftLink("/kept")),
         "images is a link to elsewhere"),
        (classes("["), "Expecting value"),
        (classes(3), "the JSON object must be str"),
        (classes("3"), "class_names are no list of names"),
        (classes('{"one": 1}'), "class_names are no list of names"),
        (classes('["one", 2]'), "class_names are no list of names"),
        (classes('["one", "\\ud800"]'), "surrogates not allowed"),
        (classes(['["one", "two"]'] * 2), "class_names are not one text"),
        (classes_of_any_length, "attribute class_names is not one number or text"),
        (classes('["one"]'), "labels of the split labelled are 0 .. 1, of 1 classes"),
        (formatted("1"), "attribute format is not one number or text"),
        (formatted([1, 1]), "attribute format is not one number or text"),
    ],
)  # fmt: skip
def test_a_file_of_a_stranger_that_cannot_serve_is_refused_in_one_line(
    change: Change, reason: str, tmp_path: Path
) -> None:
    path = tmp_path / "images.h5"
    for whole in (path, tmp_path / "other.h5"):
        write_prepared(whole, [split_of("labelled", 9)])
        assert len(read_split(whole, "labelled")) == 9
    with h5py.File(path, "r+") as file:
        change(file, tmp_path)
    said = refusal(lambda: read_split(path, "labelled", "targets"))
    assert said.startswith(f"{path} cannot be read (")
    assert reason in said
    assert said.endswith("): run `mentee targets` to make it")


def test_a_file_that_claims_more_bytes_than_it_has_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "images.h5"
    write_prepared(path, [split_of("labelled", 9)])
    with h5py.File(path) as file:
        images = file["labelled/images"].id
        where = images.get_offset(), images.get_storage_size()
    content = path.read_bytes()
    moved = struct.pack("<QQ", len(content) - where[1] + 1, where[1])
    assert content.count(struct.pack("<QQ", *where)) == 1
    path.write_bytes(content.replace(struct.pack("<QQ", *where), moved))
    assert "images.h5 cannot be read (" in refusal(lambda: read_split(path, "labelled"))
