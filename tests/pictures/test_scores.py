"""The report's pictures of what networks reach, and at what cost."""

import re
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from pipeline.pictures import scores
from pipeline.pictures.style import looks
from pipeline.results import Row
from pipeline.variants import TEACHER


def row(title: str, accuracy: float, group: str = "features") -> Row:
    found: dict[str, Any] = {"test": {"accuracy": accuracy}, "latency_ms": {"1": 1.0}}
    return Row(title, group, (title,), (0,), (found,))


@pytest.mark.parametrize("students", [1, 6, 20])
@pytest.mark.parametrize("accuracy", [0.0, 0.12, 0.99, 1.0])
def test_the_axis_of_the_cost_ends_at_0_and_at_100_percent_and_holds_every_label(
    students: int, accuracy: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(scores, "svg", drawn.append)
    rows = [row(TEACHER, 0.83, TEACHER), *(row(f"led{n}", accuracy) for n in range(students))]
    scores.cost(rows, looks(rows))
    (axes,) = drawn[0].axes
    low, high = axes.get_ylim()
    assert 0 <= low < high <= 100
    places = [text.get_position()[1] for text in axes.texts]
    assert len(places) == students + 1
    assert low < min(places) < max(places) < high


def test_where_there_is_room_the_axis_of_the_cost_shows_what_is_reached_alone() -> None:
    rows = [row(TEACHER, 0.85, TEACHER), row("led", 0.80)]
    ticks = re.findall(r">(\d+)<", scores.cost(rows, looks(rows)))
    assert "80" in ticks
    assert not {"0", "100"} & set(ticks)


def test_nothing_is_written_where_the_line_of_a_reliability_diagram_may_be(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(scores, "svg", drawn.append)
    bins = {"count": np.ones(2), "confidence": np.array([0.1, 0.9]), "accuracy": np.ones(2)}
    scores.reliability_diagram("led", bins, 0.123, "black")
    drawn[0].draw_without_rendering()
    (axes,) = drawn[0].axes
    assert list(axes.texts) == []
    assert "error 12.3 %" in axes.get_title()
    assert axes.title.get_window_extent().y0 >= axes.get_window_extent().y1
