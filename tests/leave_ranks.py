"""Run by torchrun: a step by all ranks together, then the threads that are left, a name a line."""

from pathlib import Path

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from pipeline.ranks import joined


def step() -> None:
    DistributedDataParallel(nn.Linear(3, 2))(torch.ones(2, 3)).sum().backward()


def threads() -> list[str]:
    return [path.read_text() for path in Path("/proc/self/task").glob("*/comm")]


with joined() as ranks:
    step()
    if ranks.is_first:
        print("within:", *threads())
if ranks.is_first:
    print("after:", *threads())
