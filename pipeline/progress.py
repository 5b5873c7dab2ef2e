"""Progress for every loop that lasts: a bar on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

from pipeline.errors import printable

if TYPE_CHECKING:  # imported where a bar is drawn, and nowhere else
    from rich import progress as rich

Item = TypeVar("Item")

BAR_DELAY = 0.5  # seconds before a bar appears: a quick loop draws none
PLAIN_INTERVAL = 2.0  # seconds to the first plain line; the gaps grow with the time taken
PLAIN_LONGEST = 30.0  # seconds between plain lines at most

_story = True  # whether lines and bars are shown
_since: float | None = None  # the moment from which lines say when they were printed


@contextmanager
def telling(story: bool, stamped: bool = False) -> Iterator[None]:
    """Whether lines and bars are shown, and whether lines say when, while the context lasts."""
    global _story, _since
    before = _story, _since
    _story, _since = story, time.monotonic() if stamped else None
    try:
        yield
    finally:
        _story, _since = before


def say(text: str) -> None:
    """Print one line of a stage's story, at once also through a pipe."""
    if _story:
        stamp = "" if _since is None else f"[{time.monotonic() - _since:7.1f} s] "
        print(stamp + printable(text), flush=True)


def warn(text: str) -> None:
    """Print one line that is no part of the story, and is shown whether or not that is."""
    print(printable(text), flush=True)


class Progress:
    """How much of `total` is done and how long the rest will take, while the context lasts."""

    def __init__(self, what: str, total: int):
        self.what, self.total, self.done = what, total, 0
        self._start = self._last = time.monotonic()
        self._bar = _bar() if _story and sys.stdout.isatty() and total else None

    def __enter__(self) -> "Progress":
        if self._bar:
            self._task = self._bar.add_task(self.what, total=self.total)
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    def advance(self, count: int = 1) -> None:
        self.done += count
        now = time.monotonic()
        if self._bar:
            self._bar.advance(self._task, count)
            if now - self._start > BAR_DELAY:
                self._bar.start()
            return
        took = now - self._start
        if self.done >= self.total and took >= PLAIN_INTERVAL:
            say(f"{self.what}: {self.done}/{self.total} in {took:.0f} s")
        elif now - self._last >= min(max(PLAIN_INTERVAL, took / 5), PLAIN_LONGEST):
            left = took / self.done * (self.total - self.done)
            say(f"{self.what}: {self.done}/{self.total}, ETA {left:.0f} s")
            self._last = now


def track(items: Iterable[Item], what: str, total: int) -> Iterator[Item]:
    """Yield `items`, showing the progress of the loop over them."""
    with Progress(what, total) as progress:
        for item in items:
            yield item
            progress.advance()


def _bar() -> "rich.Progress":
    from rich import progress as rich

    return rich.Progress(
        rich.TextColumn("{task.description}"),
        rich.BarColumn(),
        rich.MofNCompleteColumn(),
        rich.TimeElapsedColumn(),
        rich.TextColumn("ETA"),
        rich.TimeRemainingColumn(),
    )
