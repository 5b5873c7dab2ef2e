"""A network's modules with the shapes of what they put out, and the taps that suit them."""

from dataclasses import dataclass

import torch
from torch import nn

from pipeline.taps import tapped


@dataclass(frozen=True)
class Node:
    """One module. shape: what it puts out for one picture, without the batch; None if no tensor."""

    path: str
    kind: str
    shape: tuple[int, ...] | None

    @property
    def depth(self) -> int:
        return self.path.count(".")


def module_tree(network: nn.Module, input_size: int) -> list[Node]:
    """All modules that run on a black picture, in the order of their paths; sets eval mode."""
    paths = {path: path for path, _ in network.named_modules() if path}
    pictures = torch.zeros(1, 3, input_size, input_size)
    with torch.inference_mode(), tapped(network.eval(), paths, "{}") as outputs:
        network(pictures)
    made = []
    for path in paths:
        if path in outputs:
            found = outputs[path]
            shape = tuple(found.shape[1:]) if isinstance(found, torch.Tensor) else None
            made.append(Node(path, type(network.get_submodule(path)).__name__, shape))
    return made


def suggest(nodes: list[Node], features: int) -> dict[str, Node]:
    """Where to tap a teacher whose classifier reads so many features, if there are such places.

    middle: the last module of the second smallest maps, as outermost as there are; deeper ones
    know little but the classes. Maps are square and shrink, which a transformer's heads do not.
    pooled: what the classifier reads, for the head.
    """
    found = {}
    maps = [n for n in nodes if n.shape and len(n.shape) == 3 and n.shape[1] == n.shape[2] > 1]
    sizes = sorted({node.shape[1] for node in maps if node.shape})
    if len(sizes) > 1:
        found["middle"] = outermost([n for n in maps if n.shape and n.shape[1] == sizes[1]])
    vectors = [node for node in nodes if node.shape and node.shape in one_place(features)]
    if vectors:
        found["pooled"] = outermost(vectors)
    return found


def outermost(nodes: list[Node]) -> Node:
    """The last of the least deep."""
    return min(reversed(nodes), key=lambda node: node.depth)


def one_place(features: int) -> tuple[tuple[int, ...], ...]:
    """The shapes of a vector of so many features."""
    return (features,), (features, 1, 1)


def classifier_reads(network: nn.Module) -> int:
    """How many features the last layer with weights reads; 0 where there is none.

    By its weights `(out, in)` or `(out, in, h, w)`: a file of torch.export knows no classes of
    layers.
    """
    weights = [weight for weight in network.parameters() if weight.dim() in (2, 4)]
    return weights[-1].shape[1] if weights else 0
