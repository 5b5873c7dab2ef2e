"""What a finished project found beyond accuracy, as the pictures and the table of docs/results.md.

    python benchmarks/evidence.py PROJECT

PROJECT is a folder in which `dvc repro` has run, with three seeds under sweep and modes under
stability. How accuracy grows with labels comes from benchmarks/accuracy.json.
"""

import json
from contextlib import chdir
from pathlib import Path
from typing import Any

import click
import numpy as np
from accuracy import REGULARISED, titles_of
from experiments import LONE, TABLES
from rows import replace_between
from sheets import sheets

from pipeline.files import write_text
from pipeline.params import Params, load_params
from pipeline.pictures.beyond import cka_map, corrupted, transferred, with_labels
from pipeline.pictures.scores import cost, reliability_diagram
from pipeline.pictures.stability import shares_map
from pipeline.pictures.style import looks
from pipeline.pictures.training import over_steps
from pipeline.reporting import series
from pipeline.reporting.evidence import found, read_attempts, untrained
from pipeline.reporting.showcase import make_gallery
from pipeline.results import Row, gather_rows, here_and_absent
from pipeline.variants import TEACHER

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs/results.md"
PICTURES = HERE.parent / "docs/pictures"
RESULTS = HERE / "accuracy.json"


@click.command()
@click.argument("project", type=click.Path(path_type=Path, exists=True, file_okay=False))
def main(project: Path) -> None:
    """Draw what PROJECT found, and write its table."""
    page, pictures = PAGE.absolute(), PICTURES.absolute()
    by_labels = json.loads(RESULTS.read_text())["cifar10"]
    with chdir(project):
        made, table = gather()
    made["data-efficiency"] = efficiency(by_labels)
    for name, picture in made.items():
        alone = '<svg style="font-family: sans-serif; background: white" '
        write_text(pictures / f"{name}.svg", picture.replace("<svg ", alone, 1))
    write_text(page, replace_between(page.read_text(encoding="utf-8"), table, "evidence"))


def gather() -> tuple[dict[str, str], str]:
    """Pictures by name, and the table, of the project that this folder is."""
    params = load_params()
    here, _ = here_and_absent(params)
    rows = gather_rows(params, here)
    everyone = [*rows, untrained(params)]
    look = looks(everyone)
    pictures = {"corruptions": corrupted(series.corruptions(rows), look)}
    for (target, budget), networks in series.transfer(everyone).items():
        heading = f"{target}, {budget} labels a class"
        pictures[f"transfer-{target}-{budget}"] = transferred(heading, networks, look)
    for target, networks in series.retrained(everyone).items():
        heading = f"{target}, the rest trained again"
        pictures[f"retrained-{target}"] = transferred(heading, networks, look)
    for title, content in series.likeness(rows).items():
        pictures[f"likeness-{title.replace(' + ', '-')}"] = cka_map(title, *content)
    errors = {row.title: row.mean("test", "ece") for row in rows}
    for title, bins in series.reliability(rows).items():
        picture = reliability_diagram(title, bins, errors[title], look[title].colour)
        pictures[f"reliability-{title.replace(' + ', '-')}"] = picture
    for what in ("gradient", "weights"):
        norms = series.norms(rows, what)
        pictures[f"norm-{what}"] = over_steps(
            norms, look, f"norm of the {what}", log=what == "gradient"
        )
    pictures["cost"] = cost(rows, look)
    if gallery := make_gallery(rows):
        pictures |= sheets(gallery)
    attempts = read_attempts(params)
    if shares := series.shares_that_train(attempts, params.stability.trains_at):
        pictures["stability"] = shares_map(shares)
    return pictures, as_table(params, everyone)


def as_table(params: Params, rows: list[Row]) -> str:
    columns = [
        (target, "all" if count is None else str(count))
        for target in params.examine.targets
        for count in params.examine.per_class
    ]
    head = ["network", "Brier score", "agrees with the teacher (%)", "kl to the teacher (nats)",
            "corrupted images (%)",
            *(f"{target}, {budget} labels a class (%)" for target, budget in columns)]  # fmt: skip
    lines = [head, ["---", *["---:"] * (len(head) - 1)]]
    for row in rows:
        targets = found(row, "examine", "targets").values()
        heads = [
            [100 * np.mean(list(one[target]["taps"].values())[-1][budget]) for one in targets]
            for target, budget in columns
        ]
        corruptions = [
            100 * np.mean([one[name] for name in series.CORRUPTIONS])
            for one in found(row, "examine", "corruptions").values()
        ]
        lines.append([
            row.title,
            text(row.values("test", "brier"), 3),
            text([100 * share for share in row.values("likeness", "agreement")], 1),
            text(row.values("likeness", "kl"), 3),
            text(corruptions, 1),
            *(text(values, 1) for values in heads),
        ])  # fmt: skip
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def text(values: list[float], digits: int) -> str:
    """Mean and, over several seeds, standard deviation."""
    if not values:
        return ""
    mean = f"{np.mean(values):.{digits}f}"
    return f"{mean} ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else mean


def efficiency(by_labels: dict[str, Any]) -> str:
    """The first table as a picture."""
    titles = titles_of(TABLES["cifar10"])
    lone = [title for title in titles if title in (LONE, REGULARISED)]
    look = looks([Row(title, "labels" if title in lone else "features", (), (), ())
                  for title in titles if title != TEACHER])  # fmt: skip
    sizes = sorted(map(int, by_labels))
    networks = {
        title: {
            size: [scores["test"]["accuracy"] for scores in made[title].values()]
            for size in sizes
            if title in (made := by_labels[str(size)]["networks"])
        }
        for title in titles
    }
    return with_labels(networks, look)


if __name__ == "__main__":
    main()
