"""The processes that torchrun started: who is who, and what they tell one another.

A process that was started alone is the one rank there is, and none of this costs it anything.
"""

import os
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import numpy as np
import torch
import torch.distributed as dist

from pipeline.errors import MenteeError

Item = TypeVar("Item")

# A rank that dies is torchrun's to notice. One that waits may wait for another's whole shard, or
# for an old cache to be read, which the library's ten minutes would take for a failure.
PATIENCE = timedelta(days=1)


@dataclass(frozen=True)
class Ranks:
    """Which of `count` processes this one is, and which of `local_count` on its machine."""

    rank: int = 0
    count: int = 1
    local_rank: int = 0
    local_count: int = 1
    store: dist.Store | None = None

    @property
    def several(self) -> str:
        """How many there are, to be said after a device; nothing where this process is alone."""
        return f", {self.count} processes" if self.count > 1 else ""

    @property
    def is_first(self) -> bool:
        """The first writes what belongs to all."""
        return self.rank == 0

    def own(self, start: int = 0) -> slice:
        """This rank's share of rows of which the first is number `start`: every count-th."""
        return slice((self.rank - start) % self.count, None, self.count)

    def whole(self, share: torch.Tensor, total: int) -> torch.Tensor:
        """Everybody's `own()` rows put together, `(total, ...)`, the same on every rank."""
        if self.count == 1:
            return share
        rows = placed(share, total, self)
        dist.all_reduce(rows)
        return rows

    def wait(self) -> None:
        """Wait until every rank is here."""
        self.whole(torch.zeros(1), self.count)

    def share(self, content: bytes) -> bytes:
        """What the first rank has."""
        if self.count == 1:
            return content
        held = torch.from_numpy(np.frombuffer(content, dtype=np.uint8).copy())
        size = torch.tensor(len(content))
        dist.broadcast(size, 0)
        received = held if self.is_first else torch.empty(int(size), dtype=torch.uint8)
        if size:
            dist.broadcast(received, 0)
        return received.numpy().tobytes()

    def refuse_difference(self, digest: str) -> None:
        """A MenteeError on a rank that is about to do other work than the first."""
        if self.share(digest.encode()) != digest.encode():
            raise MenteeError(
                f"rank {self.rank} on {socket.gethostname()} differs from rank 0: give every "
                f"machine the same params, code, data, libraries and kind of device"
            )

    def counter(self) -> "Counter":
        """A number that all ranks add to; all must ask for it at the same time."""
        return Counter(self.store, self.share(os.urandom(8)).hex())

    def deal(self, items: Sequence[Item]) -> Iterator[Item]:
        """Those of `items`, the same on every rank, that no other rank takes: one at a time."""
        dealt = self.counter()
        while (number := dealt.add(1)) <= len(items):
            yield items[number - 1]


ALONE = Ranks()


class Counter:
    """A number that several ranks add to."""

    def __init__(self, store: dist.Store | None, key: str):
        self._store, self._key, self._alone = store, key, 0

    def add(self, count: int) -> int:
        """What all ranks have added by now."""
        if self._store:
            return self._store.add(self._key, count)
        self._alone += count
        return self._alone


def placed(share: torch.Tensor, total: int, ranks: Ranks) -> torch.Tensor:
    """A rank's rows at their places among zeros `(total, ...)`: the sum over ranks is the whole.

    Shares may differ in length, which no gathering collective takes on every backend.
    """
    rows = share.new_zeros((total, *share.shape[1:]))
    rows[ranks.own()] = share
    return rows


def launched() -> Ranks:
    """What torchrun says of this process; it is alone where torchrun says nothing."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    if not dist.is_torchelastic_launched():
        return ALONE
    rank, count, local_rank, local_count = (int(os.environ[name]) for name in names)
    return Ranks(rank, count, local_rank, local_count)


def fresh(store: dist.Store, ranks: Ranks) -> dist.Store:
    """A part of torchrun's store that no rank has written to that is dead by now.

    The store outlives a restart, and with it the addresses of those who were killed. (It happens
    that a rank calls one of them, and the restart fails, with torch 2.14.) So each says hello by a
    name that nobody had before, and the first answers it with the name of a new part.
    """
    if not ranks.is_first:
        own = os.urandom(8).hex()
        store.set(f"hello/{ranks.rank}", own)
        part = store.get(f"part/{own}").decode()
        store.set(f"{part}/{ranks.rank}", "here")
        return dist.PrefixStore(part, store)
    part = os.urandom(8).hex()
    away = set(range(1, ranks.count))
    while away := {rank for rank in away if not store.check([f"{part}/{rank}"])}:
        for rank in away:  # a hello may be of a rank that is dead, until the new one says its own
            if store.check([f"hello/{rank}"]):
                store.set(f"part/{store.get(f'hello/{rank}').decode()}", part)
        time.sleep(0.01)
    return dist.PrefixStore(part, store)


def keep_group_out_of_defaults() -> None:
    """See to it that destroying the process group ends gloo's threads.

    The functions imported here have, as a default argument, the group of that moment.
    DistributedDataParallel imports them: with a group there, that group lives to the end of
    the process, where one of its threads may want the interpreter that is no more: abort. (Seen
    with torch 2.14 on a busy machine.)
    """
    import torch.distributed.nn.functional  # noqa: F401


@contextmanager
def joined() -> Iterator[Ranks]:
    """All ranks together, while the context lasts. The first tells the story, the others nothing.

    Tensors in memory go through gloo, those on a GPU through NCCL.
    """
    ranks = launched()
    if ranks.count == 1:
        yield ranks
        return
    keep_group_out_of_defaults()
    given, _, _ = next(dist.rendezvous("env://", timeout=PATIENCE))
    store = fresh(given, ranks)
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(
        backend, store=store, rank=ranks.rank, world_size=ranks.count, timeout=PATIENCE
    )
    together = Ranks(ranks.rank, ranks.count, ranks.local_rank, ranks.local_count, store)
    try:
        if together.is_first:
            yield together
        else:
            with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
                yield together
    finally:
        dist.destroy_process_group()
