"""The prepared file is mapped, not copied: what that promises, on real files."""

from pathlib import Path

import numpy as np
import psutil
import pytest

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
