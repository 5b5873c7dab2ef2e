"""report: every metric in one table and one self-contained page."""

import io
from pathlib import Path

from jinja2 import Environment, PackageLoader, select_autoescape
from rich import box
from rich.console import Console
from rich.table import Table

from pipeline.files import replaced_whole, write_text
from pipeline.params import Params
from pipeline.pictures import accuracy_bars, learning_curves, mode_weights
from pipeline.progress import say
from pipeline.results import Row, gather_rows, headline, here_and_absent, percent, read_curve
from pipeline.variants import Variant

REPORTS = Path("reports")
COLUMNS = (
    "network", "seeds", "test accuracy", "nll (nats)", "calibration error", "parameters",
    "1 image (ms)", "64 images (ms)",
)  # fmt: skip


def report(params: Params) -> None:
    here, absent = here_and_absent(params)
    rows = gather_rows(params, here)
    sentence = headline(rows, params.data.unlabelled, absent)
    text = f"{text_table(rows)}\n{sentence}\n"
    write_text(REPORTS / "results.txt", text)
    curves = write_curves(here)
    used = {variant.mode for variant in params.variants()}
    environment = Environment(
        loader=PackageLoader("pipeline"), autoescape=select_autoescape(), trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    page = environment.get_template("report.html.j2").render(
        headline=sentence,
        params=params,
        columns=COLUMNS,
        rows=[cells(row) for row in rows],
        bars=accuracy_bars(rows),
        curves=learning_curves(curves),
        weights=mode_weights({name: params.modes[name] for name in params.modes if name in used}),
    )
    write_text(REPORTS / "index.html", page)
    say(sentence)
    say(f"{REPORTS / 'results.txt'} and {REPORTS / 'index.html'}")


def cells(row: Row) -> tuple[str, ...]:
    """One line of the table, in the order of COLUMNS."""
    return (
        row.title,
        ", ".join(map(str, row.seeds)) or "-",
        percent(row.mean("test", "accuracy"), row.spread("test", "accuracy")),
        with_spread(row.mean("test", "nll"), row.spread("test", "nll")),
        percent(row.mean("test", "ece"), row.spread("test", "ece")),
        f"{row.parameters:,}",
        f"{row.latency(1):.2f}",
        f"{row.latency(64):.1f}",
    )


def with_spread(mean: float, spread: float | None) -> str:
    return f"{mean:.3f}" + (f" ± {spread:.3f}" if spread is not None else "")


def text_table(rows: list[Row]) -> str:
    table = Table(box=box.SIMPLE_HEAD)
    for number, column in enumerate(COLUMNS):
        table.add_column(column, justify="left" if number == 0 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*cells(row))
    buffer = io.StringIO()
    Console(file=buffer, width=160).print(table)
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines())


def write_curves(variants: list[Variant]) -> dict[str, list[list[tuple[int, float]]]]:
    """Validation accuracy over steps: a CSV a student for `dvc plots`, and all by title."""
    by_title: dict[str, list[list[tuple[int, float]]]] = {}
    with replaced_whole(REPORTS / "curves") as fresh:
        for variant in variants:
            curve = read_curve(variant)
            by_title.setdefault(variant.title, []).append(curve)
            lines = ["step,accuracy", *(f"{step},{value}" for step, value in curve)]
            write_text(fresh / f"{variant.name}.csv", "\n".join(lines) + "\n")
    return by_title
