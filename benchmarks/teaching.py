"""A small project to time training in: random images, the default teacher's true answers."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from clock import seconds_of
from writing import random_split

from pipeline.blocks import Probe
from pipeline.params import Params, load_params
from pipeline.prepared import PREPARED_FILE, write_prepared
from pipeline.runs import Run
from pipeline.stages.dump import dump
from pipeline.stages.head import head
from pipeline.training import make_optimizer

PARAMS = Path(__file__).parent.parent / "params.yaml"
IMAGES, VIEWS, CLASSES = 2000, 2, 10
PROBES = [
    Probe(teacher=there, student=here, match="projection")
    for there, here in (("middle", "conv4"), ("middle", "conv5"), ("pooled", "pooled"))
]


def set_up_project(scale: float) -> Params:
    """Prepare, dump and head in the current folder; three probes and KL are asked for.

    The labels are random, so that what is learned means nothing; what it costs is the same.
    """
    params = load_params(PARAMS)
    images = max(int(IMAGES * scale), 100)
    params = params.model_copy(update={
        "views": params.views.model_copy(update={"labelled": VIEWS}),
        "probes": PROBES,
    })  # fmt: skip
    counts = {"labelled": images, "unlabelled": 0, "validation": 50, "test": 50}
    splits = [random_split(name, count, params, CLASSES) for name, count in counts.items()]
    write_prepared(PREPARED_FILE, splits)
    dump(params)
    head(params)
    return params


def fit_seconds(run: Run, params: Params, steps: int) -> float:
    """Seconds of `steps` steps of the training loop, validation looked at once."""
    training = params.training.model_copy(update={"steps": steps, "validations": 1})
    return seconds_of(lambda: run.go(training, lambda look: None), run.compute.device)


def bare_seconds(run: Run, params: Params, steps: int) -> float:
    """Seconds of `steps` steps on one batch that lies on the device, and nothing besides."""
    student, objective = run.student, run.objective
    optimizer = make_optimizer([*student.parameters(), *objective.parameters()], params.training)
    batch = run.mixture.next(0.5)
    student.train()

    def step_again() -> None:
        with student.tapped({pair.student for pair in objective.pairs}) as features:
            for _ in range(steps):
                with run.compute.autocast():
                    logits = student(batch.pictures)
                    terms = objective(batch, logits, features, 0.5)
                optimizer.zero_grad()
                sum(terms.values()).backward()
                optimizer.step()

    return seconds_of(step_again, run.compute.device)


Times = dict[str, list[float]]


def take_turns(works: dict[str, Callable[[], float]], rounds: int) -> Times:
    """Seconds of each in every round but the first, which warms up; in another order each time."""
    generator = np.random.default_rng(0)
    times: Times = {name: [] for name in works}
    for number in range(rounds + 1):
        for name in generator.permutation(list(works)):
            seconds = works[name]()
            if number:
                times[name].append(seconds)
    return times
