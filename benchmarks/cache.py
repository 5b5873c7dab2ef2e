"""What the cache costs and saves, measured here: the table of docs/benchmarks.md.

    python benchmarks/cache.py                  # everything, some minutes; be alone on the machine
    python benchmarks/cache.py gather verify    # these, the others as they were measured last

Each measurement runs in a process of its own, one after another. What is compared takes turns in
that process, so that noise hits all sides; a ratio is the median over rounds.
"""

import importlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import click

HERE = Path(__file__).parent
# The function of each stands in the module of its name. With the threads that it may use.
MEASUREMENTS = {"gather": 1, "memory": 1, "writing": os.cpu_count() or 1, "size": 1, "verify": 1}


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(list(MEASUREMENTS)))
@click.option("--results", type=click.Path(path_type=Path), default=HERE / "cache.json",
              help="JSON that keeps every measurement's last results.")  # fmt: skip
@click.option("--page", type=click.Path(path_type=Path),
              default=HERE.parent / "docs/benchmarks.md",
              help="The page whose table is replaced.")  # fmt: skip
@click.option("--folder", type=click.Path(path_type=Path, file_okay=False, exists=True),
              help="Where caches are made; 6 GB on the disk to be measured.")  # fmt: skip
@click.option("--scale", type=float, default=1.0, help="Share of the full sizes, to try it out.")
@click.option("--here", is_flag=True, hidden=True, help="In this process.")
def main(
    names: tuple[str, ...], results: Path, page: Path, folder: Path | None, scale: float, here: bool
) -> None:
    """Measure NAMES, or everything, and write the table."""
    for name in names or MEASUREMENTS:
        (measure_here if here else measure_alone)(name, results, folder, scale)
    if not here:
        from rows import load, table, update_page

        text = table(load(results), list(MEASUREMENTS))
        click.echo(text)
        update_page(page, text)


def measure_alone(name: str, results: Path, folder: Path | None, scale: float) -> None:
    busy = os.getloadavg()[0]
    click.echo(f"{name} ..." + (f" (others are busy, load {busy:.1f})" if busy > 0.7 else ""))
    command = [sys.executable, __file__, name, "--here", "--results", results, "--scale", scale]
    command += ["--folder", folder] if folder else []
    threads = str(MEASUREMENTS[name])
    subprocess.run([str(word) for word in command], check=True,
                   env={**os.environ, "OMP_NUM_THREADS": threads})  # fmt: skip


def measure_here(name: str, results: Path, folder: Path | None, scale: float) -> None:
    from rows import load, save

    measure = getattr(importlib.import_module(name), name)
    with tempfile.TemporaryDirectory(dir=folder, prefix="mentee-benchmark-") as made:
        save(results, load(results), name, measure(Path(made), scale))


if __name__ == "__main__":
    main()
