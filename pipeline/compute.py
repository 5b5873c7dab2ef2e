"""Which device computes, and in what precision."""

import ctypes
import platform
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from pipeline.blocks import Runtime
from pipeline.errors import MenteeError
from pipeline.ranks import launched
from pipeline.threads import own_cores

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of malloc.h
FEW_CHANNELS = 16  # wrong gradients were seen of up to 6; other processors take more at once


@dataclass(frozen=True)
class Compute:
    """A device and whether matrix products run there in bfloat16."""

    device: torch.device
    bfloat16: bool

    @property
    def precision(self) -> str:
        """What matrix products are computed in, as caches and reports record it."""
        return "bfloat16" if self.bfloat16 else "float32"

    def autocast(self) -> AbstractContextManager:
        """Within it matrix products run in this precision."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16)

    def __str__(self) -> str:
        name = "CPU"
        if self.device.type == "cuda":
            name = torch.cuda.get_device_name(self.device)
        return f"{name}, {self.precision}"


def choose_compute(runtime: Runtime) -> Compute:
    """The device that params ask for, or the best one that is here, and its fast precision.

    The ranks of a machine have a GPU each, or a part of the CPU's threads.
    """
    ranks = launched()
    threads = runtime.threads or own_cores()
    if ranks.local_count > 1:
        torch.set_num_threads(max(1, threads // ranks.local_count))
    elif runtime.threads or threads < torch.get_num_threads():
        torch.set_num_threads(threads)
    name = runtime.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and ranks.local_count > 1:
        name = f"cuda:{ranks.local_rank}"
    device = torch.device(name)
    if device.type == "cuda":
        if ranks.local_count > max(1, torch.cuda.device_count()):
            raise MenteeError(
                f"{ranks.local_count} processes on a machine with {torch.cuda.device_count()} CUDA "
                f"devices: start one for each, or set runtime.device to cpu"
            )
        if not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count():
            raise MenteeError(
                f"runtime.device: {name!r} is not here: use 'auto', 'cpu' or one of "
                f"{torch.cuda.device_count()} CUDA devices"
            )
        return Compute(device, torch.cuda.is_bf16_supported())
    keep_freed_memory()
    return Compute(device, _cpu_is_fast_in_bfloat16())


def memory_format_of(network: nn.Module) -> torch.memory_format:
    """How a network that learns and its pictures lie in memory: channels last, where that is right.

    It is the fastest. But on a CPU, torch 2.11 and 2.14 make wrong gradients of it, and write some
    beyond their end, for a 1x1 convolution of few channels with a stride, as RepVGG, MobileOne and
    FastViT begin with.
    """
    strided = any(
        isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1)
        and max(module.stride) > 1 and module.in_channels < FEW_CHANNELS
        for module in network.modules()
    )  # fmt: skip
    return torch.contiguous_format if strided else torch.channels_last


def to_device(values: np.ndarray, device: torch.device) -> torch.Tensor:
    """The same values on a device, at once: what comes after need not wait for a GPU.

    By default torch waits until a GPU has done all that it was asked for and this copy too.
    """
    # CUDA has read ordinary memory when its call returns, so that `values` may be freed.
    return torch.from_numpy(values).to(device, non_blocking=True)


def keep_freed_memory() -> None:
    """Have the C library keep what this process frees, up to 2 GiB, for what it needs next.

    By default glibc maps every large tensor anew, and the system clears it page by page as it is
    first written: up to half of a teacher's time on a CPU (docs/benchmarks.md). Other C libraries
    are left as they are.
    """
    if platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def _cpu_is_fast_in_bfloat16() -> bool:
    """Elsewhere bfloat16 is emulated, several times slower than float32."""
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))
