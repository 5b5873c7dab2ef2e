"""What of the scratch folder nobody asks for any more, and what removing it frees."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from caches import VIEWS, cache_spec

from pipeline.cache import schema
from pipeline.cache.garbage import Garbage, find_garbage, remove
from pipeline.cache.writer import Scratch

SPEC = cache_spec(kinds={"logits": {"encoding": "float32", "shape": [3]}})


@pytest.fixture
def scratch(tmp_path: Path) -> Scratch:
    """Three views of logits, the last made first, published under `data` as hard links."""
    scratch = Scratch(tmp_path / "scratch")
    for place in reversed(list(schema.places(SPEC))):
        values = np.zeros((place.stop - place.start, 3), "<f4")
        scratch.write(SPEC, "logits", place, {"values": values})
    scratch.publish(SPEC, "logits", tmp_path / "data/labelled/logits")
    (scratch.root / "lock").touch()
    return scratch


def garbage_of(scratch: Scratch, views: int) -> list[Garbage]:
    return find_garbage(scratch, scratch.root.parent / "data", lambda manifest: views)


@pytest.mark.parametrize("views", range(VIEWS + 2))
def test_the_last_views_that_are_no_longer_asked_for_are_garbage_and_the_first_are_kept(
    scratch: Scratch, views: int
) -> None:
    folder = scratch.folder(SPEC, "logits")
    found = garbage_of(scratch, views)
    expected = [folder / f"v{view:03}" for view in range(views, VIEWS)] if views else [folder]
    assert [item.path for item in found] == expected
    remove(found)
    left = [path.name for path in sorted(folder.glob("v*"))]
    assert left == [f"v{view:03}" for view in range(min(views, VIEWS))]
    assert folder.exists() == (views > 0)
    assert (scratch.root / "lock").exists()


def test_what_no_published_kind_is_made_of_is_garbage_as_a_whole(scratch: Scratch) -> None:
    other = cache_spec(**{**SPEC, "teacher": {**SPEC["teacher"], "model": "timm:old"}})
    place = schema.place(other, 0, 0)
    scratch.write(other, "logits", place, {"values": np.zeros((place.stop, 3), "<f4")})
    folder = scratch.folder(other, "logits")
    size = place.path(folder).stat().st_size
    assert garbage_of(scratch, VIEWS) == [Garbage(folder, size)]
    scratch.begin([other])
    assert garbage_of(scratch, VIEWS) == []
    scratch.end()
    assert garbage_of(scratch, VIEWS) == [Garbage(folder, size)]


def test_removing_a_file_with_a_second_name_frees_nothing(scratch: Scratch, tmp_path: Path) -> None:
    assert [item.bytes for item in garbage_of(scratch, VIEWS - 1)] == [0]
    view = tmp_path / "data/labelled/logits" / f"v{VIEWS - 1:03}"
    size = sum(path.stat().st_size for path in view.iterdir())
    shutil.rmtree(view)
    assert [item.bytes for item in garbage_of(scratch, VIEWS - 1)] == [size]
