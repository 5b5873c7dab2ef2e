"""Several threads do what one would do, in its order, and no more ahead than they are."""

import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.threads import in_order


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(0, 3), max_size=20), st.integers(1, 5))
def test_results_come_in_the_order_of_the_items_however_long_each_takes(
    milliseconds: list[int], threads: int
) -> None:
    def wait(item: tuple[int, int]) -> int:
        time.sleep(item[1] / 1000)
        return item[0]

    items = list(enumerate(milliseconds))
    assert list(in_order(wait, items, threads)) == [number for number, _ in items]


def test_so_many_work_at_a_time_and_each_begins_once() -> None:
    all_are_here = threading.Barrier(3, timeout=30)
    begun: list[int] = []
    together = in_order(
        lambda _: all_are_here.wait(),
        range(9),
        3,
        begin=lambda: begun.append(threading.get_ident()),
    )
    assert sorted(together) == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert len(set(begun)) == len(begun) == 3


def test_items_are_taken_no_further_ahead_than_there_are_threads() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in range(100):
            taken.append(number)
            yield number

    results = in_order(lambda number: number, items(), 4)
    assert taken == [], "nothing is done before it is asked for"
    for asked_for in range(1, 10):
        next(results)
        assert len(taken) == asked_for + 4


def test_an_error_comes_where_its_result_would_have_come() -> None:
    def invert(number: int) -> float:
        return 1 / number

    results = in_order(invert, [2, 1, 0, 4], 2)
    assert [next(results), next(results)] == [0.5, 1.0]
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert list(results) == []
