"""sweep: `dvc repro`, but with several students in training at a time.

DVC trains one student after another, and on a CPU a small student keeps few cores busy. So those
that `dvc status` wants trained are first trained up to their last checkpoint, each in a process
with its share of the cores; `dvc repro` then finds the checkpoints, goes on from there, and
records what it would have recorded.
"""

import contextlib
import json
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed

from pipeline.errors import MenteeError
from pipeline.params import Params, group_of
from pipeline.progress import say, track
from pipeline.stages.train import find, train_ahead
from pipeline.variants import Variant

TRAINED = "trained"


def sweep(params: Params, jobs: int | None) -> None:
    """Everything that is out of date; `jobs` students at a time, as many as cores if None."""
    jobs = jobs or os.cpu_count() or 1
    dvc("repro", "head")
    wanted = out_of_date(params)
    jobs = min(jobs, len(wanted))
    if jobs > 1:
        say(f"{len(wanted)} students to train, {jobs} at a time")
        for text in track(trained_ahead(params, wanted, jobs), "students", len(wanted)):
            say(text)
    dvc("repro")


def out_of_date(params: Params) -> list[Variant]:
    """The students of the sweep that `dvc repro` would train."""
    stages = {
        f"train-{group_of(*find(params, variant))}@{variant.name}": variant
        for variant in params.variants()
    }
    if not stages:
        return []
    changed = json.loads(dvc("status", "--json", *stages, captured=True))
    return [variant for stage, variant in stages.items() if stage in changed]


def trained_ahead(params: Params, variants: list[Variant], jobs: int) -> Iterable[str]:
    """What became of each student, as they end; one that fails keeps no other from training."""
    threads = max((params.runtime.threads or os.cpu_count() or 1) // jobs, 1)
    runtime = params.runtime.model_copy(update={"threads": threads})
    params = params.model_copy(update={"runtime": runtime})
    context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    with ProcessPoolExecutor(jobs, context) as workers:
        running = {workers.submit(train_quietly, params, variant): variant for variant in variants}
        for future in as_completed(running):
            yield f"{running[future].name}: {future.result()}"


def train_quietly(params: Params, variant: Variant) -> str:
    """What became of it; without progress, of which several would write over each other."""
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        try:
            train_ahead(params, variant)
        except MenteeError as error:
            return str(error)
    return TRAINED


def dvc(*words: str, captured: bool = False) -> str:
    """Run a command of DVC's in this folder; a MenteeError if it fails, after what it said."""
    command = [sys.executable, "-m", "dvc", *words]
    stdout = subprocess.PIPE if captured else None
    done = subprocess.run(command, stdout=stdout, text=True)
    if done.returncode:
        raise MenteeError(f"`dvc {' '.join(words[:2])}` failed: mend what it says above")
    return done.stdout or ""
