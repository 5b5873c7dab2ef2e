"""What an answer of a network costs: multiply-adds and milliseconds."""

import statistics
import time
from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode

BATCH_SIZES = (1, 64)
SECONDS = 0.5  # spent on each batch size, at least RUNS runs
RUNS = 5


def multiply_adds(
    answer: Callable[[torch.Tensor], object], input_size: int, device: torch.device
) -> int:
    """Multiplications with an addition that one picture takes in convolutions and products."""
    picture = torch.zeros((1, 3, input_size, input_size), dtype=torch.uint8, device=device)
    with FlopCounterMode(display=False) as counter:
        answer(picture)
    return counter.get_total_flops() // 2  # it counts both


def latency(
    answer: Callable[[torch.Tensor], object], input_size: int, device: torch.device
) -> dict[str, float]:
    """Median milliseconds to answer a batch of random uint8 pictures, by batch size."""
    result = {}
    for size in BATCH_SIZES:
        pictures = torch.randint(
            0, 256, (size, 3, input_size, input_size), dtype=torch.uint8, device=device
        )
        for _ in range(2):
            answer(pictures)
        times: list[float] = []
        while len(times) < RUNS or sum(times) < SECONDS:
            _wait(device)
            start = time.perf_counter()
            answer(pictures)
            _wait(device)
            times.append(time.perf_counter() - start)
        result[str(size)] = round(1000 * statistics.median(times), 3)
    return result


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
