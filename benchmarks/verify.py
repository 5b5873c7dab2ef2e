"""How fast a cache is verified."""

import time
from pathlib import Path

from answers import SHAPES, drop, files, write_large_kind
from rows import Row, ratios, row

from pipeline.cache import schema
from pipeline.cache.verify import verify_kind

ROUNDS = 7
BYTES = 512 << 20


def verify(folder: Path, scale: float = 1.0) -> list[Row]:
    """`mentee cache verify` against reading the same files and doing nothing with them."""
    length = write_large_kind(folder, SHAPES["4 KB"], int(BYTES * scale))
    manifest = schema.read_manifest(folder)
    made = []
    for state, target in (("from the disk", 0.5), ("from memory", None)):
        plain, checked = [], []
        for number in range(ROUNDS + 1):
            for times, act in ((plain, lambda: read_plainly(folder)),
                               (checked, lambda: list(verify_kind(folder, manifest)))):  # fmt: skip
                if target:
                    drop(folder)
                start = time.perf_counter()
                found = act()
                if number:
                    times.append(time.perf_counter() - start)
                assert not found
        rates = [f"{length / sorted(times)[ROUNDS // 2] / 1e6:,.0f} MB/s"
                 for times in (checked, plain)]  # fmt: skip
        what = f"speed of verify against plain reading, {state}"
        measured = f"{rates[0]} against {rates[1]}"
        made.append(row(what, ratios(plain, checked), measured, target=target))
    return made


def read_plainly(folder: Path) -> None:
    block = bytearray(1 << 20)
    for path in files(folder):
        with open(path, "rb", buffering=0) as file:
            while file.readinto(block):
                pass
