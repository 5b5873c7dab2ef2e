"""taps: the module tree of a network, and where to tap it."""

from collections.abc import Iterator
from typing import Any

from pipeline.errors import MenteeError, reason
from pipeline.module_tree import Node, classifier_reads, module_tree, suggest
from pipeline.teacher_sources import find_network

PIXELS = 4  # of a grid that is suggested


def taps(model: str, input_size: int, depth: int) -> dict[str, Any]:
    """Every module of `model` down to `depth`, and what could stand under teacher.taps."""
    network = find_network(model)
    try:
        nodes = module_tree(network, input_size)
    except (AssertionError, RuntimeError) as error:
        raise MenteeError(
            f"{model} does not take {input_size} pixels ({reason(error)}): name others by "
            f"--input-size"
        ) from None
    suggested = suggest(nodes, classifier_reads(network))
    return {
        "modules": [
            {"path": node.path, "kind": node.kind, "shape": node.shape, "depth": node.depth}
            for node in nodes
            if node.depth < depth
        ],
        "taps": {name: tap(name, node) for name, node in suggested.items()},
    }


def tap(name: str, node: Node) -> dict[str, Any]:
    grid = min(PIXELS, node.shape[1]) if name == "middle" and node.shape else 1
    return {"module": node.path, "grid": grid}


def tap_lines(content: dict[str, Any]) -> Iterator[str]:
    """The same for people."""
    for module in content["modules"]:
        shape = " x ".join(map(str, module["shape"])) if module["shape"] else "no tensor"
        depth = module["depth"]
        yield f"{'  ' * depth}{module['path']:<{40 - 2 * depth}} {shape:<16} {module['kind']}"
    yield ""
    if not content["taps"]:
        yield "No module suits: maps (C x h x w) or vectors (C) do."
        return
    yield "For params.yaml, under teacher:"
    yield "  taps:"
    for name, found in content["taps"].items():
        yield f"    {name}: {{module: {found['module']}, grid: {found['grid']}}}"
