"""How long a network takes to answer."""

import statistics
import time
from collections.abc import Callable

import torch

BATCH_SIZES = (1, 64)
SECONDS = 0.5  # spent on each batch size, at least RUNS runs
RUNS = 5


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
