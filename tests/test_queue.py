"""Sweeps by DVC's queue, as docs/scaling.md has them: real workers, and no result is lost."""

import shlex
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from projects import REPOSITORY, edit_params, shell
from ruamel.yaml import YAML
from sklearn.datasets import load_digits

STAGE = "train-labels@independent-plain-0"
PAGE = (REPOSITORY / "docs/scaling.md").read_text()
QUEUE = [line for line in PAGE.splitlines() if line.startswith("dvc exp run --queue ")]
RATES = {"slow": 0.001, "fast": 0.01}


@pytest.fixture
def project(clone: Path, tmp_path: Path) -> Iterator[Path]:
    """With images beside it, as `mentee init` names them: not beside a worker's copy."""
    folder = tmp_path / "project"
    shutil.copytree(clone, folder, symlinks=True)
    digits = load_digits()
    for number, image in enumerate(digits.images[:360]):
        path = tmp_path / f"images/{digits.target[number]}/{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((image * 15).astype("uint8")).save(path)
    edit_params(folder / "params.yaml", {"data": {"source": "folder:../images"}})
    stages = (folder / "dvc.yaml").read_text()
    head = "    cmd: mentee prepare\n    deps:\n"
    assert head in stages
    (folder / "dvc.yaml").write_text(stages.replace(head, f"{head}      - ../images\n"))
    dvc(folder, "repro", "prepare")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "prepared")
    yield folder
    shell("dvc", "queue", "stop", "--kill", cwd=folder)


def dvc(folder: Path, *arguments: str) -> str:
    done = shell("dvc", *arguments, cwd=folder)
    assert done.returncode == 0, done.stdout
    return done.stdout


def git(folder: Path, *arguments: str) -> None:
    done = shell("git", *arguments, cwd=folder)
    assert done.returncode == 0, done.stdout


def queue(folder: Path, *names: str) -> None:
    """Queue experiments as the page does, and have as many workers do them."""
    for name in names:
        change = f" --name {name} --set-param training.learning_rate={RATES[name]}"
        (line,) = (line for line in QUEUE if line.endswith(change))
        dvc(folder, *shlex.split(line)[1:], STAGE)
    workers = str(len(names))
    assert f"Started '{workers}' new experiments task queue worker" in dvc(
        folder, "queue", "start", "--jobs", workers
    )


def wait_for(folder: Path, *names: str) -> None:
    deadline = time.monotonic() + 300
    while (status := dvc(folder, "queue", "status")).count("Success") < len(names):
        assert "Failed" not in status
        assert time.monotonic() < deadline, status
        time.sleep(0.5)


def students(folder: Path) -> dict[str, str]:
    """What each experiment of a repository trained: the student's digest, by name."""
    refs = shell("git", "for-each-ref", "--format=%(refname)", "refs/exps", cwd=folder).stdout
    found = {}
    for ref in refs.split():
        if (name := Path(ref).name) in RATES:
            locked = YAML().load(shell("git", "show", f"{ref}:dvc.lock", cwd=folder).stdout)
            (out,) = locked["stages"][STAGE]["outs"]
            found[name] = out["md5"]
    return found


def test_two_workers_run_what_is_queued_and_lose_none(project: Path) -> None:
    queue(project, *RATES)
    wait_for(project, *RATES)
    assert set(dvc(project, "exp", "list", "--name-only").split()) == set(RATES)
    trained = students(project)
    assert trained.keys() == RATES.keys()
    assert len(set(trained.values())) == 2, "each of its own learning rate"


def test_two_machines_queue_a_part_each_and_one_brings_the_results_together(
    project: Path, tmp_path: Path
) -> None:
    origin, other = tmp_path / "origin.git", tmp_path / "elsewhere/other"
    git(tmp_path, "init", "-q", "--bare", str(origin))
    dvc(project, "remote", "add", "--default", "storage", str(tmp_path / "storage"))
    git(project, "remote", "add", "origin", str(origin))
    git(project, "commit", "-qm", "remote", ".dvc/config")
    dvc(project, "push")
    git(project, "push", "-q", "origin", "HEAD")
    git(tmp_path, "clone", "-q", str(origin), str(other))
    for key in ("user.email", "user.name"):
        git(other, "config", key, "other@example.org")
    dvc(other, "pull", "--allow-missing")

    machines = {"slow": project, "fast": other}
    try:
        for name, folder in machines.items():
            queue(folder, name)
        for name, folder in machines.items():
            wait_for(folder, name)
            assert students(folder).keys() == {name}
    finally:
        shell("dvc", "queue", "stop", "--kill", cwd=other)
    dvc(other, "exp", "push", "origin")
    dvc(project, "exp", "pull", "origin", "--all-commits")
    trained = students(project)
    assert trained == trained | students(other)
    assert trained.keys() == RATES.keys()
    for digest in trained.values():
        assert (project / ".dvc/cache/files/md5" / digest[:2] / digest[2:]).is_file()
