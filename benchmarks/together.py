"""Several students at once, as one or in processes of their own, against one by one."""

import os
import statistics
from contextlib import chdir
from itertools import count
from pathlib import Path

from clock import seconds_of
from rows import Row, ratios, row
from teaching import set_up_project, take_turns

from pipeline.compute import choose_compute
from pipeline.params import Params
from pipeline.stages.sweep import AS_ONE, TRAINED, trained_ahead
from pipeline.stages.train import train_ahead, train_ahead_as_one
from pipeline.variants import Variant

ROUNDS, STEPS = 3, 300


def together(folder: Path, scale: float = 1.0) -> list[Row]:
    """As many as a GPU trains as one by default, or two a core of a CPU.

    Every process of its own loads torch, and that counts.
    """
    cores = os.cpu_count() or 1
    with chdir(folder):
        params = set_up_project(scale)
        steps = max(int(STEPS * scale), 2)
        training = params.training.model_copy(update={"steps": steps, "validations": 1})
        params = params.model_copy(update={"training": training})
        device = choose_compute(params.runtime).device
        on_gpu = device.type == "cuda"
        number = AS_ONE if on_gpu else 2 * cores
        seeds = count()  # others every time: what has been trained is not trained again

        def students() -> list[Variant]:
            return [Variant("obedient", "plain", next(seeds)) for _ in range(number)]

        def as_one() -> None:
            assert not any(train_ahead_as_one(params, students()))

        def in_processes() -> None:
            for text in trained_ahead(params, [[one] for one in students()], cores):
                assert text.endswith(TRAINED), text

        ways = {"as one, in one process": as_one}
        if not on_gpu:
            ways[f"{cores} at a time, a process each"] = in_processes
        works = {"one by one": lambda: one_by_one(params, students()), **ways}
        times = take_turns(
            {way: lambda work=work: seconds_of(work, device) for way, work in works.items()},
            ROUNDS if scale == 1 else 1,
        )
    medians = {way: statistics.median(seconds) for way, seconds in times.items()}
    return [
        row(
            f"{number} students of {steps} steps, {way}: speed against one by one with all that "
            f"is there, {device.type.upper()}",
            ratios(times["one by one"], times[way]),
            f"{medians[way]:.0f} s against {medians['one by one']:.0f} s",
            **({"target": 3.0} if on_gpu else {}),
        )
        for way in ways
    ]


def one_by_one(params: Params, variants: list[Variant]) -> None:
    for variant in variants:
        train_ahead(params, variant)
