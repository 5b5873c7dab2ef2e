"""Named places in a network, and the features that are read there."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from pipeline.errors import MenteeError


@contextmanager
def tapped(network: nn.Module, modules: dict[str, str]) -> Iterator[dict[str, torch.Tensor]]:
    """Read what modules put out: `modules` is name -> module path, like {"late": "blocks.4"}.

    Yields a dictionary that holds, after each forward pass, the output of every module by name.
    A path that does not exist is a MenteeError that lists those that do.
    """
    features: dict[str, torch.Tensor] = {}

    def keep(name: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: torch.Tensor) -> None:
            # A copy: the next module may be an activation that works in place.
            features[name] = output.clone() if isinstance(output, torch.Tensor) else output

        return hook

    handles = []
    try:
        for name, path in modules.items():
            module = module_at(network, path, f"tap {name!r}")
            handles.append(module.register_forward_hook(keep(name)))
        yield features
    finally:
        for handle in handles:
            handle.remove()


def module_at(network: nn.Module, path: str, what: str) -> nn.Module:
    """The module at a path; a MenteeError that begins with `what` lists those that there are."""
    known = dict(network.named_modules())
    if path not in known or not path:
        paths = ", ".join(sorted(filter(None, known)))
        raise MenteeError(f"{what}: no module {path!r} here; there are: {paths}")
    return known[path]
