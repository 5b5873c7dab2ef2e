"""The benchmarks at a tiny size: they run and fill the table. Nothing here depends on time."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from projects import REPOSITORY, TINY, edit_params

from pipeline.params import load_params

BENCHMARKS = REPOSITORY / "benchmarks"


@pytest.fixture(autouse=True)
def beside_the_benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)


@pytest.mark.parametrize(
    ("script", "name", "ratios"),
    [
        ("cache", "gather", 7), ("cache", "memory", 2), ("cache", "size", 4),
        ("cache", "verify", 2), ("cache", "writing", 1),
        ("train", "steps", 4), ("train", "host", 2), ("train", "epochs", 1),
        ("train", "together", 1), ("train", "freed", 3), ("train", "fitting", 2),
        ("train", "crowded", 2),
    ],
)  # fmt: skip
def test_a_measurement_runs_and_its_rows_stand_in_the_page(
    tmp_path: Path, script: str, name: str, ratios: int
) -> None:
    page, results = tmp_path / "page.md", tmp_path / "results.json"
    page.write_text(f"Before.\n<!-- {script}: begin -->\nold\n<!-- {script}: end -->\nAfter.\n")
    command = [sys.executable, BENCHMARKS / f"{script}.py", name, "--scale", "0.01"]
    command += ["--results", results, "--page", page, "--folder", tmp_path]
    done = subprocess.run(command, cwd=REPOSITORY, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    rows = json.loads(results.read_text())[name]["rows"]
    assert len(rows) >= ratios  # some more where torchdistill is installed
    assert all(row["low"] <= row["ratio"] <= row["high"] for row in rows)
    text = page.read_text()
    assert text.startswith("Before.\n") and text.endswith("\nAfter.\n") and "old" not in text
    assert all(row["what"] in text for row in rows)
    assert sorted(tmp_path.iterdir()) == [page, results], "nothing else is left behind"


def test_the_table_says_what_falls_short(tmp_path: Path) -> None:
    from rows import load, replace_between, row, save, table_of

    results = tmp_path / "results.json"
    made = [
        row("fast", [2.0, 3.0, 1.0], "1 s against 2 s", target=1.5),
        row("large", [0.5], "1 byte against 2", target=0.3, at_most=True),
        row("shown", [123.4], "no promise"),
    ]
    save(results, load(results), "some", made)
    text = table_of(load(results), ["other", "some"])
    assert "| fast | 2.00 | 1.00 to 3.00 | ≥ 1.50 | yes | 1 s against 2 s |" in text
    assert "| large | 0.50 | 0.50 to 0.50 | ≤ 0.30 | **no** | 1 byte against 2 |" in text
    assert "| shown | 123 | 123 to 123 |  |  | no promise |" in text

    page = "<!-- cache: begin -->\n<!-- cache: end -->"
    once = replace_between(page, text, "cache")
    assert replace_between(once, text, "cache") == once
    with pytest.raises(ValueError, match="lacks"):
        replace_between("no markers", text, "cache")


def test_the_results_are_made_by_the_pipeline_itself_and_stand_in_the_page(tmp_path: Path) -> None:
    """One row of every student, on digits; a second run trains nothing again."""
    page, results, params = (tmp_path / name for name in ("page.md", "some.json", "params.yaml"))
    page.write_text("Before.\n<!-- cifar10: begin -->\nold\n<!-- cifar10: end -->\nAfter.\n")
    shutil.copy(REPOSITORY / "params.yaml", params)
    edit_params(params, TINY)
    command = [sys.executable, BENCHMARKS / "accuracy.py", "cifar10", "--row", "10", "--seed", "0"]
    command += ["--folder", tmp_path / "work", "--results", results, "--page", page]
    command += ["--params", params]
    printed = []
    for _ in range(2):
        done = subprocess.run(command, cwd=REPOSITORY, text=True, capture_output=True)
        assert done.returncode == 0, done.stderr
        printed.append(done.stdout)
    assert "parameters on CPU" in printed[0] and printed[1] == ""
    made = json.loads(results.read_text())["cifar10"]["10"]
    scores = json.loads((tmp_path / "work/cifar10-10/metrics/obedient-plain-0.json").read_text())
    assert made["networks"]["obedient"]["0"]["test"] == scores["test"]
    best = made["regulariser"]
    assert made["tried"][best] == max(made["tried"].values())
    accuracy = f"{100 * scores['test']['accuracy']:.1f}"
    (line,) = [line for line in page.read_text().splitlines() if line.startswith("| 10 |")]
    teacher = f"{100 * made['networks']['teacher']['0']['test']['accuracy']:.1f}"
    assert accuracy in line and f"({best})" in line and line.endswith(f"| {teacher} |")
    assert "old" not in page.read_text()


def test_the_pages_have_places_for_their_tables() -> None:
    from experiments import TABLES
    from rows import replace_between

    page = (REPOSITORY / "docs/results.md").read_text(encoding="utf-8")
    assert all("new table" in replace_between(page, "new table", name) for name in TABLES)


def test_every_student_of_the_results_stands_in_the_params() -> None:
    from experiments import LONE, TABLES

    params = load_params(REPOSITORY / "params.yaml")
    for table in TABLES.values():
        for row in table.rows:
            for mode, settings in (*row.students, *((LONE, name) for name in row.regularisers)):
                assert params.conflict(mode, settings) is None, (mode, settings)


@pytest.mark.parametrize("table", ["cache", "train"])
def test_the_benchmarks_page_has_a_place_for_each_table(table: str) -> None:
    from rows import replace_between

    page = (REPOSITORY / "docs/benchmarks.md").read_text(encoding="utf-8")
    assert "new table" in replace_between(page, "new table", table)


@pytest.mark.xdist_group("whole run")
def test_the_teachers_of_a_row_are_judged_by_the_mean_of_their_logits(
    finished: tuple[Path, set[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from accuracy import scores_of_teachers

    monkeypatch.chdir(finished[0])
    alone = json.loads(Path("metrics/teacher.json").read_text())
    for caches in (["data/cache"], ["data/cache"] * 2):
        for split, scores in scores_of_teachers([Path(cache) for cache in caches]).items():
            assert scores == pytest.approx(alone[split], abs=1e-6)


@pytest.mark.xdist_group("whole run")
def test_a_finished_project_fills_the_table_and_the_pictures_of_the_results(
    finished: tuple[Path, set[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from evidence import efficiency, gather

    monkeypatch.chdir(finished[0])
    pictures, table = gather()
    titles = ["teacher", "independent", "soft", "obedient", "obedient + unlabelled", "untrained"]
    lines = [line.strip("| ").split(" | ") for line in table.splitlines()]
    assert [line[0] for line in lines[2:]] == titles
    summary = json.loads(Path("metrics/examine/soft-plain-0.json").read_text())
    assert lines[4][4] == f"{100 * summary['corrupted']:.1f}"
    assert lines[4][6].strip() == f"{100 * summary['targets']['digits']['all']:.1f}"
    drawn = {"corruptions", "transfer-digits-all", "likeness-soft", "likeness-obedient-unlabelled"}
    assert drawn <= set(pictures)

    scores = {seed: {"test": {"accuracy": 0.5 + seed / 10}} for seed in range(2)}
    picture = efficiency({"10": {"networks": {"teacher": scores}}, "1": {"networks": {}}})
    assert picture.startswith("<svg") and ">teacher<" in picture


def test_the_cost_of_imagenet_follows_from_the_rates() -> None:
    from scaling import report, view_bytes

    sizes = view_bytes()
    assert sizes["pooled 1280, float16"] == 2 * 1280 + 4, "a checksum a row"
    rates = {"teacher": 100.0, "student": 10.0, "write": 1e9, "pooled": 1e9, "spatial": 1e9}
    text = report(rates)
    assert "12,811,670 views: the teacher takes 36 h here" in text
    whole = next(line for line in text.splitlines() if line.startswith("| spatial 1280 x 7 x 7, f"))
    assert "| 125,444 | 1.6 TB | 26.8 min | 1.3 MB/s | 313.6 MB/s | 2.5 GB/s |" in whole
