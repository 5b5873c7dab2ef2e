"""Which device computes, and in what precision."""

from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch

from pipeline.blocks import Runtime
from pipeline.errors import MenteeError


@dataclass(frozen=True)
class Compute:
    """A device and whether matrix products run there in bfloat16."""

    device: torch.device
    bfloat16: bool

    @property
    def precision(self) -> str:
        return "bfloat16" if self.bfloat16 else "float32"

    def autocast(self) -> AbstractContextManager:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16)

    def __str__(self) -> str:
        name = "CPU"
        if self.device.type == "cuda":
            name = torch.cuda.get_device_name(self.device)
        return f"{name}, {self.precision}"


def choose_compute(runtime: Runtime) -> Compute:
    """The device that params ask for, or the best one that is here, and its fast precision."""
    if runtime.threads:
        torch.set_num_threads(runtime.threads)
    name = runtime.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cuda":
        if not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count():
            raise MenteeError(
                f"runtime.device: {name!r} is not here: use 'auto', 'cpu' or one of "
                f"{torch.cuda.device_count()} CUDA devices"
            )
        return Compute(device, torch.cuda.is_bf16_supported())
    return Compute(device, _cpu_is_fast_in_bfloat16())


def _cpu_is_fast_in_bfloat16() -> bool:
    """Elsewhere bfloat16 is emulated, several times slower than float32."""
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))
