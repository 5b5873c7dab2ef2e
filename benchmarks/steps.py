"""A step that is taught against a lone one, and the training loop against its bare steps."""

import statistics
from contextlib import chdir
from pathlib import Path

from rows import Row, ratios, row
from teaching import Times, bare_seconds, fit_seconds, set_up_project, take_turns

from pipeline.runs import set_up
from pipeline.variants import Variant

ROUNDS, STEPS = 41, 12  # short and many: a shared machine has good and bad seconds


def steps(folder: Path, scale: float = 1.0) -> list[Row]:
    """All of one student: five convolutions of width 64, batches of 100."""
    with chdir(folder):
        params = set_up_project(scale)
        lone = set_up(params, Variant("independent", "plain", 0))
        taught = set_up(params, Variant("obedient", "plain", 0))
        cut = [probe.model_copy(update={"match": "first_channels"}) for probe in params.probes]
        as_in_the_paper = params.model_copy(update={"probes": cut})
        taught_by_cut = set_up(as_in_the_paper, Variant("obedient", "plain", 0))
        count = max(int(STEPS * scale), 2)
        times = take_turns(
            {
                "lone": lambda: fit_seconds(lone, params, count),
                "taught": lambda: fit_seconds(taught, params, count),
                "taught by cut": lambda: fit_seconds(taught_by_cut, params, count),
                "lone, bare": lambda: bare_seconds(lone, params, count),
                "taught, bare": lambda: bare_seconds(taught, params, count),
            },
            ROUNDS if scale == 1 else 1,
        )
    where = lone.compute.device.type.upper()
    loop = f"the training loop's speed against bare steps on one batch, {where}"
    target = 0.9 if where == "CPU" else 0.85
    taught_step = "time of a step with three probes and KL against a lone one:"
    return [
        against(times, "taught by cut", "lone", count, target=1.05, at_most=True,
                what=f"{taught_step} the paper's cut of channels, {where}"),
        against(times, "taught", "lone", count, target=1.05, at_most=True,
                what=f"{taught_step} learned projections, {where}"),
        speed(times, "lone", count, what=f"{loop}, lone", target=target),
        speed(times, "taught", count, what=f"{loop}, taught", target=target),
    ]  # fmt: skip


def against(times: Times, one: str, other: str, steps: int, what: str, **target: float) -> Row:
    measured = f"{step(times[one], steps)} against {step(times[other], steps)}"
    return row(what, ratios(times[one], times[other]), measured, **target)


def speed(
    times: Times, name: str, steps: int, what: str, target: float | None = None
) -> Row:  # fmt: skip
    bare = times[f"{name}, bare"]
    measured = f"{step(times[name], steps)} against {step(bare, steps)}"
    return row(what, ratios(bare, times[name]), measured, target=target)


def step(seconds: list[float], steps: int) -> str:
    """What a step took in the median round."""
    return f"{statistics.median(seconds) / steps * 1000:.1f} ms a step"
