"""The command line that all tables of docs/benchmarks.md share.

Each measurement is a function in a module of its name and runs in a process of its own, one after
another. What is compared takes turns in that process, so that noise hits all sides; a ratio is the
median over rounds.
"""

import importlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import click

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs/benchmarks.md"


def command(script: str, table: str, measurements: dict[str, int]) -> click.Command:
    """The command of the script benchmarks/<script>.py.

    table: the marker in the page; measurements: by name the threads that each may use, or fewer
    where OMP_NUM_THREADS says so.
    """

    @click.command()
    @click.argument("names", nargs=-1, type=click.Choice(list(measurements)))
    @click.option("--results", type=click.Path(path_type=Path), default=HERE / f"{script}.json",
                  help="JSON that keeps every measurement's last results.")  # fmt: skip
    @click.option("--page", type=click.Path(path_type=Path), default=PAGE,
                  help="The page whose table is replaced.")  # fmt: skip
    @click.option("--folder", type=click.Path(path_type=Path, file_okay=False, exists=True),
                  help="Where files are made; some GB on the disk to be measured.")  # fmt: skip
    @click.option("--scale", type=float, default=1.0, help="Share of the full sizes, to try it.")
    @click.option("--here", is_flag=True, hidden=True, help="In this process.")
    def main(
        names: tuple[str, ...], results: Path, page: Path, folder: Path | None, scale: float,
        here: bool,
    ) -> None:  # fmt: skip
        """Measure NAMES, or everything, and write the table."""
        for name in names or measurements:
            if here:
                measure_here(name, results, folder, scale)
            else:
                measure_alone(script, name, measurements[name], results, folder, scale)
        if not here:
            from rows import load, table_of, update_page

            text = table_of(load(results), list(measurements))
            click.echo(text)
            update_page(page, text, table)

    return main


def measure_alone(
    script: str, name: str, threads: int, results: Path, folder: Path | None, scale: float
) -> None:
    busy = os.getloadavg()[0]
    click.echo(f"{name} ..." + (f" (others are busy, load {busy:.1f})" if busy > 0.7 else ""))
    threads = min(threads, int(os.environ.get("OMP_NUM_THREADS", threads)))
    words = [sys.executable, HERE / f"{script}.py", name, "--here", "--results", results]
    words += ["--scale", scale, *(["--folder", folder] if folder else [])]
    subprocess.run([str(word) for word in words], check=True,
                   env={**os.environ, "OMP_NUM_THREADS": str(threads)})  # fmt: skip


def measure_here(name: str, results: Path, folder: Path | None, scale: float) -> None:
    from rows import load, save

    measure = getattr(importlib.import_module(name), name)
    with tempfile.TemporaryDirectory(dir=folder, prefix="mentee-benchmark-") as made:
        save(results, load(results), name, measure(Path(made), scale))
