"""What it brings on a CPU that this process keeps the memory that it frees, for its next step."""

import multiprocessing
import statistics
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from clock import seconds_of
from rows import Row, ratios, row
from teaching import CLASSES, PARAMS, take_turns

from pipeline import compute
from pipeline.blocks import Runtime
from pipeline.params import load_params
from pipeline.students import Card, Student
from pipeline.teachers import Teacher, load_teacher
from pipeline.training import make_optimizer
from pipeline.views_ahead import BATCH_SIZE

ROUNDS, TIMES = 7, 4
WAYS = ("kept", "given back")
CPU, ON_CPU = torch.device("cpu"), Runtime(device="cpu", threads=0)


def freed(folder: Path, scale: float = 1.0) -> list[Row]:
    """Two processes take turns, one of which gives memory back as the C library does by default."""
    context = multiprocessing.get_context("spawn")
    times, pictures = max(int(TIMES * scale), 1), max(int(BATCH_SIZE * scale), 2)
    rounds = ROUNDS if scale == 1 else 1
    with (
        ProcessPoolExecutor(1, context) as kept,
        ProcessPoolExecutor(1, context, give_back) as given_back,
    ):
        pools = dict(zip(WAYS, (kept, given_back), strict=True))

        def speed(what: str, work: Callable[..., float], *asked: int) -> Row:
            works = {
                name: lambda pool=pool: pool.submit(work, times, *asked).result()
                for name, pool in pools.items()
            }
            seconds = take_turns(works, rounds)
            each = [f"{statistics.median(seconds[name]) / times * 1000:.0f} ms" for name in WAYS]
            return row(
                f"speed where freed memory is kept against the C library's own way, CPU: {what}",
                ratios(seconds["given back"], seconds["kept"]),
                " against ".join(each),
            )

        return [
            *(
                speed(
                    f"{pictures} pictures by the teacher at {size} pixels", answer, pictures, size
                )
                for size in (128, 224)
            ),
            speed("a step of the lone student", learn),
        ]


def give_back() -> None:
    """In this process all is as the C library has it."""
    compute.keep_freed_memory = lambda: None


def answer(times: int, count: int, size: int) -> float:
    """Seconds in which the default teacher answers `count` pictures of that size, so many times."""
    teacher = default_teacher()
    pictures = torch.zeros(count, 3, size, size, dtype=torch.uint8)
    return seconds_of(lambda: repeat(lambda: teacher.answer(pictures), times), CPU)


@cache
def default_teacher() -> Teacher:
    params = load_params(PARAMS)
    return load_teacher(params.teacher, compute.choose_compute(ON_CPU))


def learn(times: int) -> float:
    """Seconds of so many steps of the default student on one batch of black pictures."""
    params = load_params(PARAMS)
    student, optimizer = default_student()
    size = params.student.input_size
    pictures = torch.zeros(params.training.batch_size, 3, size, size, dtype=torch.uint8)
    labels = torch.zeros(len(pictures), dtype=torch.long)
    chosen = compute.choose_compute(ON_CPU)

    def step() -> None:
        with chosen.autocast():
            loss = F.cross_entropy(student(pictures), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return seconds_of(lambda: repeat(step, times), CPU)


@cache
def default_student() -> tuple[Student, torch.optim.Optimizer]:
    params = load_params(PARAMS)
    black = torch.zeros(1, 32, 32, 3, dtype=torch.uint8)
    names = tuple(map(str, range(CLASSES)))
    student = Student(Card.of(params.student, 0.0, names, black, {})).train()
    return student, make_optimizer(student.parameters(), params.training)


def repeat(work: Callable[[], object], times: int) -> None:
    for _ in range(times):
        work()
