"""What several threads do together."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import joblib

Item = TypeVar("Item")
Result = TypeVar("Result")


def own_cores() -> int:
    """How many cores this process may use: those of its affinity, and no more than a container's.

    What a container may use is a share of all cores' time, of which neither Python nor torch knows.
    """
    return joblib.cpu_count()


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
