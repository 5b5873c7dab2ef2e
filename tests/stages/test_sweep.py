"""Students that train beside each other, and what ends them."""

import errno
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from killing import set_params
from torchrun import until

from pipeline.checkpoints import FOLDER, STATE
from pipeline.params import load_params
from pipeline.stages import sweep
from pipeline.variants import Variant

STUDENTS = 6
AHEAD = f"""
from pipeline.errors import MenteeError
from pipeline.params import load_params
from pipeline.stages.sweep import trained_ahead
from pipeline.variants import Variant

groups = [[Variant("independent", "plain", seed)] for seed in range({STUDENTS})]
try:
    for text in trained_ahead(load_params(), groups, 2):
        print(text, flush=True)
except MenteeError as error:
    print("error:", error)
except KeyboardInterrupt:
    print("interrupted")
"""


DEAF = """
import multiprocessing, time
from pipeline.stages.sweep import begin_work

def work(begun):
    begin_work()
    begun.set()
    while True:
        try:
            time.sleep(0.1)
        except SystemExit:
            pass

if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    begun = context.Event()
    worker = context.Process(target=work, args=[begun])
    worker.start()
    begun.wait()
    worker.terminate()
    worker.join(60)
    print(worker.exitcode)
    worker.kill()
"""


@pytest.fixture
def project(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Images, and students that train long and keep their state often."""
    folder = Path(shutil.copytree(prepared, tmp_path / "project"))
    training = {"steps": 100_000, "batch_size": 20, "validations": 10_000}
    set_params(folder, student={"width": 8, "input_size": 8}, training=training)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.chdir(folder)
    return folder


@contextmanager
def two_in_training() -> Iterator[subprocess.Popen[str]]:
    """A process in a group of its own, two of whose students have kept their state."""
    process = subprocess.Popen(
        [sys.executable, "-c", AHEAD], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        start_new_session=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    try:
        until(lambda: process.poll() is not None or len([*FOLDER.glob(f"[!.]*/{STATE}")]) == 2)
        assert process.poll() is None
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def workers_of(process: subprocess.Popen[str]) -> list[int]:
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    lines = {int(child): Path(f"/proc/{child}/cmdline").read_text() for child in children}
    return [child for child, line in lines.items() if "spawn_main" in line]


def has_ended(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    return True


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_sweep_that_is_ended_leaves_nobody_in_training(
    project: Path, how: signal.Signals
) -> None:
    """Ctrl-C goes to all processes of a terminal, another signal to the one that is named."""
    with two_in_training() as process:
        workers = workers_of(process)
        assert len(workers) == 2
        (os.killpg if how == signal.SIGINT else os.kill)(process.pid, how)
        until(lambda: all(map(has_ended, [process.pid, *workers])))
        output, wrong = process.communicate()
    begun = {path.name for path in FOLDER.glob("[!.]*")}
    assert len(begun) == 2, "those that waited were not begun"
    assert "Traceback" not in wrong
    assert output == ("interrupted\n" if how == signal.SIGINT else "")
    temporary = Path(os.environ["TMPDIR"])
    assert not [path for path in temporary.iterdir() if [*path.rglob("live")]]


def test_a_worker_ends_also_where_its_exit_is_lost_on_the_way(tmp_path: Path) -> None:
    (tmp_path / "deaf.py").write_text(DEAF)
    done = subprocess.run(
        [sys.executable, tmp_path / "deaf.py"], stdout=subprocess.PIPE, text=True, check=True
    )
    assert done.stdout == "1\n"


def test_a_worker_that_is_killed_is_said_in_one_line(project: Path) -> None:
    with two_in_training() as process:
        os.kill(workers_of(process)[0], signal.SIGKILL)
        output, wrong = process.communicate()
    assert output.startswith("error: a process that trained students was killed")
    assert len(output.splitlines()) == 1
    assert "Traceback" not in wrong


def test_a_disk_that_is_full_for_one_student_keeps_no_other_from_training(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(project / "state.pt"))

    monkeypatch.setattr(sweep, "train_ahead", fill)
    (told,) = sweep.train_quietly(load_params(), [Variant("independent", "plain", 0)])
    assert "No space left on device" in told
    assert "make room" in told
