"""Where and in what precision is computed, and what is kept for the next step."""

import ctypes
import platform
import resource
import shutil
import subprocess
import sys

import pytest
import torch

from pipeline.blocks import Runtime
from pipeline.compute import choose_compute

LARGE = 32 << 20  # float32 values, 128 MiB: glibc would map them anew each time


def faults_of_another_large_tensor() -> int:
    """How many pages the system hands out for it."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(LARGE)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's own settings")
def test_what_was_freed_on_a_cpu_is_used_again() -> None:
    choose_compute(Runtime(device="cpu", threads=0))
    # Several: a gap that was freed may be a few bytes too small for the next tensor, until small
    # pieces beside it are used up.
    for _ in range(15):
        torch.ones(LARGE)
    # The least of some: a system may take back what has been idle for a moment.
    assert min(faults_of_another_large_tensor() for _ in range(5)) < 100


def in_a_container_of(cores: float, *command: str) -> str:
    """What a command prints where the control groups allow it so many cores' time."""
    quota = f"{cores * 100_000:.0f} 100000"
    share = f"mount -t tmpfs none /sys/fs/cgroup && echo '{quota}' >/sys/fs/cgroup/cpu.max"
    namespace = ["unshare", "--map-root-user", "--mount", "bash", "-c"]
    if subprocess.run([*namespace, share], capture_output=True).returncode:
        pytest.skip("no control groups can be made up here")
    asked = [*namespace, f'{share} && exec env -u OMP_NUM_THREADS "$@"', "bash", *command]
    done = subprocess.run(asked, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.mark.skipif(shutil.which("unshare") is None, reason="Linux's namespaces")
@pytest.mark.parametrize(("asked", "threads"), [(0, "1"), (2, "2")])
def test_no_more_threads_than_a_container_has_cores_but_as_many_as_are_asked_for(
    asked: int, threads: str
) -> None:
    script = (
        "import torch; from pipeline.blocks import Runtime; from pipeline.compute import *; "
        f"choose_compute(Runtime(device='cpu', threads={asked})); print(torch.get_num_threads())"
    )
    assert in_a_container_of(0.5, sys.executable, "-c", script) == threads


def test_other_c_libraries_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr(ctypes, "CDLL", None)
    assert choose_compute(Runtime(device="cpu", threads=0)).device == torch.device("cpu")
