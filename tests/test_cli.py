"""The command line: help, exit codes, and what a mistake looks like."""

import re
import sys
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner
from projects import REPOSITORY, TINY, edit_params, shell

from pipeline.cli import main

COMMANDS = (
    "prepare", "finetune", "dump", "head", "train", "evaluate", "targets", "examine", "report",
    "predict", "init", "export",
)  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_with_an_example(command: str) -> None:
    result = CliRunner().invoke(main, [command, "--help"])
    assert result.exit_code == 0
    assert f"Example: mentee {command}" in result.output


def test_help_lists_the_stages_in_their_order() -> None:
    stages = re.findall(r"^  ([a-z]+)[a-z-]*:$", (REPOSITORY / "dvc.yaml").read_text(), re.M)
    listed = re.findall(r"^  ([a-z]+)  ", CliRunner().invoke(main, ["--help"]).output, re.M)
    expected = list(dict.fromkeys(stages))
    assert listed[: len(expected)] == expected


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from pipeline.cli import main\n"
        "try: main(['--help'])\n"
        "finally: print([m for m in ('torch', 'numpy', 'h5py', 'dvc', 'pydantic')"
        " if m in sys.modules])"
    )
    done = shell(sys.executable, "-c", code, cwd=REPOSITORY)
    assert done.returncode == 0, done.stdout
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_module_is_the_command(tmp_path: Path) -> None:
    done = shell(sys.executable, "-m", "pipeline", "train", cwd=REPOSITORY)
    assert done.returncode == 2
    assert "Missing argument 'MODE'" in done.stdout


@pytest.mark.parametrize(
    ("command", "text"),
    [
        (["prepare"], "params.yaml is not here"),
        (["predict", "nowhere", "picture.png"], "nowhere holds no student: run `mentee train`"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_1(
    command: list[str], text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert len(result.stderr.splitlines()) == 1
    assert text in result.stderr


@pytest.mark.parametrize(
    ("command", "text"),
    [
        (["dump"], "run `mentee prepare` to make it"),
        (["head"], "run `mentee prepare` to make it"),
        (["train", "obedient"], "run `mentee prepare` to make it"),
        (["train", "meek"], "no mode 'meek'; params.yaml has independent"),
        (["train", "obedient", "--settings", "odd"], "no settings 'odd'; params.yaml has plain"),
        (["evaluate", "obedient"], "run `mentee train`"),
        (["examine", "obedient"], "run `mentee train`"),
        (["examine", "untrained"], "run `mentee prepare` to make it"),
        (["examine", "teacher"], "run `mentee prepare` to make it"),
        (["report"], "metrics/teacher.json is missing"),
    ],
)
def test_a_stage_before_its_turn_says_what_to_run_first(
    command: list[str], text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "params.yaml").write_text((REPOSITORY / "params.yaml").read_text())
    edit_params(tmp_path / "params.yaml", {"runtime": {"device": "cpu"}})
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 1
    assert len(result.stderr.splitlines()) == 1
    assert text in result.stderr


# How much is said


@pytest.fixture
def digits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with params and nothing else, where the test is."""
    (tmp_path / "params.yaml").write_text((REPOSITORY / "params.yaml").read_text())
    edit_params(tmp_path / "params.yaml", TINY)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_quiet_says_nothing_verbose_says_when_and_both_are_wrong(
    digits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*options: str) -> str:
        done = CliRunner().invoke(main, [*options, "prepare"])
        assert done.exit_code == 0, done.output
        return done.output

    usual = run()
    assert usual.startswith("data/prepared/images.h5: 10 classes; ")
    assert run("--quiet") == ""
    assert re.fullmatch(r"\[ +\d+\.\d s\] " + re.escape(usual), run("--verbose"))
    monkeypatch.setenv("MENTEE_QUIET", "1")
    assert run() == "", "as `dvc repro` passes it on"
    assert CliRunner().invoke(main, ["--verbose", "prepare"]).exit_code == 2
    monkeypatch.delenv("MENTEE_QUIET")
    assert run() == usual


def test_an_error_stays_one_line_when_quiet_and_has_its_trace_when_verbose(digits: Path) -> None:
    usual, quiet, verbose = (
        CliRunner().invoke(main, [*options, "dump"]) for options in ([], ["-q"], ["-v"])
    )
    assert (usual.exit_code, quiet.exit_code, verbose.exit_code) == (1, 1, 1)
    assert quiet.stderr == usual.stderr and len(usual.stderr.splitlines()) == 1
    assert verbose.stderr.startswith("Traceback ") and verbose.stderr.endswith(usual.stderr)


# What a shell completes


def completed(*words: str) -> list[str]:
    """What is offered for the last of some words."""
    *before, last = words
    shell = ShellComplete(main, {}, "mentee", "_MENTEE_COMPLETE")
    return [item.value for item in shell.get_completions(before, last)]


def test_modes_and_settings_of_the_params_are_completed(digits: Path) -> None:
    assert completed("tra") == ["train"]
    assert completed("train", "gull") == ["gullible", "gullible_first"]
    assert completed("train", "obedient", "--settings", "drop") == ["dropout", "dropout_l2"]
    assert completed("train", "t") == []
    assert completed("evaluate", "t") == ["teacher"]
    assert completed("examine", "unt") == ["untrained"]


def test_nothing_is_completed_where_there_are_no_params(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert completed("train", "o") == []
