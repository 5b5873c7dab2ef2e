"""What libraries write, where it does not fit: an error that says so, and nothing half-written.

Files are kept short by a limit of the system, which fails as a full disk does.
"""

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from pipeline.checkpoints import FOLDER, Checkpoint
from pipeline.exports import About, trace, write_program
from pipeline.files import explain, replaced_whole
from pipeline.students import Card, Student, save_student

GREY = ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))  # mean and deviation


@contextmanager
def files_no_longer_than(size: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def write_student(student: Student, folder: Path) -> None:
    with replaced_whole(folder) as fresh:
        save_student(student, fresh)


def write_state(student: Student, folder: Path) -> None:
    curves = Path("curves")
    curves.mkdir()
    Checkpoint(folder.name, "key", curves).save(1, {"student": student}, torch.device("cpu"))


def write_export(student: Student, folder: Path) -> None:
    with replaced_whole(folder) as fresh:
        write_program(trace(student), About.of(student.card), fresh / "student.pt2")


@pytest.mark.parametrize("write", [write_student, write_state, write_export])
@pytest.mark.parametrize("size", [0, 4096])
def test_a_network_that_does_not_fit_is_an_error_of_the_system(
    write: Callable[[Student, Path], None], size: int, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    student = Student(Card("fiveconv", 8, 5, 0.0, 16, 16, ("a", "b"), *GREY, {}))
    folder = FOLDER / "student"
    with pytest.raises(OSError) as caught, files_no_longer_than(size):
        write(student, folder)
    assert "too large" in explain(caught.value)
    assert not any(FOLDER.iterdir())
