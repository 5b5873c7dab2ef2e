"""What a teacher is worth, on real data: the tables of docs/results.md.

    python benchmarks/accuracy.py --folder work cifar10             # hours on two cores
    python benchmarks/accuracy.py --folder work cifar10 --row 50    # one row: half an hour

Every row is a project of its own under the folder: prepare, dump and head, then students of every
mode and seed. What is there already is kept. The lone student's regulariser is the one that
validation likes best with the first seed; the test split is read to report and never to choose.
"""

import json
import re
import statistics
from contextlib import chdir
from pathlib import Path
from typing import Any

import click
import numpy as np
from experiments import LONE, SEEDS, TABLES, Named, Row, Table
from rows import replace_between
from ruamel.yaml import YAML

from pipeline.cache.schema import TASK_LOGITS
from pipeline.files import write_json, write_text
from pipeline.lessons import CACHE, OTHER_CACHES, open_kind
from pipeline.metrics import score
from pipeline.params import Params, load_params
from pipeline.prepared import PREPARED_FILE, read_split
from pipeline.stages.dump import dump
from pipeline.stages.evaluate import evaluate, evaluate_teacher
from pipeline.stages.finetune import finetune
from pipeline.stages.head import head
from pipeline.stages.prepare import prepare
from pipeline.stages.train import train
from pipeline.variants import TEACHER, Variant

HERE = Path(__file__).parent
SPLITS = ("validation", "test")
REGULARISED = "alone, regularised"

Scores = dict[str, dict[str, float]]  # by split: accuracy, nll and calibration error


@click.command()
@click.argument("names", nargs=-1, required=True, type=click.Choice(list(TABLES)))
@click.option("--folder", type=click.Path(path_type=Path, file_okay=False), required=True,
              help="Where everything is made and kept, some GB; downloads in raw.")  # fmt: skip
@click.option("--row", "wanted", multiple=True,
              help="Only rows of this name, whole or up to its comma.")  # fmt: skip
@click.option("--seed", "seeds", type=int, multiple=True, default=SEEDS, show_default=True)
@click.option("--results", type=click.Path(path_type=Path), default=HERE / "accuracy.json",
              help="JSON that keeps all results.")  # fmt: skip
@click.option("--page", type=click.Path(path_type=Path), default=HERE.parent / "docs/results.md",
              help="The page whose tables are replaced.")  # fmt: skip
@click.option("--params", type=click.Path(path_type=Path), default=HERE.parent / "params.yaml",
              help="What the rows change.")  # fmt: skip
def main(
    names: tuple[str, ...], folder: Path, wanted: tuple[str, ...], seeds: tuple[int, ...],
    results: Path, page: Path, params: Path,
) -> None:  # fmt: skip
    """Train and test every student of the tables NAMES, and write them."""
    results, page, params = results.absolute(), page.absolute(), params.absolute()
    for name in names:
        for row in TABLES[name].rows:
            if wanted and not {row.name, row.name.split(",")[0]}.intersection(wanted):
                continue
            home = set_up(folder.absolute(), name, row, params)
            for teacher, changes in row.others.items():
                own = Row(f"{row.name}, {teacher}", {**row.changes, **changes}, ())
                with chdir(set_up(folder.absolute(), name, own, params)):
                    ask_teacher(load_params())
                    link(Path("data/cache").absolute(), home / OTHER_CACHES / teacher)
            with chdir(home):
                made = measure(load_params(), row, seeds)
            known = json.loads(results.read_text()) if results.is_file() else {}
            known.setdefault(name, {})[row.name] = made
            write_json(results, known)
            update_page(page, name, known[name])


def set_up(folder: Path, table: str, row: Row, params: Path) -> Path:
    """A project for a row; downloads, and shards that fit several rows, are shared."""
    home = folder / f"{table}-{re.sub('[^a-z0-9]+', '-', row.name.lower())}"
    (home / "data").mkdir(parents=True, exist_ok=True)
    for shared, place in ((folder / "raw", "data/raw"), (folder / "scratch", ".work")):
        shared.mkdir(exist_ok=True)
        link(shared, home / place)
    images = TABLES[table].images
    if images and not (folder / "raw" / images).is_dir():
        raise click.ClickException(f"{folder / 'raw' / images} is not here: see docs/results.md")
    yaml = YAML()
    content = yaml.load(params)
    for block, changes in row.changes.items():
        content[block].update(changes)
    yaml.dump(content, home / "params.yaml")
    return home


def link(target: Path, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    if not place.exists():
        place.symlink_to(target)


def ask_teacher(params: Params) -> None:
    """Stage one, in the folder that this is."""
    if not Path("metrics/teacher.json").exists():
        prepare(params)
        finetune(params)
        dump(params)
        head(params)
        evaluate_teacher()


def measure(params: Params, row: Row, seeds: tuple[int, ...]) -> dict[str, Any]:
    """Scores by network and seed, in the folder that this is."""
    ask_teacher(params)
    tried = {name: scores_of(params, (LONE, name), seeds[0]) for name in row.regularisers}
    best = max(tried, key=lambda name: tried[name]["validation"]["accuracy"], default=None)
    networks = {REGULARISED: (LONE, best)} if best else {}
    networks |= {Variant(*named, 0).title: named for named in row.students}
    made = {
        title: {seed: scores_of(params, named, seed) for seed in seeds}
        for title, named in networks.items()
    }
    made[TEACHER] = {0: scores_of_teachers([CACHE, *(OTHER_CACHES / name for name in row.others)])}
    accuracies = {name: scores["validation"]["accuracy"] for name, scores in tried.items()}
    return {"tried": accuracies, "regulariser": best, "networks": made}


def scores_of(params: Params, named: Named, seed: int) -> Scores:
    variant = Variant(*named, seed)
    path = Path("metrics", f"{variant.name}.json")
    if not path.exists():
        train(params, variant)
        evaluate(params, variant)
    scores = json.loads(path.read_text())
    return {split: scores[split] for split in SPLITS}


def scores_of_teachers(caches: list[Path]) -> Scores:
    """Those of the mean of their logits, which is what a student is told."""
    scores = {}
    for split in (read_split(PREPARED_FILE, name) for name in SPLITS):
        logits = [open_kind(cache, split, TASK_LOGITS).view(0) for cache in caches]
        scores[split.name] = score(np.mean(logits, axis=0, dtype=np.float32), split.labels)
    return scores


def update_page(page: Path, name: str, results: dict[str, Any]) -> None:
    text = page.read_text(encoding="utf-8")
    write_text(page, replace_between(text, as_table(TABLES[name], results), name))


def as_table(table: Table, results: dict[str, Any]) -> str:
    """Markdown of what has been measured, in the order of the rows."""
    made = {row.name: results[row.name] for row in table.rows if row.name in results}
    titles = titles_of(table)
    if table.all_scores:
        columns = ["labels a class, head", "network", "accuracy (%)", "nll (nats)",
                   "calibration error (%)"]  # fmt: skip
        lines = [
            [name, title, spread(scores, "accuracy", 100), spread(scores, "nll", 1),
             spread(scores, "ece", 100)]
            for name, content in made.items()
            for title in titles
            if (scores := content["networks"].get(title))
        ]  # fmt: skip
    else:
        columns = ["labels a class", *titles]
        lines = [
            [name, *(cell(content, title) for title in titles)] for name, content in made.items()
        ]
    rule = ["---", *["---:"] * (len(columns) - 1)]
    return "\n".join("| " + " | ".join(line) + " |" for line in (columns, rule, *lines))


def titles_of(table: Table) -> list[str]:
    """What the networks are called, in the order of their columns."""
    named = dict.fromkeys(named for row in table.rows for named in row.students)
    titles = [Variant(*one, 0).title for one in named]
    if any(row.regularisers for row in table.rows):
        titles.insert(0, REGULARISED)
    return [*titles, TEACHER]


def cell(content: dict[str, Any], title: str) -> str:
    if title not in content["networks"]:
        return ""
    text = spread(content["networks"][title], "accuracy", 100)
    if title == REGULARISED:
        text += f" ({content['regulariser']})"
    return text


def spread(scores: dict[str, Scores], score: str, scale: float) -> str:
    """Mean and, over several seeds, standard deviation on the test split."""
    values = [scale * by_split["test"][score] for by_split in scores.values()]
    digits = 1 if scale == 100 else 3
    mean = f"{statistics.fmean(values):.{digits}f}"
    return f"{mean} ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else mean


if __name__ == "__main__":
    main()
