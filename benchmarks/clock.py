"""Time on a device that may still be at work when a call returns."""

import time
from collections.abc import Callable

import torch


def seconds_of(work: Callable[[], None], device: torch.device) -> float:
    """Wall-clock seconds until the device has done it too."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    wait()
    start = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - start
