"""Helpers: commands started by torchrun, as a user starts them."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


def torchrun(count: int, *command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """So many processes, to their end; both streams in one."""
    with started(count, *command, cwd=cwd) as process:
        output, _ = process.communicate()
    return subprocess.CompletedProcess(process.args, process.returncode, output)


@contextmanager
def started(count: int, *command: str, cwd: Path) -> Iterator[subprocess.Popen[str]]:
    """So many processes and the one that watches them, while the context lasts."""
    process = subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", "--standalone",
         "--nproc-per-node", str(count), *command],
        cwd=cwd, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        start_new_session=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.poll() is None:
            kill_all(process)


def kill_all(process: subprocess.Popen[str]) -> None:
    """The power fails. torchrun puts each rank in a session of its own."""
    for one in (process.pid, *ranks_of(process)):
        os.kill(one, signal.SIGKILL)
    process.communicate()


def ranks_of(process: subprocess.Popen[str]) -> list[int]:
    """The ids of the ranks' processes, in order."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    ranks = {}
    for child in map(int, children.split()):
        environment = Path(f"/proc/{child}/environ").read_bytes()
        if found := re.search(rb"\0RANK=(\d+)\0", environment):
            ranks[int(found[1])] = child
    return [ranks[number] for number in sorted(ranks)]


def until(happens: Callable[[], object]) -> None:
    """Wait for something that is looked for all the time."""
    deadline = time.monotonic() + 120
    while not happens():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def errors(output: str) -> set[str]:
    """The lines with which our commands failed."""
    return set(re.findall(r"^error: .*$", output, re.MULTILINE))
