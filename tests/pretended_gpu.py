"""Helper: a GPU that knows shapes, types and places, and computes nothing.

All but the numbers can so be tested without a GPU: that what an operation takes lies there, and
that nobody waits for it. Gradients are left out, since torch computes them on a GPU's streams.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from pipeline import compute, resampling, students
from pipeline.compute import Compute

# Raised where the CPU asks for a number, or for a shape that numbers decide.
Asked = (DataDependentOutputException, DynamicOutputShapeException)
aten = torch.ops.aten
GPU = torch.device("cuda:0")  # by its number: which one is current is asked of the driver


class Pretending(FakeTensorMode):
    """What torch offers, but one for all: a network that is copied stays on the same GPU."""

    def __deepcopy__(self, memo: Any) -> "Pretending":
        return self


class PretendedGpu(TorchDispatchMode):
    """Within it, what lies on a GPU is pretended; what lies in memory is as it always is."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []  # operations after which torch waits for the GPU
        self._pretending = Pretending()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # fmt: skip
        kwargs = kwargs or {}
        leaves = tree_leaves((args, kwargs))
        if not any(map(is_there, leaves)):
            return function(*args, **kwargs)
        args, kwargs = tree_map_only(torch.Tensor, self._pretended, (args, kwargs))
        with self._pretending:
            result = function(*args, **kwargs)
        tensors = [leaf for leaf in [*leaves, *tree_leaves(result)] if torch.is_tensor(leaf)]
        # A number may lie anywhere, and is handed over with the operation.
        places = {tensor.device.type for tensor in tensors if tensor.dim()}
        if len(places) > 1 and not kwargs.get("non_blocking"):
            self.waits.append(str(function))
        return result

    def _pretended(self, tensor: torch.Tensor) -> torch.Tensor:
        known = isinstance(tensor, FakeTensor)
        return tensor if known else self._pretending.from_tensor(tensor)


class ObligingGpu(PretendedGpu):
    """One that may be asked: every number is 1, and nothing is found."""

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # fmt: skip
        if isinstance(args[0] if args else None, FakeTensor):
            if function is aten._local_scalar_dense.default:
                return torch.ones((), dtype=args[0].dtype).item()
            if function is aten.nonzero.default:
                return torch.zeros(0, args[0].dim(), dtype=torch.int64)
        result = super().__torch_dispatch__(function, types, args, kwargs)
        return tree_map_only(FakeTensor, lambda t: t if t.is_cuda else ones(t), result)


def ones(tensors: Any) -> Any:
    """What among these is pretended, as ones in memory."""
    return tree_map_only(FakeTensor, lambda t: torch.ones(t.shape, dtype=t.dtype), tensors)


def is_there(what: Any) -> bool:
    """Whether it lies on the GPU, or is the GPU."""
    return isinstance(what, FakeTensor) or (isinstance(what, torch.device) and what.type == "cuda")


@contextmanager
def obliging_gpu() -> Iterator[PretendedGpu]:
    """Like `pretended_gpu`, but its numbers may be asked for and kept."""
    to_list, save, saved = torch.Tensor.tolist, torch.save, students.save
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "tolist", lambda tensor: to_list(ones(tensor)))
        patch.setattr(torch, "save", lambda state, file: save(ones(state), file))
        patch.setattr(students, "save", lambda state: saved(ones(state)))
        patch.setattr(torch.cuda, "get_device_name", lambda _: "pretended")
        patch.setattr(torch.cuda, "get_rng_state", lambda _: torch.zeros(16, dtype=torch.uint8))
        patch.setattr(torch.cuda, "set_rng_state", lambda *_: None)
        patch.setattr(torch.cuda, "synchronize", lambda _: None)
        with pretended_gpu(ObligingGpu()) as gpu:
            yield gpu


@contextmanager
def pretended_gpu(gpu: PretendedGpu | None = None) -> Iterator[PretendedGpu]:
    """One GPU with 16 GB of free memory, on which every stage computes, while the context lasts."""
    gpu = gpu or PretendedGpu()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: False)  # torch would use a true one
        patch.setattr(torch.cuda, "_lazy_init", lambda: None)
        patch.setattr("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
        patch.setattr(torch.cuda, "is_bf16_supported", lambda *_: True)
        patch.setattr(torch.cuda, "mem_get_info", lambda device: (16 * 10**9, 16 * 10**9))
        patch.setattr(nn.Module, "_apply", replace_tensors)
        patch.setattr(torch.Tensor, "backward", fill_gradients)
        # Or another test would be given pretended weights.
        patch.setattr(resampling, "_weights", cache(resampling._weights.__wrapped__))
        choose = compute.choose_compute
        for module in list(sys.modules.values()):
            if getattr(module, "choose_compute", None) is choose:
                patch.setattr(module, "choose_compute", lambda runtime: Compute(GPU, True))
        torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor makes all in memory, then moves it
        try:
            with gpu:
                yield gpu
        finally:
            torch._C._set_only_lift_cpu_tensors(False)


def replace_tensors(module: nn.Module, change: Any) -> nn.Module:
    """nn.Module._apply, which changes tensors in place, as pretended ones cannot be."""
    for child in module.children():
        child._apply(change)
    for name, parameter in module._parameters.items():
        if parameter is not None:
            with torch.no_grad():
                changed = change(parameter)
            module._parameters[name] = nn.Parameter(changed, parameter.requires_grad)
    for name, buffer in module._buffers.items():
        if buffer is not None:
            module._buffers[name] = change(buffer)
    return module


def fill_gradients(loss: torch.Tensor) -> None:
    """A gradient, of any value, for all that `loss` depends on."""
    assert loss.device.type == GPU.type
    seen, nodes = set(), [loss.grad_fn]
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            node.variable.grad = torch.empty_like(node.variable)
        nodes += [following for following, _ in node.next_functions]
