"""A sweep by DVC's queue, as docs/scaling.md has it: real workers, and no result is lost."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from projects import shell
from ruamel.yaml import YAML

STAGE = "train-labels@independent-plain-0"
RATES = {"slow": 0.001, "fast": 0.01}


@pytest.fixture
def project(clone: Path, tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "project"
    shutil.copytree(clone, folder, symlinks=True)
    dvc(folder, "repro", "prepare")
    assert shell("git", "add", "-A", cwd=folder).returncode == 0
    assert shell("git", "commit", "-qm", "prepared", cwd=folder).returncode == 0
    yield folder
    shell("dvc", "queue", "stop", "--kill", cwd=folder)


def dvc(folder: Path, *arguments: str) -> str:
    done = shell("dvc", *arguments, cwd=folder)
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_two_workers_run_what_is_queued_and_lose_none(project: Path) -> None:
    for name, rate in RATES.items():
        change = f"training.learning_rate={rate}"
        dvc(project, "exp", "run", "--queue", "--name", name, "--set-param", change, STAGE)
    assert "Started '2' new experiments task queue workers" in dvc(
        project, "queue", "start", "--jobs", "2"
    )
    deadline = time.monotonic() + 300
    while (status := dvc(project, "queue", "status")).count("Success") < len(RATES):
        assert "Failed" not in status
        assert time.monotonic() < deadline, status
        time.sleep(0.5)
    assert set(dvc(project, "exp", "list", "--name-only").split()) == set(RATES)
    refs = shell("git", "for-each-ref", "--format=%(refname)", "refs/exps", cwd=project).stdout
    students = {}
    for ref in refs.split():
        locked = YAML().load(shell("git", "show", f"{ref}:dvc.lock", cwd=project).stdout)
        (out,) = locked["stages"][STAGE]["outs"]
        students[Path(ref).name] = out["md5"]
    assert students.keys() >= RATES.keys()
    assert len({students[name] for name in RATES}) == 2, "each of its own learning rate"
