"""TensorBoard's own reader finds the curves of the latest run."""

import sys
from pathlib import Path

import pytest
from projects import refusal
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pipeline.boards import Board


def write(folder: Path, values: dict[int, float]) -> None:
    board = Board(folder)
    for step, value in values.items():
        board.add("validation/accuracy", value, step)
    board.close()


def read(folder: Path) -> dict[int, float]:
    events = EventAccumulator(str(folder)).Reload().Scalars("validation/accuracy")
    return {event.step: event.value for event in events}


def test_a_run_that_goes_on_or_begins_again_leaves_one_curve(tmp_path: Path) -> None:
    write(tmp_path, {10: 0.25, 20: 0.5})
    write(tmp_path, {20: 0.75, 30: 1.0})
    assert read(tmp_path) == {10: 0.25, 20: 0.75, 30: 1.0}
    write(tmp_path, {10: 0.125})
    assert read(tmp_path) == {10: 0.125}


def test_without_a_folder_nothing_is_loaded_or_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    board = Board(None)
    board.add("validation/accuracy", 0.5, 10)
    board.close()


def test_a_missing_package_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    assert "pip install 'mentee[tensorboard]'" in refusal(lambda: Board(tmp_path))
    assert list(tmp_path.iterdir()) == []
