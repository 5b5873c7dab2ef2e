"""Named places in a network, and the features that are read there."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from textwrap import shorten
from typing import Any

import torch
from torch import nn

from pipeline.errors import MenteeError, near

LISTED = 300  # characters of module paths in an error


@contextmanager
def tapped(
    network: nn.Module, modules: dict[str, str], key: str, untouched: Collection[str] = ()
) -> Iterator[dict[str, torch.Tensor]]:
    """Read what modules put out: `modules` is name -> module path, like {"late": "blocks.4"}.

    Yields a dictionary that holds, after each forward pass, the output of every module by name: a
    copy, since the next module may be an activation that works in place, or itself where the name
    is of those that nothing works on in place. Maps are `(n, C, h, w)`, whatever the network's own
    order.
    A path that does not exist is a MenteeError that names the `key` of params, where {} stands for
    the name, and lists the paths that do exist.
    """
    features: dict[str, torch.Tensor] = {}

    def keep(name: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: torch.Tensor) -> None:
            if isinstance(output, torch.Tensor):
                output = channels_first(output if name in untouched else output.clone())
            features[name] = output

        return hook

    handles = []
    try:
        for name, path in modules.items():
            module = module_at(network, path, key.format(name))
            handles.append(module.register_forward_hook(keep(name)))
        yield features
    finally:
        for handle in handles:
            handle.remove()


def channels_first(features: torch.Tensor) -> torch.Tensor:
    """Maps `(n, h, w, C)`, as Swin and some other transformers have them, as `(n, C, h, w)`.

    They are told by their squares, h = w: pictures are square, and so are their maps.
    """
    if features.dim() == 4 and features.shape[1] == features.shape[2] != features.shape[3]:
        return features.permute(0, 3, 1, 2)
    return features


def module_at(network: nn.Module, path: str, key: str) -> nn.Module:
    """The module at a path; a MenteeError that begins with `key` lists those that there are."""
    known = dict(network.named_modules())
    if path not in known or not path:
        raise MenteeError(f"{key}: {_not_there(path, known)}")
    return known[path]


def _not_there(path: str, known: dict[str, nn.Module]) -> str:
    """Near paths, of its own level if there are any; then all, outermost first, cut to a line."""
    paths = sorted(filter(None, known), key=lambda path: path.count("."))
    level = [other for other in paths if other.count(".") == path.count(".")]
    hint = near(path, level) or near(path, paths)
    listed = shorten(", ".join(paths), LISTED, placeholder=f" ... ({len(paths)} in all)")
    return f"no module {path!r} in the network{hint}; there are: {listed}"
