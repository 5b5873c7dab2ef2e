"""The command line: help, exit codes, and what a mistake looks like."""

import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from projects import REPOSITORY, edit_params, shell

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
