"""Projects in temporary folders: the repository's own dvc.yaml and params.yaml, made tiny."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

REPOSITORY = Path(__file__).parent.parent

# Scikit-learn's digits, the real teacher at a small size, and a handful of steps.
TINY = {
    "data": {"source": "digits", "labelled_per_class": 4, "unlabelled": 60, "validation": 50,
             "test": 100},
    "views": {"labelled": 3, "unlabelled": 2},
    "teacher": {"input_size": 64},
    "head": {"inverse_regularisation": [0.001, 0.01]},
    "student": {"width": 8},
    "training": {"steps": 12, "batch_size": 20, "validations": 2},
}  # fmt: skip
# One student of every group, and a mode that is the user's own.
TINY_SWEEP = {
    "modes": {"soft": {"alpha": [[0, 1.0]], "beta": [[0, 0.0]], "gamma": [[0, 1.0]]}},
    "sweep": {
        "labels": {"modes": ["independent"], "settings": ["plain"]},
        "logits": {"modes": ["soft"], "settings": ["plain"]},
        "features": {"modes": ["obedient"], "settings": ["plain"]},
        "unlabelled": {"modes": ["obedient"], "settings": ["unlabelled"]},
    },
}


def edit_params(path: Path, changes: dict[str, Any]) -> None:
    """Merge nested `changes` into a params.yaml, comments and all else kept."""
    yaml = YAML()
    content = yaml.load(path)
    merge(content, changes)
    yaml.dump(content, path)


def merge(content: dict[str, Any], changes: dict[str, Any]) -> None:
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(content.get(key), dict):
            merge(content[key], value)
        else:
            content[key] = value


def shell(*command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a command as a user would; its output comes back, both streams in one."""
    return subprocess.run(
        command, cwd=cwd, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


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


def repro(project: Path) -> set[str]:
    """`dvc repro`; returns the names of the stages that ran."""
    done = shell("dvc", "repro", cwd=project)
    assert done.returncode == 0, done.stdout
    return set(re.findall(r"Running stage '([^']+)'", done.stdout))


@pytest.fixture(scope="session")
def finished(clone: Path) -> tuple[Path, set[str]]:
    """The clone after one whole `dvc repro`, and the stages that ran: not to be changed."""
    return clone, repro(clone)


@pytest.fixture
def project(finished: tuple[Path, set[str]], tmp_path: Path) -> Path:
    """A copy of the finished clone that a test may change."""
    folder = tmp_path / "project"
    shutil.copytree(finished[0], folder, symlinks=True)
    return folder


@pytest.fixture(scope="session", autouse=True)
def own_commands() -> None:
    """`mentee` and `dvc` are those beside this Python, and every process takes one thread."""
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    os.environ["OMP_NUM_THREADS"] = "1"
