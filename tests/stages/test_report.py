"""The page and the files beside it, made of all findings of five modes and three seeds."""

import csv
import html
import json
import re
import shutil
import statistics
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from caches import cache_spec, make_cache
from click.testing import CliRunner
from findings import make_project

from pipeline.cache.schema import LOGITS, TASK_LOGITS
from pipeline.cli import main
from pipeline.files import digest_file
from pipeline.params import Params, load_params
from pipeline.reporting.cards import make_cards
from pipeline.results import gather_rows
from pipeline.stages.report import report

# What HTML ends by itself.
VOID = {"meta", "br", "img"}


class Balanced(HTMLParser):
    """Every element ends, in its order; no id stands twice."""

    def __init__(self) -> None:
        super().__init__()
        self.opened: list[str] = []
        self.ids: list[str] = []
        self.loads: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.opened.append(tag)
        for name, value in attrs:
            if name == "id" and value:
                self.ids.append(value)
            if name in ("src", "href", "xlink:href", "srcset", "action", "data") and value:
                self.loads.append(value)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.opened.pop() == tag


def read_page(folder: Path) -> str:
    return (folder / "reports/index.html").read_text()


def parsed(page: str) -> Balanced:
    parser = Balanced()
    parser.feed(page)
    parser.close()
    return parser


def table(page: str) -> dict[str, dict[str, str]]:
    """The results by network and head."""
    results = page[page.index('<table id="results">') : page.index("</table>")]
    heads = re.findall(r"<button[^>]*>(.*?)</button>", results)
    lines = [re.findall(r"<td[^>]*>(.*?)</td>", line) for line in results.split("<tr>")[2:]]
    return {line[0]: dict(zip(heads, line, strict=True)) for line in lines}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Params]:
    """A folder with its report: not to be changed."""
    folder = tmp_path_factory.mktemp("made")
    params = make_project(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        report(params)
    return folder, params


@pytest.fixture
def project(made: tuple[Path, Params], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy that a test may change, entered."""
    folder = tmp_path / "project"
    shutil.copytree(made[0], folder)
    monkeypatch.chdir(folder)
    return folder


def test_the_page_is_well_formed_light_and_loads_nothing(made: tuple[Path, Params]) -> None:
    page = read_page(made[0])
    parser = parsed(page)
    assert parser.opened == []
    assert len(set(parser.ids)) == len(parser.ids)
    assert parser.loads, "pictures of the gallery"
    assert all(load.startswith(("data:image/png;base64,", "#")) for load in parser.loads)
    for loading in (
        "@import",
        "url(http",
        "url(//",
        "fetch(",
        "XMLHttpRequest",
        "<link",
        "<iframe",
    ):
        assert loading not in page
    assert len(page) < 1_500_000


def test_every_section_is_there_with_its_pictures(made: tuple[Path, Params]) -> None:
    page = read_page(made[0])
    titles = re.findall(r"<h[23]>(.*?)</h", page)
    assert titles == [
        "Results on the test images", "What the portable network costs", "Training", "Calibration",
        "Corrupted images", "Other data sets", "Likeness to the teacher", "Data efficiency",
        "Stability of training",
        "Gallery", "Where student and teacher differ most surely", "Where they look",
        "The first filters", "Every student", "How to make it again",
    ]  # fmt: skip
    students = 6
    reliability, targets, likeness = students + 1, 2, students
    assert page.count("<svg") == 2 + 4 + reliability + 1 + targets + likeness + 1 + 2 + students


def test_it_is_made_again_by_what_every_project_has(made: tuple[Path, Params]) -> None:
    """One that init began has no Makefile, nor has that of a team which imports caches."""
    page = read_page(made[0])
    again = page[page.index("How to make it again") :]
    assert "dvc repro" in again
    assert "make demo" not in again


def test_the_numbers_of_the_table_are_those_of_the_metrics(made: tuple[Path, Params]) -> None:
    folder, _ = made
    rows = table(read_page(folder))
    metrics = [
        json.loads((folder / f"metrics/obedient-plain-{seed}.json").read_text())
        for seed in range(3)
    ]
    examined = [
        json.loads((folder / f"metrics/examine/obedient-plain-{seed}.json").read_text())
        for seed in range(3)
    ]

    def share(values: list[float]) -> str:
        return f"{100 * statistics.fmean(values):.1f} ± {100 * statistics.stdev(values):.1f} %"

    row = rows["obedient"]
    assert row["test accuracy"] == share([one["test"]["accuracy"] for one in metrics])
    assert row["agrees with the teacher"] == share(
        [one["likeness"]["agreement"] for one in metrics]
    )
    assert row["accuracy on corrupted images"] == share([one["corrupted"] for one in examined])
    briers = [one["test"]["brier"] for one in metrics]
    assert row["Brier score"] == f"{np.mean(briers):.3f} ± {np.std(briers, ddof=1):.3f}"
    assert row["multiply-adds (millions)"] == "15.3"
    assert row["file (MB)"] == "1.12"
    latency = np.median([one["latency_ms"]["1"] for one in metrics])
    assert row["1 image (ms)"] == f"{latency:.2f}"
    assert rows["teacher"]["seeds"] == "-"
    assert rows["teacher"]["parameters"] == "4,652,008"


def test_the_pictures_write_what_was_found(made: tuple[Path, Params]) -> None:
    """Numbers that stand in pictures as text: CKA, and the seeds that train."""
    page = read_page(made[0])
    assert page.count(">0.18<") == 2 * 3, "0.3 x 0.6 at conv1, two teacher taps, three modes"
    assert page.count(">3/3<") == 1 + 3, "one learning rate alone, three with a teacher"
    assert page.count(">0/3<") == 4 + 2


def test_where_evidence_is_missing_its_sections_are_left_out(project: Path) -> None:
    whole = table(read_page(project))
    shutil.rmtree(project / "evidence")
    shutil.rmtree(project / "metrics/examine")
    shutil.rmtree(project / "data")
    for path in (project / "metrics").glob("*.json"):
        content = json.loads(path.read_text())
        for key in ("likeness", "multiply_adds", "bytes"):
            content.pop(key, None)
        del content["test"]["brier"]
        path.write_text(json.dumps(content))
    for path in (project / "students").rglob("norm"):
        shutil.rmtree(path)
    report(load_params())
    page = read_page(project)
    assert parsed(page).opened == []
    assert re.findall(r"<h[23]>(.*?)</h", page) == [
        "Results on the test images", "What the portable network costs", "Training",
        "Every student", "How to make it again",
    ]  # fmt: skip
    heads = set(next(iter(whole.values()))) - set(next(iter(table(page).values())))
    assert heads == {
        "Brier score", "agrees with the teacher", "accuracy on corrupted images",
        "multiply-adds (millions)", "file (MB)",
    }  # fmt: skip


def test_one_network_without_evidence_keeps_the_others(project: Path) -> None:
    for path in (project / "evidence").rglob("adamant-*"):
        path.unlink()
    report(load_params())
    maps = read_page(project).count(">student's tap<")
    assert maps == 5, "a map of likeness for every student but adamant"


def test_a_network_whose_scores_are_elsewhere_is_left_out_with_all_its_evidence(
    project: Path,
) -> None:
    for path in (project / "metrics").glob("adamant-*"):
        path.unlink()
    report(load_params())
    page = read_page(project)
    assert "adamant" not in table(page)
    pictures = "".join(re.findall(r"<svg.*?</svg>", page, re.DOTALL))
    # The mode's own weights are its params', in the one picture that needs no network.
    assert pictures.count(">adamant<") == 1
    assert ">Data efficiency<" in page


def test_the_page_says_how_many_images_were_corrupted_and_not_how_many_were_asked_for(
    project: Path,
) -> None:
    for path in (project / "evidence/examine").glob("*.json"):
        path.write_text(path.read_text().replace('"images": 500', '"images": 40'))
    report(load_params())
    assert "worse. 40 test images with" in " ".join(read_page(project).split())


def test_without_students_there_is_a_page_of_the_teacher_without_empty_sections(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    nobody = {"modes": [], "settings": []}
    groups = ("labels", "logits", "features", "unlabelled")
    report(make_project(tmp_path, sweep={"seeds": [0], **dict.fromkeys(groups, nobody)}))
    page = read_page(tmp_path)
    assert parsed(page).opened == []
    assert "There is no student here yet. The teacher reaches" in page
    assert list(table(page)) == ["teacher"]
    assert ">Training<" not in page
    assert not re.search(r"</h2>\s*(<div[^>]*>\s*</div>\s*)?<h2", page)


def test_broken_evidence_is_told_in_one_line(project: Path) -> None:
    (project / "evidence/evaluate/teacher.json").write_text("{")
    command = CliRunner().invoke(main, ["report"])
    assert command.exit_code == 1
    assert command.output == (
        "error: evidence/evaluate/teacher.json is not JSON: `dvc repro` makes it again\n"
    )


@pytest.mark.parametrize("content", ["{", "[]", '{"test": {}}', '{"test": {"accuracy": {}}}'])
def test_damaged_metrics_are_told_in_one_line(content: str, project: Path) -> None:
    (project / "metrics/obedient-plain-1.json").write_text(content)
    command = CliRunner().invoke(main, ["report"])
    assert command.exit_code == 1
    assert command.output == (
        "error: metrics/obedient-plain-1.json is damaged: run `dvc repro`, or `mentee evaluate`\n"
    )


def test_damaged_findings_of_examine_are_told_in_one_line(project: Path) -> None:
    (project / "metrics/examine/teacher.json").write_text("{")
    command = CliRunner().invoke(main, ["report"])
    assert command.output == (
        "error: metrics/examine/teacher.json is damaged: run `dvc repro`, or `mentee examine`\n"
    )


@pytest.mark.parametrize(
    ("damaged", "content"),
    [
        ("evidence/evaluate/teacher.json", b"[1]"),
        ("evidence/examine/teacher.json", b"\xff\xfe"),
        ("evidence/stability/obedient-0.1-5-0.json", b"3"),
        ("students/obedient-plain-1/live/plots/metrics/validation/accuracy.tsv", b"\0\0\n\0"),
        ("students/obedient-plain-1/live/plots/metrics/norm/gradient.tsv", b"\xff\xfe"),
        ("data/prepared/images.h5", b"\x89HDF"),
        ("data/cache/labelled/task_logits/manifest.json", b"{"),
    ],
)  # fmt: skip
def test_whatever_is_damaged_the_file_is_named_in_one_line(
    damaged: str, content: bytes, project: Path
) -> None:
    (project / damaged).parent.mkdir(parents=True, exist_ok=True)
    (project / damaged).write_bytes(content)
    command = CliRunner().invoke(main, ["report"])
    assert command.exit_code == 1
    assert command.output.startswith(f"error: {damaged} ")
    assert command.output.count("\n") == 1


@pytest.mark.parametrize(
    ("stage", "name", "lacking"),
    [
        ("evaluate", "teacher", ("reliability", "count")),
        ("evaluate", "obedient-plain-0", ("disagreements", 0, "student")),
        ("evaluate", "obedient-plain-0", ("attention", "rows")),
        ("examine", "obedient-plain-0", ("corruptions", "clean")),
        ("examine", "obedient-plain-0", ("corruptions", "jpeg")),
        ("examine", "obedient-plain-0", ("targets", "digits", "taps")),
        ("efficiency", "obedient-plain-10-0", ("test",)),
        ("stability", "obedient-0.1-5-0", ("chance",)),
        ("stability", "obedient-0.1-5-0", ("curve", 0, "gradient_norm")),
    ],
)
def test_evidence_that_lacks_what_the_report_reads_is_named_in_one_line(
    stage: str, name: str, lacking: tuple[str | int, ...], project: Path
) -> None:
    path = Path(f"evidence/{stage}/{name}.json")
    content = part = json.loads(path.read_text())
    for key in lacking[:-1]:
        part = part[key]
    del part[lacking[-1]]
    path.write_text(json.dumps(content))
    command = CliRunner().invoke(main, ["report"])
    assert command.exit_code == 1
    assert command.output == (f"error: {path} is damaged: run `dvc repro`, or `mentee {stage}`\n")


@pytest.mark.parametrize(
    ("stage", "part", "name"),
    [("evaluate", "reliability", "accuracy"), ("examine", "corruptions", "jpeg")],
)
def test_evidence_of_a_seed_that_lacks_a_number_is_named_in_one_line(
    stage: str, part: str, name: str, project: Path
) -> None:
    path = Path(f"evidence/{stage}/obedient-plain-1.json")
    content = json.loads(path.read_text())
    content[part][name].pop()
    path.write_text(json.dumps(content))
    command = CliRunner().invoke(main, ["report"])
    assert command.output == (f"error: {path} is damaged: run `dvc repro`, or `mentee {stage}`\n")


def test_names_of_classes_are_text_and_no_markup(project: Path) -> None:
    for path in (project / "evidence/evaluate").glob("*.json"):
        text = path.read_text().replace('"label": "0"', '"label": "<script>alert(1)</script>"')
        path.write_text(text)
    report(load_params())
    page = read_page(project)
    assert page.count("<script>") == 1
    assert html.escape("<script>alert(1)</script>") in page


def test_the_commands_of_the_cards_train_the_networks_they_stand_for(
    made: tuple[Path, Params],
) -> None:
    folder, params = made
    commands = re.findall(r"mentee train [^\n<]+", read_page(folder))
    names = []
    for command in commands:
        context = main.commands["train"].make_context("train", command.split()[2:])
        names.append("{mode}-{settings}-{seed}".format(**context.params))
    assert names == [variant.name for variant in params.variants()]


def test_a_card_names_the_cache_of_every_teacher_that_the_student_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    both = {
        "settings": {"both": {"teachers": ["here", "lite2"]}},
        "probes": [
            {"teacher": tap, "student": "pooled", "match": "projection"}
            for tap in ("pooled", "lite2/late")
        ],
        "sweep": {"teachers": {"modes": ["obedient"], "settings": ["both"]}},
    }
    params = make_project(tmp_path, **both)
    spec = cache_spec()
    spec["kinds"][TASK_LOGITS] = spec["kinds"].pop(LOGITS)
    make_cache(tmp_path / "data/cache/labelled", spec)
    make_cache(tmp_path / "data/caches/lite2/labelled", spec)
    rows = gather_rows(params, list(params.variants()))
    (card,) = [card for card in make_cards(params, rows) if "both" in card.title]
    caches = [name for name in card.facts if name.startswith("cache ")]
    assert caches == ["cache task_logits", "cache lite2/task_logits", "cache lite2/features/late"]
    assert card.facts["settings both"] == "teachers here and lite2"


def test_a_page_says_of_which_revision_lock_and_versions_it_is(project: Path) -> None:
    def git(*arguments: str) -> str:
        done = subprocess.run(
            ("git", "-c", "user.email=a@example.org", "-c", "user.name=a", *arguments),
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        return done.stdout.strip()

    (project / "dvc.lock").write_text("schema: '2.0'\n")
    git("init", "-q")
    git("add", "params.yaml", "dvc.lock")
    (project / ".gitignore").write_text("*\n")
    git("commit", "-qm", "start")
    (project / "dvc.lock").write_text("schema: '2.0'\nstages: {}\n")
    report(load_params())
    page = read_page(project)
    assert f"git checkout {git('rev-parse', 'HEAD')}" in page
    assert digest_file(Path("dvc.lock")) in page
    assert "not committed" not in page, "DVC changes its lock while it runs"
    assert re.search(r"Python 3\.\d+\.\d+, torch \d", page)
    (project / "params.yaml").write_text((project / "params.yaml").read_text() + "\n")
    report(load_params())
    assert "with changes that were not committed" in read_page(project)


def test_the_files_for_dvc_have_every_network_and_axes(made: tuple[Path, Params]) -> None:
    folder, params = made
    titles = {variant.title for variant in params.variants()} | {"teacher"}
    found = {}
    for name in ("reliability", "corruptions", "transfer", "efficiency", "stability"):
        with open(folder / f"reports/plots/{name}.csv", newline="") as file:
            found[name] = list(csv.DictReader(file))
    assert {line["network"] for line in found["reliability"]} == titles
    assert {line["network"] for line in found["corruptions"]} == titles
    assert {line["network"] for line in found["transfer"]} == titles | {"untrained"}
    assert {line["part"] for line in found["transfer"]} == {
        "digits, 10 labels a class", "digits, all labels a class",
    }  # fmt: skip
    assert {line["network"] for line in found["efficiency"]} == titles - {"teacher"}
    assert {line["labels"] for line in found["efficiency"]} == {"10", "25", "50"}
    assert {line["network"] for line in found["stability"]} == {"independent", "obedient"}
