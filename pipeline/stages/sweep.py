"""sweep: `dvc repro`, but with several students in training at a time.

DVC trains one student after another, and a small one keeps few cores busy, and a GPU less. So those
that `dvc status` wants trained are first trained up to their last checkpoint: on a CPU each in a
process with its share of the cores, on a GPU those as one that differ in their seed alone. `dvc
repro` then finds the checkpoints, goes on from there, and records what it would have recorded.
"""

import contextlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool

from pipeline.compute import choose_compute
from pipeline.errors import MenteeError
from pipeline.files import explain
from pipeline.params import Params, group_of
from pipeline.progress import say, track
from pipeline.runs import find
from pipeline.stages.train import train_ahead, train_ahead_as_one
from pipeline.threads import own_cores
from pipeline.together import can_share
from pipeline.variants import Variant

TRAINED = "trained"
AS_ONE = 8  # students that train as one on a GPU, unless it is said
GRACE = 5.0  # seconds in which a process that is told to end clears up


def sweep(params: Params, jobs: int | None) -> None:
    """Everything that is out of date; `jobs` students at a time, if None as many as gain by it."""
    dvc("repro", "head")
    on_gpu = choose_compute(params.runtime).device.type == "cuda"
    groups, processes = shared_out(params, out_of_date(params), jobs, on_gpu)
    if groups:
        count, at_a_time = sum(map(len, groups)), processes * max(map(len, groups))
        say(f"{count} students to train, {at_a_time} at a time")
        for text in track(trained_ahead(params, groups, processes), "students", count):
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


def shared_out(
    params: Params, variants: list[Variant], jobs: int | None, on_gpu: bool
) -> tuple[list[list[Variant]], int]:
    """Who trains ahead as one with whom, and how many processes do it; nobody where none gains."""
    if on_gpu:
        return alike(params, variants, jobs or AS_ONE), 1
    processes = min(jobs or own_cores(), len(variants))
    return [[variant] for variant in variants] if processes > 1 else [], processes


def alike(params: Params, variants: list[Variant], at_most: int) -> list[list[Variant]]:
    """Those that can train as one, two to `at_most` of them: they differ in their seed alone."""
    groups: dict[tuple[str, str], list[Variant]] = {}
    for variant in variants:
        mode, settings = find(params, variant)
        probes = params.probes_of(settings) if mode.reads_features else []
        if can_share(settings, probes, params.training, params.student):
            groups.setdefault((variant.mode, variant.settings), []).append(variant)
    parts = [
        group[start : start + at_most]
        for group in groups.values()
        for start in range(0, len(group), at_most)
    ]
    return [part for part in parts if len(part) > 1]


def trained_ahead(params: Params, groups: list[list[Variant]], processes: int) -> Iterable[str]:
    """What became of each student, as they end; one that fails keeps no other from training.

    Those of a group train as one, so many groups at a time.
    """
    threads = max((params.runtime.threads or own_cores()) // processes, 1)
    runtime = params.runtime.model_copy(update={"threads": threads})
    params = params.model_copy(update={"runtime": runtime})
    context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    with ProcessPoolExecutor(processes, context, begin_work) as workers:
        with interrupts_ignored():
            running = {workers.submit(train_quietly, params, group): group for group in groups}
        try:
            for future in as_completed(running):
                for variant, text in zip(running[future], future.result(), strict=True):
                    yield f"{variant.name}: {text}"
        except BaseException as error:  # Ctrl-C too: else all that wait would be trained first
            for worker in multiprocessing.active_children():
                worker.terminate()
            if isinstance(error, BrokenProcessPool):
                raise MenteeError(
                    "a process that trained students was killed, as happens where memory is short: "
                    "run it again with fewer --jobs; what was trained is kept"
                ) from None
            raise


@contextlib.contextmanager
def interrupts_ignored() -> Iterator[None]:
    """Processes that start meanwhile never hear of Ctrl-C, which the first tells them its way."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def begin_work() -> None:
    """A worker ends when it is told to, and when the process that started it is no more.

    It would train on, student after student, and then wait for more for ever.
    """
    parent = multiprocessing.parent_process()
    assert parent, "a worker is somebody's"

    def end_with_parent() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)

    def leave(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the pool says it again: let it clear up
        # What is raised here is lost where a destructor or a callback of C code runs.
        end = threading.Timer(GRACE, os._exit, [1])
        end.daemon = True
        end.start()
        sys.exit(1)

    signal.signal(signal.SIGTERM, leave)
    threading.Thread(target=end_with_parent, daemon=True).start()


def train_quietly(params: Params, group: list[Variant]) -> list[str]:
    """What became of each; without progress, of which several would write over each other."""
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        try:
            if len(group) > 1:
                return [wrong or TRAINED for wrong in train_ahead_as_one(params, group)]
            train_ahead(params, group[0])
        except MenteeError as error:
            return [str(error)] * len(group)
        except OSError as error:
            return [explain(error)] * len(group)
        except SystemExit:  # temporary files are gone, and the pool must not go on to the next
            os._exit(1)
    return [TRAINED]


def dvc(*words: str, captured: bool = False) -> str:
    """Run a command of DVC's in this folder; a MenteeError if it fails, after what it said."""
    command = [sys.executable, "-m", "dvc", *words]
    stdout = subprocess.PIPE if captured else None
    done = subprocess.run(command, stdout=stdout, text=True)
    if done.returncode:
        raise MenteeError(f"`dvc {' '.join(words[:2])}` failed: mend what it says above")
    return done.stdout or ""
