"""What a step takes beside another busy process: whether to leave a core to that one."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from pathlib import Path

import torch
from rows import Row
from steps import against
from teaching import bare_seconds, set_up_project, take_turns

from pipeline.runs import set_up
from pipeline.threads import own_cores
from pipeline.variants import Variant

ROUNDS, STEPS = 15, 24


def crowded(folder: Path, scale: float = 1.0) -> list[Row]:
    """The lone student's steps with every core and with one fewer, alone and not."""
    with chdir(folder):
        params = set_up_project(scale)
        run = set_up(params, Variant("independent", "plain", 0))
        count = max(int(STEPS * scale), 2)
        cores = own_cores()
        fewer = max(cores - 1, 1)

        def steps(threads: int) -> float:
            torch.set_num_threads(threads)
            return bare_seconds(run, params, count)

        works = {"all": lambda: steps(cores), "fewer": lambda: steps(fewer)}
        rounds = ROUNDS if scale == 1 else 1
        quiet = take_turns(works, rounds)
        with a_busy_process():
            busy = take_turns(works, rounds)
    what = f"time of a step with {cores} threads against {fewer}, CPU of {cores} cores"
    return [
        against(times, "all", "fewer", count, what=f"{what}: {beside}")
        for beside, times in (("alone", quiet), ("beside one busy process", busy))
    ]


@contextmanager
def a_busy_process() -> Iterator[None]:
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()
