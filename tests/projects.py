"""Helpers: the repository's own dvc.yaml and params.yaml made tiny, and commands run in them."""

import os
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from pipeline.errors import MenteeError

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
    "examine": {"corrupted": 20, "per_class": [2, None], "draws": 2},
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


def repro(project: Path, *targets: str) -> set[str]:
    """`dvc repro`; returns the names of the stages that ran."""
    done = shell("dvc", "repro", *targets, cwd=project)
    assert done.returncode == 0, done.stdout
    return stages_run(done.stdout)


def stages_run(printed: str) -> set[str]:
    """The names of the stages that DVC says it ran."""
    return set(re.findall(r"Running stage '([^']+)'", printed))


def refusal(act: Callable[[], Any]) -> str:
    """The one line in which `act` is refused."""
    with pytest.raises(MenteeError) as caught:
        act()
    text = str(caught.value)
    assert len(text.splitlines()) == 1
    return text


@contextmanager
def as_nobody() -> Iterator[None]:
    """Root may enter every folder, so root becomes somebody else."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
