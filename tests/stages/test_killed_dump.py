"""A dump that is killed, once or often, ends with the files of one that was not."""

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from killing import Dumps, cache_files, copy_prepared, set_params

from pipeline.stages.dump import AHEAD
from pipeline.views_ahead import BATCH_SIZE

KILLS = 50
SHARD = -(-150 // BATCH_SIZE)  # batches that fill the shards of a place
QUEUE = AHEAD + 2  # batches that wait, one that is being added and one that waits to join them


@pytest.fixture(scope="module")
def dumps(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dumps]:
    """In memory where there is room: a hundred dumps would wait long for a disk to sync."""
    memory = Path("/dev/shm")
    if not (os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 1 << 30):
        yield Dumps(tmp_path_factory.mktemp("dumps"))
        return
    with TemporaryDirectory(dir=memory) as folder:
        yield Dumps(Path(folder))


@pytest.fixture(scope="module")
def uninterrupted(prepared: Path, dumps: Dumps) -> tuple[Path, float]:
    """A dump that nobody stopped, and how long one takes."""
    seconds = []
    for number in range(3):
        folder = copy_prepared(prepared, dumps.root / f"uninterrupted-{number}")
        seconds.append(dumps.run(folder))
    return folder, float(np.median(seconds))


def test_a_dump_killed_at_50_random_moments_ends_with_the_same_files(
    prepared: Path, dumps: Dumps, uninterrupted: tuple[Path, float]
) -> None:
    whole, duration = uninterrupted
    wanted, batches = cache_files(whole), dumps.answered(whole)
    generator = np.random.default_rng(0)
    moments = (np.arange(KILLS) + generator.random(KILLS)) / KILLS * duration
    redone, halfway = [], 0
    for number, moment in enumerate(generator.permutation(moments)):
        folder = killed_after(moment, prepared, dumps, f"killed-{number}")
        halfway += 0 < dumps.answered(folder) < batches
        for path in (folder / ".work").rglob("p*.h5"):
            name = path.relative_to(folder).as_posix()
            assert path.read_bytes() == wanted[name], f"{name}, killed after {moment:.3f} s"
        dumps.run(folder)
        redone.append(dumps.answered(folder) - batches)
        assert cache_files(folder) == wanted, f"killed after {moment:.3f} s"
        shutil.rmtree(folder)
    print(f"{halfway} were killed while the teacher answered; batches redone: {sorted(redone)}")
    assert halfway >= 0.2 * KILLS, "many moments must lie where the teacher answers"
    assert max(redone) <= SHARD + QUEUE


def killed_after(moment: float, prepared: Path, dumps: Dumps, name: str) -> Path:
    """A folder in which a dump was killed after `moment` seconds, or before where it is faster."""
    while True:
        folder = copy_prepared(prepared, dumps.root / name)
        process = dumps.start(folder)
        process.join(moment)
        process.kill()
        process.join()
        if process.exitcode == -signal.SIGKILL:
            return folder
        assert process.exitcode == 0
        dumps.forget(folder)  # it had ended: the machine is less busy than when we measured
        moment *= 0.7


def test_a_dump_killed_again_and_again_gets_on_and_ends_with_the_same_files(
    prepared: Path, dumps: Dumps, uninterrupted: tuple[Path, float]
) -> None:
    whole, duration = uninterrupted
    folder = copy_prepared(prepared, dumps.root / "again-and-again")
    kept: dict[str, bytes] = {}
    for number in range(6):
        process = dumps.start(folder)
        process.join(duration * (number + 2) / 8)
        process.kill()
        process.join()
        now = {name: content for name, content in cache_files(folder).items() if ".h5" in name}
        finished = {name: content for name, content in now.items() if "partial" not in name}
        assert kept.items() <= finished.items(), "what was finished is never lost"
        kept = {name: content for name, content in finished.items() if name.startswith(".work")}
    dumps.run(folder)
    assert cache_files(folder) == cache_files(whole)


def test_what_a_dump_killed_while_publishing_left_behind_is_removed(
    prepared: Path, dumps: Dumps, uninterrupted: tuple[Path, float]
) -> None:
    folder = copy_prepared(prepared, dumps.root / "leftovers")
    dumps.run(folder)
    root = folder / "data/cache/labelled"
    (root / ".index.h5.4711.partial").write_bytes(b"half an index")
    (root / "logits").rename(root / ".logits.old")
    (root / ".logits.partial/v000").mkdir(parents=True)
    (root / ".logits.partial/v000/p00000.h5").write_bytes(b"half a cache")
    dumps.run(folder)
    assert cache_files(folder) == cache_files(uninterrupted[0])
    assert not list(root.glob(".*"))


def test_of_two_dumps_at_once_one_is_refused_and_the_other_ends_as_alone(
    prepared: Path, dumps: Dumps, uninterrupted: tuple[Path, float]
) -> None:
    folder = copy_prepared(prepared, dumps.root / "two-at-once")
    both = [dumps.start(folder) for _ in range(2)]
    for process in both:
        process.join()
    assert sorted(process.exitcode for process in both) == [0, 1]
    assert cache_files(folder) == cache_files(uninterrupted[0])


def test_dumps_in_two_folders_at_once_do_not_disturb_each_other(
    prepared: Path, dumps: Dumps, uninterrupted: tuple[Path, float]
) -> None:
    folders = [copy_prepared(prepared, dumps.root / f"beside-{number}") for number in range(2)]
    both = [dumps.start(folder) for folder in folders]
    for process, folder in zip(both, folders, strict=True):
        process.join()
        assert process.exitcode == 0
        assert cache_files(folder) == cache_files(uninterrupted[0])


def test_dumps_with_another_number_of_threads_show_the_same_views(
    prepared: Path, dumps: Dumps, uninterrupted: tuple[Path, float]
) -> None:
    """Pixel for pixel, which the views' digests say."""
    folder = copy_prepared(prepared, dumps.root / "two-threads")
    set_params(folder, runtime={"threads": 2})
    dumps.run(folder)
    one, two = cache_files(uninterrupted[0]), cache_files(folder)
    views = {name for name in one if "/views/v" in name or "index.h5" in name}
    assert len(views) == 12 + 4, "twelve places, four splits"
    assert {name: two[name] for name in views} == {name: one[name] for name in views}
    assert two.keys() == one.keys(), "threads are not in the fingerprint"


# What was dumped before


@pytest.mark.parametrize("scratch_is_gone", [False, True], ids=["scratch", "cache alone"])
def test_more_views_leave_old_shards_as_they_are_and_answer_only_what_is_missing(
    prepared: Path, dumps: Dumps, scratch_is_gone: bool
) -> None:
    folder = dumped(prepared, dumps, f"grown-{scratch_is_gone}", scratch_is_gone)
    before, batches = shards_of(folder), dumps.answered(folder)
    set_params(folder, views={"labelled": 3})
    dumps.run(folder)
    after = shards_of(folder)
    assert before.items() <= after.items()
    assert {name.split("/")[-2] for name in after.keys() - before.keys()} == {"v002"}
    assert dumps.answered(folder) - batches == 2 * SHARD, "two parts of one view"


@pytest.mark.parametrize("scratch_is_gone", [False, True], ids=["scratch", "cache alone"])
def test_one_more_tap_leaves_old_shards_as_they_are(
    prepared: Path, dumps: Dumps, scratch_is_gone: bool
) -> None:
    folder = dumped(prepared, dumps, f"tapped-{scratch_is_gone}", scratch_is_gone)
    before, batches = shards_of(folder), dumps.answered(folder)
    set_params(folder, teacher={"taps": {"early": {"module": "layer1", "grid": 1}}})
    dumps.run(folder)
    after = shards_of(folder)
    assert before.items() <= after.items()
    assert all("features/early/" in name for name in after.keys() - before.keys())
    assert dumps.answered(folder) == 2 * batches, "the teacher runs once more, for the new tap"
    set_params(folder)
    dumps.run(folder)
    assert dumps.answered(folder) == 2 * batches, "params that are turned back need nothing"


def dumped(prepared: Path, dumps: Dumps, name: str, scratch_is_gone: bool) -> Path:
    folder = copy_prepared(prepared, dumps.root / name)
    dumps.run(folder)
    if scratch_is_gone:  # as on another machine, after `dvc pull`
        shutil.rmtree(folder / ".work")
    return folder


def shards_of(folder: Path) -> dict[str, bytes]:
    files = cache_files(folder).items()
    return {name: content for name, content in files if name.startswith("data/") and "/p0" in name}
