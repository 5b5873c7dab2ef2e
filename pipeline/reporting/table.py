"""The table of results: what its columns are, as a page that sorts and as text."""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console
from rich.table import Table

from pipeline.reporting.headline import ACCURACY, LONE, difference
from pipeline.reporting.wording import NONE, percent, points, with_spread
from pipeline.results import Row, best


@dataclass(frozen=True)
class Column:
    """How a row's number is found, and how it is written."""

    head: str
    number: Callable[[Row], float | None]
    write: Callable[[Row], str]


@dataclass(frozen=True)
class Cell:
    text: str
    number: float | None  # what it is sorted by; None: a text, or a number that is not there


def shares(head: str, *keys: str) -> Column:
    return Column(head, lambda row: row.mean(*keys),
                  lambda row: percent(row.mean(*keys), row.spread(*keys)))  # fmt: skip


def scores(head: str, *keys: str) -> Column:
    return Column(head, lambda row: row.mean(*keys),
                  lambda row: with_spread(row.mean(*keys), row.spread(*keys), 3))  # fmt: skip


def sizes(head: str, *keys: str, unit: float = 1, form: str = ",.0f") -> Column:
    def number(row: Row) -> float | None:
        size = row.mean(*keys)
        return None if size is None else size / unit

    def write(row: Row) -> str:
        size = number(row)
        return NONE if size is None else format(size, form)

    return Column(head, number, write)


def latencies(head: str, batch: int, form: str) -> Column:
    return Column(head, lambda row: row.latency(batch),
                  lambda row: format(row.latency(batch), form))  # fmt: skip


SEEDS = Column("seeds", lambda row: len(row.seeds) or None,
               lambda row: ", ".join(map(str, row.seeds)) or NONE)  # fmt: skip
TEST_ACCURACY = shares("test accuracy", *ACCURACY)
NLL = scores("nll (nats)", "test", "nll")
CALIBRATION = shares("calibration error", "test", "ece")
PARAMETERS = sizes("parameters", "parameters")
ONE_IMAGE = latencies("1 image (ms)", 1, ".2f")
MANY_IMAGES = latencies("64 images (ms)", 64, ".1f")
BRIEF = (SEEDS, TEST_ACCURACY, NLL, CALIBRATION, PARAMETERS, ONE_IMAGE, MANY_IMAGES)


def columns(rows: Sequence[Row]) -> list[Column]:
    """All columns of the page; one that no row has a number for is left out."""
    lone = best(rows, LONE)
    every = [
        SEEDS,
        TEST_ACCURACY,
        *([gains(lone)] if lone else []),
        NLL,
        scores("Brier score", "test", "brier"),
        CALIBRATION,
        shares("agrees with the teacher", "likeness", "agreement"),
        shares("accuracy on corrupted images", "examine", "corrupted"),
        PARAMETERS,
        sizes("multiply-adds (millions)", "multiply_adds", unit=1e6, form=",.1f"),
        sizes("file (MB)", "bytes", unit=1e6, form=".2f"),
        ONE_IMAGE,
        MANY_IMAGES,
    ]
    return [column for column in every if any(column.number(row) is not None for row in rows)]


def gains(lone: Row) -> Column:
    """The difference to the best lone student, with its judgement."""

    def number(row: Row) -> float | None:
        gain = None if row is lone else difference(row, lone, *ACCURACY)
        return gain.mean if gain else None

    def write(row: Row) -> str:
        gain = None if row is lone else difference(row, lone, *ACCURACY)
        return points(gain) if gain else NONE

    return Column(f"difference to {lone.title} (points)", number, write)


def cells(row: Row, columns: Sequence[Column]) -> list[Cell]:
    """One line of the table: the network, then these columns."""
    return [
        Cell(row.title, None),
        *(Cell(column.write(row), column.number(row)) for column in columns),
    ]


def text_table(rows: Sequence[Row]) -> str:
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("network", no_wrap=True)
    for column in BRIEF:
        table.add_column(column.head, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*(cell.text for cell in cells(row, BRIEF)))
    buffer = io.StringIO()
    # Wide enough for all: rich cuts numbers off where names are long or seeds many.
    Console(file=buffer, width=10_000).print(table)
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines())
