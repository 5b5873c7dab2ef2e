"""taps: the module tree of a network, and where to tap it."""

from pipeline.errors import MenteeError, reason
from pipeline.module_tree import Node, classifier_reads, module_tree, suggest
from pipeline.progress import say
from pipeline.teacher_sources import find_network

PIXELS = 4  # of a grid that is suggested


def taps(model: str, input_size: int, depth: int) -> None:
    """Print every module of `model` down to `depth`, and what could stand under teacher.taps."""
    network = find_network(model)
    try:
        nodes = module_tree(network, input_size)
    except (AssertionError, RuntimeError) as error:
        raise MenteeError(
            f"{model} does not take {input_size} pixels ({reason(error)}): name others by "
            f"--input-size"
        ) from None
    for node in nodes:
        if node.depth < depth:
            say(line(node))
    say("")
    for text in yaml_of(suggest(nodes, classifier_reads(network))):
        say(text)


def line(node: Node) -> str:
    shape = " x ".join(map(str, node.shape)) if node.shape else "no tensor"
    return f"{'  ' * node.depth}{node.path:<{40 - 2 * node.depth}} {shape:<16} {node.kind}"


def yaml_of(found: dict[str, Node]) -> list[str]:
    if not found:
        return ["No module suits: maps (C x h x w) or vectors (C) do."]
    lines = ["For params.yaml, under teacher:", "  taps:"]
    for name, node in found.items():
        grid = min(PIXELS, node.shape[1]) if name == "middle" else 1
        lines.append(f"    {name}: {{module: {node.path}, grid: {grid}}}")
    return lines
