"""What several threads do together."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def own_cores() -> int:
    """How many cores this process may use, as far as the system says."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def in_order(
    function: Callable[[Item], Result], items: Iterable[Item], threads: int,
    begin: Callable[[], None] | None = None,
) -> Iterator[Result]:  # fmt: skip
    """`function` of every item, by so many threads, as many ahead of what is asked for.

    Executor.map takes all items at once, and keeps every result that nobody has asked for yet.
    `begin` is called first in each thread. What `function` raises is raised in its place, and ends
    the iteration.
    """
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(threads, initializer=begin) as pool:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
