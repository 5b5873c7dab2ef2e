"""Named places in a network where features are read."""

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
    known = dict(network.named_modules())
    features: dict[str, torch.Tensor] = {}

    def keep(name: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: torch.Tensor) -> None:
            # A copy: the next module may be an activation that works in place.
            features[name] = output.clone() if isinstance(output, torch.Tensor) else output

        return hook

    handles = []
    try:
        for name, path in modules.items():
            if path not in known or not path:
                paths = ", ".join(sorted(filter(None, known)))
                raise MenteeError(f"tap {name!r}: no module {path!r} here; there are: {paths}")
            handles.append(known[path].register_forward_hook(keep(name)))
        yield features
    finally:
        for handle in handles:
            handle.remove()
