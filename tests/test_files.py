"""Writing files: whole or not at all, by one process at a time, and errors in one line."""

import errno
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from projects import as_nobody

from pipeline.errors import MenteeError
from pipeline.files import explain, replaced_whole

# Two processes and one folder


HOLD = """
import sys
from pathlib import Path
from pipeline.files import replaced_whole
with replaced_whole(Path(sys.argv[1])) as fresh:
    (fresh / "mine").write_text("")
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def another_at(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that is in the middle of replacing `folder`."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as other:  # fmt: skip
        assert other.stdout and other.stdout.readline() == "held\n"
        yield other


def test_a_second_process_at_the_same_folder_is_refused_in_one_line_and_the_first_ends_as_alone(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "out"
    with another_at(folder) as other:
        with pytest.raises(MenteeError) as caught, replaced_whole(folder):
            pass
        with replaced_whole(tmp_path / "elsewhere"):
            pass
        other.communicate("")
    assert other.returncode == 0
    assert str(caught.value).startswith(f"another command is writing {folder}: wait")
    assert len(str(caught.value).splitlines()) == 1
    assert [path.name for path in folder.iterdir()] == ["mine"]
    assert {path.name for path in tmp_path.iterdir()} == {"out", "elsewhere"}


def test_what_a_killed_process_left_is_replaced_by_the_next_one(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    with another_at(folder) as other:
        other.kill()
    assert other.returncode == -signal.SIGKILL
    with replaced_whole(folder) as fresh:
        (fresh / "theirs").write_text("")
    assert [path.name for path in folder.iterdir()] == ["theirs"]
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize("ends", [KeyboardInterrupt, SystemExit, OSError])
def test_what_was_there_stays_where_a_process_ends_between_the_two_renames(
    tmp_path: Path, ends: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "out"
    with replaced_whole(folder) as fresh:
        (fresh / "first").write_text("")
    rename = Path.rename

    def stop_at_second(path: Path, target: Path) -> Path:
        if path.name == ".out.partial":
            raise ends
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", stop_at_second)
    with pytest.raises(ends), replaced_whole(folder) as fresh:
        (fresh / "second").write_text("")
    assert [path.name for path in folder.iterdir()] == ["first"]
    assert list(tmp_path.iterdir()) == [folder]


def test_what_a_process_was_killed_between_the_two_renames_of_is_there_again_after_a_failure(
    tmp_path: Path,
) -> None:
    (tmp_path / ".out.old").mkdir()
    (tmp_path / ".out.old/first").write_text("")
    with pytest.raises(OSError, match="full"), replaced_whole(tmp_path / "out"):
        raise OSError("full")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["first"]
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]


@pytest.mark.parametrize("leads", ["to a folder", "nowhere"])
def test_a_link_is_replaced_as_a_folder_is_and_what_it_leads_to_stays(
    leads: str, tmp_path: Path
) -> None:
    folder, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    folder.symlink_to(elsewhere)
    if leads == "to a folder":
        elsewhere.mkdir()
        (elsewhere / "theirs").write_text("")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(OSError, match="full"), replaced_whole(folder):
        raise OSError("full")
    assert sorted(tmp_path.rglob("*")) == before
    for name in ("first", "second"):
        with replaced_whole(folder) as fresh:
            (fresh / name).write_text("")
        assert not folder.is_symlink()
        assert [path.name for path in folder.iterdir()] == [name]
    assert sorted(tmp_path.rglob("*")) == sorted({*before, folder / "second"})


# What is said of a failure


def test_what_was_made_read_only_is_replaced_and_leaves_nothing(tmp_path: Path) -> None:
    with replaced_whole(tmp_path / "out"):
        pass  # imports what nobody may not read
    with as_nobody(), tempfile.TemporaryDirectory() as place:
        folder = Path(place, "out")
        for name in ("first", "second", "third"):
            with replaced_whole(folder) as fresh:
                (fresh / name / "within").mkdir(parents=True)
            assert [path.name for path in folder.iterdir()] == [name]
            assert list(Path(place).iterdir()) == [folder]
            (folder / name).chmod(0o555)
            folder.chmod(0o555)
        folder.chmod(0o755)
        (folder / name).chmod(0o755)


def test_what_cannot_be_removed_is_said_before_the_work_and_not_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, **_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", f"{path}/theirs")

    (tmp_path / ".out.old").mkdir()
    (tmp_path / "out").mkdir()
    monkeypatch.setattr(shutil, "rmtree", refuse)
    with pytest.raises(OSError) as caught, replaced_whole(tmp_path / "out"):
        pytest.fail("the work was begun")
    assert ".out.old/theirs: Permission denied: make it writable" in explain(caught.value)


def test_a_folder_that_may_not_be_entered_is_said_in_one_line(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o000)
    error = PermissionError(errno.EACCES, "Permission denied", str(closed / "a/b/out"))
    with as_nobody():
        text = explain(error)
    closed.chmod(0o700)
    assert text.startswith(f"{closed}/a/b/out: Permission denied: make it writable")


def test_of_a_file_that_may_not_be_read_it_is_not_said_to_be_made_writable() -> None:
    with as_nobody(), tempfile.TemporaryDirectory() as place:
        closed = Path(place, "theirs.csv")
        closed.touch(mode=0o200)
        with pytest.raises(PermissionError) as caught:
            closed.read_text()
        assert explain(caught.value) == f"{closed}: Permission denied: make it readable"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_of_a_full_disk_its_free_space_is_said_even_of_a_folder_that_is_gone(
    tmp_path: Path, code: int
) -> None:
    text = explain(OSError(code, "no room", str(tmp_path / "gone/file")))
    assert text.startswith(f"{tmp_path}/gone/file: no room (")
    assert " MB are free): make room" in text
    assert explain(OSError(code, "no room")).startswith("no room: make room")


def test_a_full_disk_is_said_of_the_folder_that_was_to_be_written(tmp_path: Path) -> None:
    """What a library writes, learning curves say, fails without a name."""
    folder = tmp_path / "out"
    with pytest.raises(OSError) as caught, replaced_whole(folder):
        raise OSError(errno.ENOSPC, "no room")
    text = explain(caught.value)
    assert re.fullmatch(
        rf"{folder}: no room \(\S+ MB are free\): make room and run it again, what is finished is "
        "kept", text,
    )  # fmt: skip
    with pytest.raises(OSError) as caught, replaced_whole(folder):
        raise OSError(errno.ECONNRESET, "Connection reset by peer")
    assert explain(caught.value) == "Connection reset by peer"


def test_an_error_of_many_lines_is_said_in_one() -> None:
    error = OSError(errno.EIO, "file write failed: time = now\n, errno = 5", "a\nname")
    assert explain(error) == "a\\nname: file write failed: time = now , errno = 5"
