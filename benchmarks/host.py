"""What a step takes beside its arithmetic: so long a GPU waits that is fast enough."""

from contextlib import chdir
from pathlib import Path

from rows import Row
from steps import speed
from teaching import bare_seconds, fit_seconds, set_up_project, take_turns

from pipeline.runs import set_up
from pipeline.variants import Variant

ROUNDS, STEPS = 41, 100
MODES = {"lone": "independent", "taught": "obedient"}


def host(folder: Path, scale: float = 1.0) -> list[Row]:
    """Of a student so small, and batches of so few, that hardly anything is computed."""
    with chdir(folder):
        params = set_up_project(scale)
        params = params.model_copy(update={
            "student": params.student.model_copy(update={"width": 2}),
            "training": params.training.model_copy(update={"batch_size": 4}),
        })  # fmt: skip
        count = max(int(STEPS * scale), 2)
        works = {}
        for name, mode in MODES.items():
            run = set_up(params, Variant(mode, "plain", 0))
            works[name] = lambda run=run: fit_seconds(run, params, count)
            works[f"{name}, bare"] = lambda run=run: bare_seconds(run, params, count)
        times = take_turns(works, ROUNDS if scale == 1 else 1)
    where = run.compute.device.type.upper()
    loop = f"the training loop's speed against bare steps of next to no arithmetic, {where}"
    return [speed(times, name, count, what=f"{loop}, {name}") for name in MODES]
