"""Run by torchrun: trains students by all ranks together, and by the first alone.

For every case in the JSON file that is named first: blocks of params beside those in this folder,
and the settings. The first rank writes to the second how far apart the two students are, of the way
that training took them, and what was told of them.
"""

import json
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from projects import merge

from pipeline import compute
from pipeline.params import Params, load_params
from pipeline.ranks import ALONE, Ranks, joined
from pipeline.runs import set_up
from pipeline.training import Look
from pipeline.variants import Variant

MODE = "tried"


def learn(
    params: Params, settings: str, ranks: Ranks
) -> tuple[dict[str, torch.Tensor], list[Look]]:
    """A student's weights and statistics after training, and what was told at each look."""
    looks: list[Look] = []
    run = set_up(params, Variant(MODE, settings, 0), ranks)
    run.go(params.training, looks.append)
    return run.student.state_dict(), looks


def distance(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """The Euclidean distance of two students, all weights and statistics taken as one vector."""
    apart = [
        (one[name].double() - other[name].double()).flatten()
        for name in other if other[name].is_floating_point()
    ]  # fmt: skip
    return float(torch.cat(apart).norm())


def compare(params: Params, settings: str, ranks: Ranks) -> dict[str, Any]:
    shared, shared_looks = learn(params, settings, ranks)
    if not ranks.is_first:
        return {}
    alone, alone_looks = learn(params, settings, ALONE)
    started = set_up(params, Variant(MODE, settings, 0)).student.state_dict()
    return {
        "apart": distance(shared, alone) / distance(started, alone),
        "shared": [look.terms for look in shared_looks],
        "alone": [look.terms for look in alone_looks],
        "norms": [[look.gradient_norm, other.gradient_norm]
                  for look, other in zip(shared_looks, alone_looks, strict=True)],
    }  # fmt: skip


def main() -> None:
    cases, answers = Path(sys.argv[1]), Path(sys.argv[2])
    compute._cpu_is_fast_in_bfloat16 = lambda: False  # whose rounding would hide a difference
    content = load_params().model_dump()
    found = {}
    with joined() as ranks:
        for name, (blocks, settings) in json.loads(cases.read_text()).items():
            changed = deepcopy(content)
            merge(changed, blocks)
            params = Params.model_validate(changed)
            found[name] = compare(params, settings, ranks)
        if ranks.is_first:
            answers.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
