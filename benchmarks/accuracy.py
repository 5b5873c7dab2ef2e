"""What a teacher is worth by the number of labels: the tables of docs/results.md.

    python benchmarks/accuracy.py --folder work              # every size: hours on two cores
    python benchmarks/accuracy.py --folder work --size 50    # one; what is there already is kept

For every number of labels per class: prepare, dump and head with params.yaml as it stands, then
students of every mode and seed. The regulariser of the lone student is the one that validation
likes best with the first seed; the test split is read to report and never to choose.
"""

import json
import statistics
from contextlib import chdir
from pathlib import Path
from typing import Any

import click
from rows import update_page
from ruamel.yaml import YAML

from pipeline.files import write_json
from pipeline.params import Params, load_params
from pipeline.stages.dump import dump
from pipeline.stages.evaluate import evaluate, evaluate_teacher
from pipeline.stages.head import head
from pipeline.stages.prepare import prepare
from pipeline.stages.train import train
from pipeline.variants import PLAIN, TEACHER, Variant

HERE = Path(__file__).parent
SIZES = (1, 10, 50, 100, 250, 500)
SEEDS = (0, 1, 2)
REGULARISERS = ("dropout", "l1", "l2", "smoothing", "mixup", "cutmix", "early_stopping")
LONE = ("independent", PLAIN)
MENTORED = (
    ("adamant", PLAIN), ("obedient", PLAIN), ("gullible", PLAIN), ("obedient", "unlabelled"),
)  # fmt: skip
COLUMNS = (
    "labels a class", "alone", "alone, regularised", "adamant", "obedient", "gullible",
    "obedient + unlabelled", "teacher",
)  # fmt: skip

Scores = dict[str, dict[str, float]]  # by split: accuracy and the others


@click.command()
@click.option("--folder", type=click.Path(path_type=Path, file_okay=False), required=True,
              help="Where everything is made and kept; some GB.")  # fmt: skip
@click.option("--size", "sizes", type=int, multiple=True, default=SIZES, show_default=True,
              help="Labels per class.")  # fmt: skip
@click.option("--seed", "seeds", type=int, multiple=True, default=SEEDS, show_default=True)
@click.option("--results", type=click.Path(path_type=Path), default=HERE / "accuracy.json",
              help="JSON that keeps the results of all sizes.")  # fmt: skip
@click.option("--page", type=click.Path(path_type=Path), default=HERE.parent / "docs/results.md",
              help="The page whose table is replaced.")  # fmt: skip
def main(
    folder: Path, sizes: tuple[int, ...], seeds: tuple[int, ...], results: Path, page: Path
) -> None:
    """Train and test every student, and write the table."""
    results, page = results.absolute(), page.absolute()
    for size in sizes:
        home = set_up(folder.absolute(), size)
        with chdir(home):
            made = measure(load_params(), seeds)
        known = json.loads(results.read_text()) if results.is_file() else {}
        write_json(results, {**known, str(size): made})
        update_page(page, table(json.loads(results.read_text())))


def set_up(folder: Path, size: int) -> Path:
    """A project for this many labels; downloads, and shards that fit all sizes, are shared."""
    home = folder / f"{size:03}"
    (home / "data").mkdir(parents=True, exist_ok=True)
    for shared, place in ((HERE.parent / "data/raw", "data/raw"), (folder / "scratch", ".work")):
        shared.mkdir(parents=True, exist_ok=True)
        if not (home / place).exists():
            (home / place).symlink_to(shared)
    yaml = YAML()
    content = yaml.load(HERE.parent / "params.yaml")
    content["data"]["labelled_per_class"] = size
    yaml.dump(content, home / "params.yaml")
    return home


def measure(params: Params, seeds: tuple[int, ...]) -> dict[str, Any]:
    """Scores by student and seed, in the folder that this is."""
    if not Path("metrics/teacher.json").exists():
        prepare(params)
        dump(params)
        head(params)
        evaluate_teacher()
    tried = {name: scores_of(params, LONE[0], name, seeds[0]) for name in REGULARISERS}
    best = max(tried, key=lambda name: tried[name]["validation"]["accuracy"])
    students = {}
    for mode, settings in (LONE, (LONE[0], best), *MENTORED):
        title = Variant(mode, settings, 0).title
        students[title] = {seed: scores_of(params, mode, settings, seed) for seed in seeds}
    return {
        "regulariser": best,
        "tried": {name: scores["validation"]["accuracy"] for name, scores in tried.items()},
        "students": students,
        TEACHER: json.loads(Path("metrics/teacher.json").read_text()),
    }


def scores_of(params: Params, mode: str, settings: str, seed: int) -> Scores:
    variant = Variant(mode, settings, seed)
    path = Path("metrics", f"{variant.name}.json")
    if not path.exists():
        train(params, variant)
        evaluate(params, variant)
    scores = json.loads(path.read_text())
    return {split: scores[split] for split in ("validation", "test")}


def table(results: dict[str, Any]) -> str:
    lines = ["| " + " | ".join(COLUMNS) + " |", "| ---: " * len(COLUMNS) + "|"]
    for size in sorted(results, key=int):
        made = results[size]
        cells = [size]
        for title, by_seed in made["students"].items():
            name = f" ({made['regulariser']})" if title.endswith(made["regulariser"]) else ""
            cells.append(spread([scores["test"]["accuracy"] for scores in by_seed.values()]) + name)
        cells.append(f"{100 * made[TEACHER]['test']['accuracy']:.1f}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def spread(values: list[float]) -> str:
    """Mean and standard deviation in percent."""
    mean = f"{100 * statistics.fmean(values):.1f}"
    return f"{mean} ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else mean


if __name__ == "__main__":
    main()
