"""Making a cache: what is there is used again, what is not whole or not the same is not."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.cache import schema
from pipeline.cache.schema import Place, places
from pipeline.cache.shard import check_shard, open_shard
from pipeline.cache.writer import Beside, Scratch, link_or_copy, write_root
from pipeline.errors import MenteeError
from pipeline.files import digest_file

LATE = {"module": "global_pool", "grid": 1, "encoding": "float32", "shape": [700]}


def spec(**changes: Any) -> dict[str, Any]:
    """Five rows in parts of two, two views, three kinds; `changes` by path, like data__digest."""
    content: dict[str, Any] = {
        "format": 2,
        "split": "labelled",
        "rows": 5,
        "rows_per_shard": 2,
        "data": {"digest": "d" * 64, "class_names": ["cat", "dog"]},
        "views": {"count": 2, "padding": 4, "flip": True, "seed": 0, "image_size": [8, 8]},
        "teacher": {
            "model": "timm:some", "weights_sha256": "a" * 64, "precision": "float32",
            "input_size": 16,
        },
        "kinds": {
            "views": {},
            "logits": {"encoding": "float32", "shape": [700]},
            "features/late": LATE,
        },
    }  # fmt: skip
    for path, value in changes.items():
        *blocks, key = path.split("__")
        block = content
        for name in blocks:
            block = block[name]
        block[key] = value
    return content


def values(kind: str, place: Place) -> dict[str, np.ndarray]:
    """Numbers that tell kind, view and row."""
    rows = np.arange(place.start, place.stop, dtype="<f4")
    return {
        "values": rows[:, None] + 100 * place.view + 1000 * len(kind) + np.zeros((1, 700), "f4")
    }


def fill(scratch: Scratch, content: dict[str, Any]) -> list[tuple[str, Place]]:
    """Make what is missing, and say what that was."""
    made = []
    for place in places(content):
        for kind in scratch.missing(content, place):
            scratch.write(content, kind, place, values(kind, place))
            made.append((kind, place))
    return made


def files_under(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def scratch(tmp_path: Path) -> Scratch:
    return Scratch(tmp_path / "scratch")


# Where shards stand


@given(rows=st.integers(0, 200), step=st.integers(1, 70), count=st.integers(1, 4))
def test_places_cover_every_row_of_every_view_exactly_once(
    rows: int, step: int, count: int
) -> None:
    content = {"rows": rows, "rows_per_shard": step, "views": {"count": count}}
    seen = np.zeros((count, rows), dtype=int)
    paths = set()
    for place in places(content):
        assert place.start == place.part * step
        assert 0 < place.stop - place.start <= step
        seen[place.view, place.start : place.stop] += 1
        paths.add(place.path(Path("kind")))
    assert (seen == 1).all()
    assert len(paths) == count * -(-rows // step)


def test_a_place_has_the_path_that_the_format_promises() -> None:
    assert Place(3, 12, 0, 1).path(Path("logits")) == Path("logits/v003/p00012.h5")


EARLY = {**LATE, "module": "blocks.1"}


@pytest.mark.parametrize("kind", ["views", "logits", "features/late"])
@pytest.mark.parametrize(
    "change",
    [{"views__count": 16}, {"kinds": {**spec()["kinds"], "features/early": EARLY}}],
    ids=["views", "taps"],
)
def test_more_views_and_more_taps_leave_the_folders_of_old_kinds_as_they_are(
    scratch: Scratch, kind: str, change: dict[str, Any]
) -> None:
    changed = spec(**change)
    assert scratch.folder(spec(), kind) == scratch.folder(changed, kind)
    old, new = schema.shard_spec(spec(), kind), schema.shard_spec(changed, kind)
    assert schema.fingerprint(old) == schema.fingerprint(new)


@pytest.mark.parametrize("kind", ["views", "logits", "features/late"])
@pytest.mark.parametrize(
    "change",
    [
        {"teacher__model": "timm:other"},
        {"teacher__weights_sha256": "b" * 64},
        {"teacher__precision": "bfloat16"},
        {"data__digest": "e" * 64},
        {"data__class_names": ["dog", "cat"]},
        {"views__seed": 1},
        {"views__padding": 2},
        {"views__flip": False},
        {"rows": 6},
        {"rows_per_shard": 3},
        {"split": "unlabelled"},
        {"format": 3},
    ],
    ids=lambda change: next(iter(change)),
)
def test_whatever_else_decides_the_numbers_changes_the_folder(
    scratch: Scratch, kind: str, change: dict[str, Any]
) -> None:
    changed = spec(**change)
    assert scratch.folder(spec(), kind) != scratch.folder(changed, kind)
    old, new = schema.shard_spec(spec(), kind), schema.shard_spec(changed, kind)
    assert schema.fingerprint(old) != schema.fingerprint(new)


def test_a_tap_read_elsewhere_or_in_another_precision_changes_its_own_folder_alone(
    scratch: Scratch,
) -> None:
    for change in ({"module": "blocks.6"}, {"grid": 2}, {"encoding": "float16"}):
        changed = spec(kinds={**spec()["kinds"], "features/late": {**LATE, **change}})
        folders = {kind: scratch.folder(changed, kind) for kind in changed["kinds"]}
        assert folders["features/late"] != scratch.folder(spec(), "features/late")
        assert folders["logits"] == scratch.folder(spec(), "logits")
        assert folders["views"] == scratch.folder(spec(), "views")


# What is there and what is missing


def test_missing_lists_the_kinds_that_are_not_there_yet(scratch: Scratch) -> None:
    first, second, *_ = places(spec())
    assert scratch.missing(spec(), first) == ["views", "logits", "features/late"]
    scratch.write(spec(), "logits", first, values("logits", first))
    assert scratch.missing(spec(), first) == ["views", "features/late"]
    assert scratch.missing(spec(), second) == ["views", "logits", "features/late"]
    assert len(fill(scratch, spec())) == 2 * 3 * 3 - 1  # views, parts and kinds
    assert fill(scratch, spec()) == []


def test_one_more_view_and_one_more_tap_make_only_what_is_new(scratch: Scratch) -> None:
    fill(scratch, spec())
    before = files_under(scratch.root)
    grown = spec(views__count=3)
    assert {place.view for _, place in fill(scratch, grown)} == {2}
    grown["kinds"]["features/early"] = EARLY
    assert {kind for kind, _ in fill(scratch, grown)} == {"features/early"}
    after = files_under(scratch.root)
    assert before.items() <= after.items()
    assert fill(scratch, spec()) == []  # params turned back


def test_a_shard_of_another_spec_is_never_reused(scratch: Scratch) -> None:
    place = next(places(spec()))
    other = spec(teacher__weights_sha256="b" * 64)
    fill(scratch, other)
    assert scratch.missing(spec(), place) == ["views", "logits", "features/late"]
    # Not even where it stands in the folder of this spec.
    target = place.path(scratch.folder(spec(), "logits"))
    link_or_copy(place.path(scratch.folder(other, "logits")), target)
    assert not scratch.has(spec(), "logits", place)


def test_a_shard_under_another_places_name_is_not_reused(scratch: Scratch) -> None:
    fill(scratch, spec())
    first, second, *_ = places(spec())
    folder = scratch.folder(spec(), "logits")
    shutil.copy(first.path(folder), second.path(folder))
    assert scratch.missing(spec(), first) == []
    assert scratch.missing(spec(), second) == ["logits"]


def test_a_truncated_shard_is_made_again(scratch: Scratch) -> None:
    fill(scratch, spec())
    before = files_under(scratch.root)
    place = list(places(spec()))[3]
    path = place.path(scratch.folder(spec(), "logits"))
    path.write_bytes(path.read_bytes()[:-100])
    assert fill(scratch, spec()) == [("logits", place)]
    assert files_under(scratch.root) == before


def test_a_damaged_shard_is_made_again(scratch: Scratch) -> None:
    """What a damaged cache tells its reader, to remove the file and dump again, must help."""
    fill(scratch, spec())
    before = files_under(scratch.root)
    place = list(places(spec()))[3]
    path = place.path(scratch.folder(spec(), "logits"))
    with h5py.File(path) as file:
        offset = file["values"].id.get_offset()
    content = bytearray(path.read_bytes())
    content[offset + 5] ^= 1
    path.write_bytes(content)
    assert fill(scratch, spec()) == [("logits", place)]
    assert files_under(scratch.root) == before


# One dump at a time


HOLD = """
import sys
from pathlib import Path
from pipeline.cache.writer import Scratch
with Scratch(Path(sys.argv[1])).locked():
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_dump_into_the_same_folder_is_refused_in_one_line(scratch: Scratch) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(scratch.root)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as other:  # fmt: skip
        assert other.stdout and other.stdout.readline() == "held\n"
        partial = scratch.root / ".p00000.h5.1.partial"
        partial.write_text("the other's work")
        with pytest.raises(MenteeError) as caught, scratch.locked():
            pass
        assert partial.exists(), "the other is still writing it"
        other.communicate("")
    assert len(str(caught.value).splitlines()) == 1
    assert f"another dump is writing to {scratch.root}" in str(caught.value)
    with scratch.locked():
        pass


def test_a_dump_that_ended_with_an_error_leaves_the_folder_free(scratch: Scratch) -> None:
    with pytest.raises(KeyboardInterrupt), scratch.locked():
        raise KeyboardInterrupt
    with scratch.locked():
        pass


KILLED = """
import os, signal, sys
from pathlib import Path
from pipeline.cache.writer import Scratch
from pipeline.files import written_whole
with Scratch(Path(sys.argv[1])).locked(), written_whole(Path(sys.argv[2])) as partial:
    partial.write_text("half a shard")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_dump_left_half_written_is_removed(scratch: Scratch) -> None:
    fill(scratch, spec())
    before = files_under(scratch.root)
    path = Place(0, 7, 0, 1).path(scratch.folder(spec(), "logits"))
    command = [sys.executable, "-c", KILLED, str(scratch.root), str(path)]
    assert subprocess.run(command).returncode == -signal.SIGKILL
    assert len(list(scratch.root.rglob("*.partial"))) == 1
    with scratch.locked():
        assert list(scratch.root.rglob("*.partial")) == []
    after = files_under(scratch.root)
    after.pop("lock")
    assert after == before


# Moving in


def test_publish_replaces_the_folder_as_a_whole(scratch: Scratch, tmp_path: Path) -> None:
    fill(scratch, spec())
    folder = tmp_path / "cache" / "logits"
    (folder / "v009").mkdir(parents=True)
    (folder / "v009" / "p00000.h5").write_text("of an older dump")
    scratch.publish(spec(), "logits", folder)
    published = {f"v{view:03}/p{part:05}.h5" for view in range(2) for part in range(3)}
    assert set(files_under(folder)) == published | {"manifest.json"}
    assert list(folder.parent.iterdir()) == [folder]


def test_publish_links_and_does_not_copy(scratch: Scratch, tmp_path: Path) -> None:
    fill(scratch, spec())
    folder = tmp_path / "cache" / "features" / "late"
    scratch.publish(spec(), "features/late", folder)
    for place in places(spec()):
        source = place.path(scratch.folder(spec(), "features/late"))
        assert os.path.samefile(source, place.path(folder))
        check_shard(open_shard(place.path(folder)))


def test_publishing_fewer_views_takes_the_others_away(scratch: Scratch, tmp_path: Path) -> None:
    fill(scratch, spec())
    folder = tmp_path / "logits"
    scratch.publish(spec(), "logits", folder)
    scratch.publish(spec(views__count=1), "logits", folder)
    assert {path.name for path in folder.iterdir()} == {"v000", "manifest.json"}
    assert fill(scratch, spec()) == [], "the scratch folder still has them"


def test_a_publish_that_fails_leaves_the_old_folder(scratch: Scratch, tmp_path: Path) -> None:
    fill(scratch, spec())
    folder = tmp_path / "cache" / "logits"
    scratch.publish(spec(), "logits", folder)
    before = files_under(folder)
    with pytest.raises(FileNotFoundError):
        scratch.publish(spec(views__count=3), "logits", folder)
    assert files_under(folder) == before
    assert list(folder.parent.iterdir()) == [folder]


@pytest.mark.parametrize("kind", ["views", "logits", "features/late"])
def test_the_manifest_names_every_shard_and_data_set_with_its_digest(
    scratch: Scratch, tmp_path: Path, kind: str
) -> None:
    fill(scratch, spec())
    folder = tmp_path / "cache" / kind
    scratch.publish(spec(), kind, folder)
    content = json.loads((folder / "manifest.json").read_text())
    own = schema.shard_spec(spec(), kind)
    assert content["format"] == 2
    assert (content["kind"], content["spec"]) == (kind, own)
    assert content["fingerprint"] == schema.fingerprint(own)
    listed = {shard["path"]: shard for shard in content["shards"]}
    assert set(listed) == {p.relative_to(folder).as_posix() for p in folder.rglob("*.h5")}
    for path, shard in listed.items():
        raw = (folder / path).read_bytes()
        assert (shard["bytes"], shard["sha256"]) == (len(raw), hashlib.sha256(raw).hexdigest())
        for name, extent in shard["arrays"].items():
            part = raw[extent["offset"] : extent["offset"] + extent["bytes"]]
            assert extent["sha256"] == hashlib.sha256(part).hexdigest()
            with h5py.File(folder / path) as file:
                assert file[name][:].tobytes() == part


@pytest.mark.parametrize("ids", [("a/1.png", "Größe.png", "x"), ()], ids=["three", "none"])
def test_beside_the_kinds_stand_the_spec_and_which_sample_is_in_which_row(
    tmp_path: Path, ids: tuple[str, ...]
) -> None:
    labels = np.arange(len(ids)) - 1
    write_root(tmp_path, spec(), ids, labels)
    with h5py.File(tmp_path / "index.h5") as file:
        assert tuple(sample.decode() for sample in file["ids"][:]) == ids
        assert file["labels"].dtype == np.dtype("<i8")
        np.testing.assert_array_equal(file["labels"][:], labels)
    content = json.loads((tmp_path / "spec.json").read_text())
    assert content.pop("index") == {"sha256": digest_file(tmp_path / "index.h5")}
    assert content == spec()


def on_a_disk_for_files_of_100_kb(code: str, *arguments: Path) -> str:
    """The last line that Python says where larger files are refused, and links too."""
    start = (
        "import os, resource, sys, numpy as np\n"
        "from pathlib import Path\n"
        "from pipeline.cache.writer import link_or_copy, write_root\n"
        "os.link = lambda *paths: os.listdir(paths[0])  # an OSError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
    )
    command = [sys.executable, "-c", start + code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    return done.stderr.splitlines()[-1]


def test_where_an_index_does_not_fit_the_disks_own_words_are_said(tmp_path: Path) -> None:
    code = (
        "ids = tuple(f'{row:0100}' for row in range(10_000))\n"
        "write_root(Path(sys.argv[1]), {}, ids, np.arange(10_000))\n"
    )
    line = on_a_disk_for_files_of_100_kb(code, tmp_path / "cache")
    assert line == f"OSError: [Errno 27] File too large: '{tmp_path}/cache/index.h5'"
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_copy_that_does_not_fit_is_named_and_not_what_it_is_of(tmp_path: Path) -> None:
    source, target = tmp_path / "source.h5", tmp_path / "cache/p00000.h5"
    source.write_bytes(bytes(200_000))
    code = "link_or_copy(*map(Path, sys.argv[1:]))\n"
    line = on_a_disk_for_files_of_100_kb(code, source, target)
    assert line == f"OSError: [Errno 27] File too large: '{target}'"
    assert list(target.parent.iterdir()) == []


def test_a_copy_where_links_are_refused_has_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = tmp_path / "source.h5", tmp_path / "cache/p00000.h5"
    source.write_bytes(bytes(range(256)) * 10_000)
    source.chmod(0o444)  # as DVC has its files

    def refuse(*_: Path) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "link", refuse)
    link_or_copy(source, target)
    assert target.read_bytes() == source.read_bytes()
    assert not os.path.samefile(source, target)


# Writing beside the teacher


def test_calls_run_one_after_another_in_their_order() -> None:
    done: list[int] = []
    with Beside(2) as beside:
        for number in range(20):
            beside.put(done.append, number)
    assert done == list(range(20))


def test_no_more_calls_wait_than_allowed() -> None:
    started, go = threading.Event(), threading.Event()

    def wait() -> None:
        started.set()
        go.wait(10)

    with Beside(2) as beside:
        beside.put(wait)
        started.wait(10)
        beside.put(print)
        beside.put(print)
        late = threading.Thread(target=beside.put, args=(print,))
        late.start()
        late.join(0.2)
        assert late.is_alive(), "a third waiting call must wait to be taken"
        go.set()
        late.join(10)
        assert not late.is_alive()


def test_an_error_of_a_call_comes_out_and_ends_the_writing() -> None:
    done: list[int] = []

    def fail() -> None:
        raise MenteeError("the disk is full")

    with pytest.raises(MenteeError, match="the disk is full"), Beside(1) as beside:
        beside.put(fail)
        for number in range(100):
            beside.put(done.append, number)
    assert done == []


def test_no_call_runs_after_one_that_failed(scratch: Scratch) -> None:
    """A shard some of whose rows could not be filled in must never be written."""
    place = next(places(spec()))

    def fill_in() -> None:
        raise MemoryError

    with pytest.raises(MemoryError), Beside(4) as beside:
        beside.put(time.sleep, 0.2)  # so that all three wait in the queue together
        beside.put(fill_in)
        beside.put(scratch.write, spec(), "logits", place, values("logits", place))
    assert not scratch.has(spec(), "logits", place)


def test_what_was_answered_before_an_interruption_is_written(scratch: Scratch) -> None:
    place = next(places(spec()))
    with pytest.raises(KeyboardInterrupt), Beside(4) as beside:
        beside.put(time.sleep, 0.2)
        beside.put(scratch.write, spec(), "logits", place, values("logits", place))
        raise KeyboardInterrupt
    assert scratch.has(spec(), "logits", place)


def test_an_error_of_the_last_call_comes_out_too() -> None:
    def fail() -> None:
        raise MenteeError("the disk is full")

    with pytest.raises(MenteeError), Beside(4) as beside:
        beside.put(fail)


# Taking over what was published or pulled


def test_good_shards_of_a_published_kind_are_taken_over_and_no_others(
    scratch: Scratch, tmp_path: Path
) -> None:
    fill(scratch, spec())
    before = files_under(scratch.root)
    folder = tmp_path / "logits"
    scratch.publish(spec(), "logits", folder)
    shutil.rmtree(scratch.root)
    damaged = folder / "v001/p00001.h5"
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    scratch.adopt(spec(), "logits", folder)
    scratch.adopt(spec(teacher__model="timm:other"), "logits", folder)
    scratch.adopt(spec(), "features/late", tmp_path / "nothing")
    after = files_under(scratch.root)
    own, name = scratch.folder(spec(), "logits").name, damaged.relative_to(folder).as_posix()
    good = {path for path in before if path.startswith(own) and not path.endswith(name)}
    assert after == {path: before[path] for path in good}


def test_shards_that_are_links_into_dvcs_store_are_taken_over_as_files(
    scratch: Scratch, tmp_path: Path
) -> None:
    fill(scratch, spec())
    folder, store = tmp_path / "logits", tmp_path / "store"
    scratch.publish(spec(), "logits", folder)
    before = files_under(folder)
    shutil.rmtree(scratch.root)
    store.mkdir()
    for number, path in enumerate(sorted(folder.glob("*/*.h5"))):
        path.rename(store / str(number))
        path.symlink_to(store / str(number))
    scratch.adopt(spec(), "logits", folder)
    shutil.rmtree(store)
    scratch.publish(spec(), "logits", folder)
    assert not any(path.is_symlink() for path in folder.rglob("*"))
    assert files_under(folder) == before
