"""`mentee dump` on a full or read-only disk, and after Ctrl-C: one line, and nothing is lost."""

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from killing import copy_prepared, finished_views, set_params
from torchrun import until


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own with room for the images and a part of the cache."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", disk]).returncode:
        pytest.skip("mounting is not permitted here")
    yield disk
    subprocess.run(["umount", disk], check=True)


def remount(disk: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", disk], check=True)


def mentee_dump(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["mentee", "dump"], cwd=folder, text=True, capture_output=True)


def views_to_answer(output: str) -> int:
    found = re.search(r"(\d+) views to answer", output)
    assert found, output
    return int(found[1])


def refusal(done: subprocess.CompletedProcess[str], code: int = 1) -> str:
    """The one line on stderr with which the command failed."""
    assert done.returncode == code, done.stdout + done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith("error: ")
    return done.stderr


def assert_nothing_is_half_written(folder: Path) -> None:
    assert not list((folder / ".work").rglob("*.partial"))
    assert not (folder / "data/cache").exists(), "nothing is published before all is there"


def test_a_full_disk_is_said_in_one_line_and_what_is_finished_serves_when_there_is_room(
    prepared: Path, small_disk: Path
) -> None:
    folder = copy_prepared(prepared, small_disk / "project")
    stopped = mentee_dump(folder)
    text = refusal(stopped)
    assert "No space left on device" in text
    assert re.search(r"\d MB are free\): make room and run it again", text)
    assert "/p0000" in text, "the file that did not fit"
    assert_nothing_is_half_written(folder)
    finished = finished_views(folder)
    assert finished > 0
    again = mentee_dump(folder)
    assert "No space left on device" in refusal(again), "still no room, the same line"
    assert finished_views(folder) == finished
    remount(small_disk, "size=64m")
    done = mentee_dump(folder)
    assert done.returncode == 0, done.stderr
    assert views_to_answer(done.stdout) == views_to_answer(stopped.stdout) - finished


def test_a_read_only_folder_is_said_in_one_line_and_left_as_it_is(
    prepared: Path, small_disk: Path
) -> None:
    folder = copy_prepared(prepared, small_disk / "project")
    before = sorted(folder.rglob("*"))
    remount(small_disk, "ro")
    text = refusal(mentee_dump(folder))
    assert "Read-only file system: make it writable, or work in another folder" in text
    assert sorted(folder.rglob("*")) == before


@pytest.mark.skipif(os.getuid() == 0, reason="root may write anywhere")
def test_a_folder_of_somebody_else_is_said_in_one_line(prepared: Path, tmp_path: Path) -> None:
    folder = copy_prepared(prepared, tmp_path / "project")
    folder.chmod(0o555)
    assert "Permission denied: make it writable" in refusal(mentee_dump(folder))


def test_ctrl_c_ends_in_one_line_and_every_finished_shard_is_used_again(
    prepared: Path, tmp_path: Path
) -> None:
    folder = copy_prepared(prepared, tmp_path / "project")
    set_params(folder, teacher={"input_size": 192})  # so that it lasts some seconds
    with subprocess.Popen(
        ["mentee", "dump"], cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        # A shell starts what runs in the background deaf to Ctrl-C, these tests for example.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:  # fmt: skip
        until(lambda: finished_views(folder))
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate()
    stopped = subprocess.CompletedProcess(process.args, process.returncode, output, errors)
    assert "interrupted; run it again, a dump goes on where it was" in refusal(stopped, 130)
    assert_nothing_is_half_written(folder)
    finished = finished_views(folder)
    done = mentee_dump(folder)
    assert done.returncode == 0, done.stderr
    assert views_to_answer(done.stdout) == views_to_answer(output) - finished
    assert finished > 0
