"""Several ranks: who reads which rows, who makes which shard, and what they put together."""

import re
from collections.abc import Callable
from itertools import chain
from pathlib import Path

import pytest
import torch
from caches import mentee
from hypothesis import given
from hypothesis import strategies as st
from torchrun import torchrun

from pipeline.blocks import Runtime
from pipeline.compute import choose_compute
from pipeline.ranks import ALONE, Ranks, launched, placed


@given(st.integers(1, 9), st.integers(0, 40), st.integers(0, 40))
def test_every_row_is_the_share_of_one_rank(count: int, rows: int, start: int) -> None:
    shares = [range(start, start + rows)[Ranks(rank, count).own(start)] for rank in range(count)]
    assert sorted(chain(*shares)) == list(range(start, start + rows))
    for rank, share in enumerate(shares):
        assert all(row % count == rank for row in share), "in a batch of several parts too"


@given(st.integers(1, 9), st.integers(0, 40))
def test_shares_at_their_places_add_up_to_the_whole(count: int, total: int) -> None:
    whole = torch.randn(total, 3)
    ranks = [Ranks(rank, count) for rank in range(count)]
    added = sum(placed(whole[one.own()], total, one) for one in ranks)
    assert torch.equal(added, whole)


def test_a_process_that_was_started_alone_is_all_there_is() -> None:
    assert launched() == ALONE
    assert ALONE.is_first
    assert list(range(5))[ALONE.own()] == list(range(5))
    assert list(ALONE.deal("abc")) == ["a", "b", "c"]
    assert ALONE.share(b"what") == b"what"
    counter = ALONE.counter()
    assert [counter.add(2), counter.add(3)] == [2, 5]


def test_no_thread_of_the_group_outlives_it(tmp_path: Path) -> None:
    """At the interpreter's end one may want it back, and the process aborts."""
    done = torchrun(2, str(Path(__file__).with_name("leave_ranks.py")), cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    within, after = re.split("^after:", done.stdout, flags=re.MULTILINE)
    assert "gloo" in within
    assert "gloo" not in after


@pytest.fixture
def launch(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], None]:
    """Says what torchrun says to one rank of so many on a machine."""

    def say(rank: int, count: int) -> None:
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "some")
        for name, value in (("RANK", rank), ("WORLD_SIZE", count), ("LOCAL_RANK", rank),
                            ("LOCAL_WORLD_SIZE", count)):  # fmt: skip
            monkeypatch.setenv(name, str(value))

    return say


@pytest.mark.parametrize(("threads", "count", "each"), [(8, 2, 4), (7, 3, 2), (2, 5, 1)])
def test_the_ranks_of_a_machine_divide_its_threads(
    launch: Callable[[int, int], None], threads: int, count: int, each: int
) -> None:
    before = torch.get_num_threads()
    launch(count - 1, count)
    try:
        choose_compute(Runtime(device="cpu", threads=threads))
        assert torch.get_num_threads() == each
    finally:
        torch.set_num_threads(before)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_the_ranks_of_a_machine_have_a_gpu_each(launch: Callable[[int, int], None]) -> None:
    launch(1, 2)
    assert choose_compute(Runtime(device="auto", threads=0)).device == torch.device("cuda:1")


def test_a_command_for_one_process_is_refused_to_several(
    launch: Callable[[int, int], None],
) -> None:
    launch(0, 2)
    done = mentee("head")
    assert done.exit_code == 1
    assert done.stderr == (
        "error: head runs in one process: start it without torchrun, which is for dump and train\n"
    )
