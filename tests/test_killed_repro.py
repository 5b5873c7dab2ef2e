"""`dvc repro` killed in the middle of a dump, and run again."""

import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

from caches import files_under
from projects import edit_params, repro, shell

SHARDS = 20  # rows: so that a few views of forty images are several shards


def copy_of(clone: Path, folder: Path) -> Path:
    """The clone as it was committed, whatever other tests have run in it since."""
    shutil.copytree(clone, folder, symlinks=True)
    assert shell("git", "clean", "-fdxq", cwd=folder).returncode == 0
    assert shell("git", "checkout", "-q", ".", cwd=folder).returncode == 0
    edit_params(folder / "params.yaml", {"cache": {"rows_per_shard": SHARDS}})
    return folder


def views_to_answer(output: str) -> int:
    found = re.search(r"(\d+) views to answer", output)
    assert found, output
    return int(found[1])


def shards_of(project: Path) -> set[Path]:
    return set((project / ".work").rglob("p*.h5"))


def wait_for_shards(project: Path, count: int) -> None:
    deadline = time.monotonic() + 300
    while len(shards_of(project)) < count:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_dvc_repro_after_a_kill_goes_on_where_the_dump_was(clone: Path, tmp_path: Path) -> None:
    whole = copy_of(clone, tmp_path / "whole")
    assert repro(whole, "dump") == {"prepare", "finetune", "dump"}

    project = copy_of(clone, tmp_path / "project")
    process = subprocess.Popen(
        ["dvc", "repro", "dump"], cwd=project, text=True, stdout=subprocess.PIPE,
        start_new_session=True,
    )  # fmt: skip
    wait_for_shards(project, 12)
    os.killpg(process.pid, signal.SIGKILL)  # dvc and the dump that it started
    output = process.communicate()[0]
    assert process.returncode == -signal.SIGKILL
    finished = {path: path.read_bytes() for path in shards_of(project)}
    assert not (project / "data/cache/labelled/logits").exists()

    done = shell("dvc", "repro", "dump", cwd=project)
    assert done.returncode == 0, done.stdout
    assert views_to_answer(done.stdout) < views_to_answer(output)
    assert {path: path.read_bytes() for path in finished} == finished
    assert files_under(project / "data/cache") == files_under(whole / "data/cache")
    assert repro(project, "dump") == set()
    locks = [(folder / "dvc.lock").read_text() for folder in (project, whole)]
    outs = [re.findall(r"path: (data/cache\S+)\n\s+hash: md5\n\s+md5: (\S+)", x) for x in locks]
    assert outs[0] == outs[1]
    assert len(outs[0]) > 10, "the lock's digests of what was dumped"


def test_a_dump_that_outlives_its_dvc_is_not_disturbed_by_the_next(
    clone: Path, tmp_path: Path
) -> None:
    """DVC that is killed leaves the command of its stage running."""
    project = copy_of(clone, tmp_path / "project")
    edit_params(project / "params.yaml", {"views": {"unlabelled": 6}})
    process = subprocess.Popen(
        ["dvc", "repro", "dump"], cwd=project, stdout=subprocess.DEVNULL, start_new_session=True
    )
    try:
        wait_for_shards(project, 8)
        os.killpg(process.pid, signal.SIGSTOP)  # so that the dump is there as long as we look
        process.kill()
        process.wait()
        refused = shell("dvc", "repro", "dump", cwd=project)
        assert refused.returncode != 0
        assert "another dump is writing to .work/cache: wait for it to end" in refused.stdout
    finally:
        os.killpg(process.pid, signal.SIGKILL)
    done = shell("dvc", "repro", "dump", cwd=project)
    assert done.returncode == 0, done.stdout
    views = 40 * 3 + 60 * 6 + 50 + 100
    assert 0 < views_to_answer(done.stdout) < views
