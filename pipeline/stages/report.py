"""report: every metric and all evidence in one table and one self-contained page."""

from pathlib import Path

from jinja2 import Environment, PackageLoader

from pipeline.files import replaced_whole, write_json, write_text
from pipeline.params import Params
from pipeline.pictures.style import looks
from pipeline.pictures.training import Curve, small_curve
from pipeline.progress import say
from pipeline.reporting.album import draw
from pipeline.reporting.cards import make_cards
from pipeline.reporting.evidence import read_attempts, untrained
from pipeline.reporting.headline import headline, numbers, portable
from pipeline.reporting.origin import find_origin
from pipeline.reporting.plots import write_plots
from pipeline.reporting.showcase import make_gallery
from pipeline.reporting.table import cells, columns, text_table
from pipeline.results import gather_rows, here_and_absent, read_curve
from pipeline.variants import Variant

REPORTS = Path("reports")


def report(params: Params) -> None:
    """Write index.html, results.txt and the tables of `dvc plots` to REPORTS; runs no network."""
    here, absent = here_and_absent(params)
    rows = gather_rows(params, here)
    sentence = headline(rows, params.data.unlabelled, absent)
    write_text(REPORTS / "results.txt", f"{text_table(rows)}\n{sentence}\n")
    write_json(REPORTS / "headline.json", numbers(rows))
    curves = write_curves(here)
    attempts = read_attempts(params)
    examined = [*rows, untrained(params)]
    write_plots(REPORTS / "plots", params, examined, attempts)

    shown, look = columns(rows), looks(rows)
    environment = Environment(
        loader=PackageLoader("pipeline"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["unbroken"] = unbroken
    page = environment.get_template("report.html.j2").render(
        headline=sentence,
        portable=portable(rows),
        params=params,
        heads=["network", *(column.head for column in shown)],
        lines=[cells(row, shown) for row in rows],
        album=draw(params, rows, curves, attempts),
        gallery=make_gallery(rows),
        cards=[
            (card, small_curve(curves[card.title], look[card.title]))
            for card in make_cards(params, rows)
        ],
        origin=find_origin(),
    )
    write_text(REPORTS / "index.html", page)
    say(sentence)
    say(f"{REPORTS / 'results.txt'} and {REPORTS / 'index.html'}")


def unbroken(text: str) -> str:
    """No line ends between a number and its unit or spread."""
    return text.replace(" ± ", "\u00a0±\u00a0").replace(" %", "\u00a0%")


def write_curves(variants: list[Variant]) -> dict[str, list[Curve]]:
    """Validation accuracy over steps: a CSV a student for `dvc plots`, and all by title."""
    by_title: dict[str, list[Curve]] = {}
    with replaced_whole(REPORTS / "curves") as fresh:
        for variant in variants:
            curve = read_curve(variant)
            by_title.setdefault(variant.title, []).append(curve)
            lines = ["step,accuracy", *(f"{step},{value}" for step, value in curve)]
            write_text(fresh / f"{variant.name}.csv", "\n".join(lines) + "\n")
    return by_title
