"""Projects in temporary folders: copies of this repository, made tiny and run for real."""

import os
import shutil
import sys
from pathlib import Path

import pytest
from projects import REPOSITORY, TINY, TINY_SWEEP, edit_params, repro, shell

# Before torch is imported: every process takes one thread, since two test processes run at once.
os.environ["OMP_NUM_THREADS"] = "1"
# `mentee` and `dvc` are those beside this Python.
os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"


@pytest.fixture(scope="session")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The working tree as a git and DVC repository of its own, made tiny."""
    folder = tmp_path_factory.mktemp("clone")
    listed = shell("git", "ls-files", "-co", "--exclude-standard", cwd=REPOSITORY)
    for name in listed.stdout.splitlines():
        if name != "dvc.lock" and (REPOSITORY / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / name, folder / name)
    edit_params(folder / "params.yaml", TINY)
    edit_params(folder / "params.yaml", TINY_SWEEP)
    for command in (
        ("init", "-q"),
        ("config", "user.email", "test@example.org"),
        ("config", "user.name", "test"),
        ("add", "-A"),
        ("commit", "-qm", "start"),
    ):
        assert shell("git", *command, cwd=folder).returncode == 0
    return folder


@pytest.fixture(scope="session")
def finished(clone: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, set[str]]:
    """A copy of the clone after one `dvc repro`, and the stages that ran: not to be changed."""
    folder = tmp_path_factory.mktemp("finished") / "project"
    shutil.copytree(clone, folder, symlinks=True)
    return folder, repro(folder)


@pytest.fixture
def project(finished: tuple[Path, set[str]], tmp_path: Path) -> Path:
    """A copy of the finished clone that a test may change."""
    folder = tmp_path / "project"
    shutil.copytree(finished[0], folder, symlinks=True)
    return folder
