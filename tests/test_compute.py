"""Where and in what precision is computed, and what is kept for the next step."""

import ctypes
import platform
import resource

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


def test_other_c_libraries_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr(ctypes, "CDLL", None)
    assert choose_compute(Runtime(device="cpu", threads=0)).device == torch.device("cpu")
