"""A dump by several processes leaves what one leaves, also when one of them is killed."""

import os
import re
import signal
from pathlib import Path

import pytest
from killing import Dumps, cache_files, copy_prepared, finished_views, set_params
from torchrun import errors, ranks_of, started, torchrun, until

MENTEE_DUMP = ("-m", "pipeline", "dump")
VIEWS = 1520


def copy_slow(prepared: Path, folder: Path) -> Path:
    """A project whose dump lasts some seconds."""
    copy_prepared(prepared, folder)
    set_params(folder, teacher={"input_size": 128})
    return folder


@pytest.fixture(scope="module")
def whole(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What a dump by one process leaves."""
    dumps = Dumps(tmp_path_factory.mktemp("alone"))
    folder = copy_slow(prepared, dumps.root / "project")
    dumps.run(folder)
    return cache_files(folder)


@pytest.fixture
def project(prepared: Path, tmp_path: Path) -> Path:
    return copy_slow(prepared, tmp_path / "project")


def views_to_answer(output: str) -> list[int]:
    """What each start of a dump said that it would do."""
    return [int(count) for count in re.findall(r"(\d+) views to answer", output)]


def test_three_processes_of_which_one_is_killed_leave_the_bytes_of_one(
    project: Path, whole: dict[str, bytes]
) -> None:
    """torchrun starts them again, and they make what is missing, and no more."""
    with started(3, "--max-restarts", "1", *MENTEE_DUMP, cwd=project) as process:
        until(lambda: finished_views(project))
        os.kill(ranks_of(process)[0], signal.SIGKILL)
        output, _ = process.communicate()
    assert process.returncode == 0, output
    first, second = views_to_answer(output)  # one tells the story
    assert first == VIEWS > second > 0
    assert ", 3 processes" in output
    assert cache_files(project) == whole


def test_ranks_that_would_do_other_work_are_refused_in_one_line(
    project: Path, tmp_path: Path
) -> None:
    """As on two machines of which one has not pulled."""
    other = copy_prepared(project, tmp_path / "other")
    set_params(other, teacher={"input_size": 96})
    script = tmp_path / "elsewhere.py"
    script.write_text(
        "import os\nfrom pipeline.cli import main\n"
        f"os.chdir([{str(project)!r}, {str(other)!r}][int(os.environ['RANK'])])\nmain(['dump'])\n"
    )
    done = torchrun(2, str(script), cwd=tmp_path)
    assert done.returncode == 1
    (line,) = errors(done.stdout)
    assert re.match("error: rank 1 on .* differs from rank 0: give every machine the same", line)
    assert not list(project.rglob("p0*.h5"))
