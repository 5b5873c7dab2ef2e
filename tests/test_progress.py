"""Progress where there is no terminal: plain lines for what lasts, silence for what does not."""

import re
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from pipeline import progress
from pipeline.progress import Progress, say, track, warn


def test_a_quick_loop_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(track("abc", "reading", 3)) == ["a", "b", "c"]
    assert capsys.readouterr().out == ""


def test_a_slow_loop_says_how_far_it_is_how_long_it_will_last_and_how_long_it_took(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With no time between lines every step is slow enough for one."""
    monkeypatch.setattr(progress, "PLAIN_INTERVAL", 0)
    monkeypatch.setattr(progress, "PLAIN_LONGEST", 0)
    assert list(track("abc", "reading", 3)) == ["a", "b", "c"]
    first, second, last = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"reading: 1/3, ETA \d+ s", first)
    assert re.fullmatch(r"reading: 2/3, ETA \d+ s", second)
    assert re.fullmatch(r"reading: 3/3 in \d+ s", last)


def test_the_eta_is_what_is_left_at_the_pace_so_far(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([100.0, 110.0, 111.0, 116.0, 140.0])  # the start, then every step
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    with Progress("training", 80) as shown:
        shown.advance(20)  # a fourth in 10 s: 30 s are left
        shown.advance(10)  # 1 s after the last line: too soon for another
        shown.advance(2)  # 6 s after it: 32 took 16 s, so 48 take 24 s
        shown.advance(48)
    assert capsys.readouterr().out.splitlines() == [
        "training: 20/80, ETA 30 s",
        "training: 32/80, ETA 24 s",
        "training: 80/80 in 40 s",
    ]


def test_items_come_one_by_one_as_they_are_asked_for() -> None:
    taken = []

    def source() -> Iterator[int]:
        for number in range(3):
            taken.append(number)
            yield number

    tracked = track(source(), "reading", 3)
    assert next(tracked) == 0
    assert taken == [0]


def test_an_error_inside_a_loop_is_not_swallowed() -> None:
    with pytest.raises(ValueError, match="inside"), Progress("training", 3) as shown:
        shown.advance()
        raise ValueError("inside")


def test_nothing_to_do_is_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(track([], "reading", 0)) == []
    assert capsys.readouterr().out == ""


def test_a_line_of_a_stages_story_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    say("1 [bold] line: 50 %")
    assert capsys.readouterr().out == "1 [bold] line: 50 %\n"


def test_names_within_a_line_neither_break_nor_stop_it(capsys: pytest.CaptureFixture[str]) -> None:
    """The last is what Python makes of a name that is not in UTF-8."""
    for tell in (say, warn):
        tell("é\n\t\udcff.png")
        assert capsys.readouterr().out == "é\\n\\t\\udcff.png\n"
