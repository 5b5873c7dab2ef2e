"""Several students at once, a process each with its share of the cores, against one by one."""

import os
import statistics
from contextlib import chdir
from itertools import count
from pathlib import Path

from rows import Row, ratios, row
from teaching import seconds_of, set_up_project, take_turns

from pipeline.compute import choose_compute
from pipeline.params import Params
from pipeline.stages.sweep import TRAINED, trained_ahead
from pipeline.stages.train import train_ahead
from pipeline.variants import Variant

ROUNDS, STEPS = 3, 300


def together(folder: Path, scale: float = 1.0) -> list[Row]:
    """Two students a core. Every process of its own loads torch, and that counts."""
    cores = os.cpu_count() or 1
    with chdir(folder):
        params = set_up_project(scale)
        steps = max(int(STEPS * scale), 2)
        training = params.training.model_copy(update={"steps": steps, "validations": 1})
        params = params.model_copy(update={"training": training})
        device = choose_compute(params.runtime).device
        seeds = count()  # others every time: what has been trained is not trained again

        def students() -> list[Variant]:
            return [Variant("obedient", "plain", next(seeds)) for _ in range(2 * cores)]

        def at_once() -> None:
            for text in trained_ahead(params, students(), cores):
                assert text.endswith(TRAINED), text

        times = take_turns(
            {
                "one by one": lambda: seconds_of(lambda: one_by_one(params, students()), device),
                "at once": lambda: seconds_of(at_once, device),
            },
            ROUNDS if scale == 1 else 1,
        )
    medians = {name: statistics.median(seconds) for name, seconds in times.items()}
    return [
        row(
            f"{2 * cores} students of {steps} steps, {cores} at a time: speed against one by one "
            f"with all cores, {device.type.upper()}",
            ratios(times["one by one"], times["at once"]),
            f"{medians['at once']:.0f} s against {medians['one by one']:.0f} s",
        )
    ]


def one_by_one(params: Params, variants: list[Variant]) -> None:
    for variant in variants:
        train_ahead(params, variant)
