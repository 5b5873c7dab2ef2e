"""Helpers: commands started by torchrun, as a user starts them."""

import re
import subprocess
import sys
from pathlib import Path


def torchrun(count: int, *command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """So many processes; both streams in one. A port of its own, since tests run side by side."""
    return subprocess.run(
        launcher(count, *command), cwd=cwd, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )  # fmt: skip


def launcher(count: int, *command: str) -> list[str]:
    return [sys.executable, "-m", "torch.distributed.run", "--standalone",
            "--nproc-per-node", str(count), *command]  # fmt: skip


def errors(output: str) -> set[str]:
    """The lines with which our commands failed."""
    return set(re.findall(r"^error: .*$", output, re.MULTILINE))
