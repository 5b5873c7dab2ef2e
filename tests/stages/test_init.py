"""`mentee init`: a project around a folder of images, made and used as a user would."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from projects import REPOSITORY, refusal, repro, shell
from ruamel.yaml import YAML

from pipeline.params import load_params
from pipeline.prepared import PREPARED_FILE, read_split
from pipeline.stages import init as initialising
from pipeline.stages.init import init


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with 30 cats, 40 dogs and 25 images that nobody labelled."""
    generator = np.random.default_rng(0)
    for name, count in (("cat", 30), ("dog", 40), ("unlabelled", 25)):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(count):
            pixels = generator.integers(0, 256, (40, 50, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{number:02}.bmp")
    for role in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{role}_NAME", "test")
        monkeypatch.setenv(f"GIT_{role}_EMAIL", "test@example.org")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_new_project_is_a_repository_that_runs_and_notices_another_image(place: Path) -> None:
    done = shell("mentee", "init", "project", "--images", "photos", cwd=place)
    assert done.returncode == 0, done.stdout
    assert "70 images of 2 classes (cat 30, dog 40), 25 unlabelled" in done.stdout
    params = load_params(Path("project/params.yaml"))
    assert params.data.source == "folder:../photos"
    assert f"data.unlabelled: {params.data.unlabelled} (of 25 without a label" in done.stdout
    project = place / "project"
    assert shell("git", "status", "--short", cwd=project).stdout == ""
    assert repro(project, "prepare") == {"prepare"}
    assert len(read_split(project / PREPARED_FILE, "unlabelled")) == params.data.unlabelled
    assert repro(project, "prepare") == set()
    shutil.copy("photos/cat/00.bmp", "photos/cat/copy.bmp")
    assert repro(project, "prepare") == {"prepare"}


def test_its_stages_are_our_own_without_the_code_and_its_params_keep_every_comment(
    place: Path,
) -> None:
    init(Path("project"), Path("photos"), skip_broken=False)
    yaml = YAML(typ="safe", pure=True)
    ours = yaml.load(REPOSITORY / "dvc.yaml")
    for stage in ours["stages"].values():
        deps = [path for path in stage.pop("deps", []) if not path.startswith("pipeline/")]
        stage |= {"deps": deps} if deps else {}
    ours["stages"]["prepare"]["deps"] = ["../photos"]
    assert yaml.load(Path("project/dvc.yaml")) == ours

    def comments(path: Path) -> list[str]:
        return [part for line in path.read_text().splitlines() for part in line.split("# ")[1:]]

    assert comments(Path("project/params.yaml")) == comments(REPOSITORY / "params.yaml")


def test_a_table_is_watched_and_so_are_the_folders_of_its_images(place: Path) -> None:
    Path("project").mkdir()
    shutil.move("photos", "project/images")
    rows = [
        f"images/{name}/{number:02}.bmp,{name}" for name in ("cat", "dog") for number in range(30)
    ]
    Path("project/labels.csv").write_text("\n".join(["path,label", *rows]))
    init(Path("project"), Path("project/labels.csv"), skip_broken=False)
    stages = YAML(typ="safe").load(Path("project/dvc.yaml"))["stages"]
    assert stages["prepare"]["deps"] == ["labels.csv", "images/cat", "images/dog"]
    assert load_params(Path("project/params.yaml")).data.source == "csv:labels.csv"
    assert "/images/cat/" in Path("project/.gitignore").read_text().splitlines()
    assert repro(place / "project", "prepare") == {"prepare"}


def test_a_class_that_is_a_link_is_watched_where_it_leads(place: Path) -> None:
    shutil.move("photos/cat", "cats")
    Path("photos/cat").symlink_to(place / "cats")
    init(Path("project"), Path("photos"), skip_broken=False)
    stages = YAML(typ="safe").load(Path("project/dvc.yaml"))["stages"]
    assert stages["prepare"]["deps"] == ["../photos", "../cats"]
    assert repro(place / "project", "prepare") == {"prepare"}
    shutil.copy("cats/00.bmp", "cats/copy.bmp")
    assert repro(place / "project", "prepare") == {"prepare"}


def test_rows_of_images_that_are_not_there_are_named_and_nothing_is_watched_for_them(
    place: Path,
) -> None:
    rows = [f"photos/{name}/{n:02}.bmp,{name}" for name in ("cat", "dog") for n in range(30)]
    Path("labels.csv").write_text(
        "\n".join(["path,label", *rows, "gone/1.bmp,cat", "2.bmp,dog", "x" * 5000 + ",dog"])
    )
    said = refusal(lambda: init(Path("project"), Path("labels.csv"), skip_broken=False))
    assert said.startswith("2.bmp: there is no such file (and 2 more")
    init(Path("project"), Path("labels.csv"), skip_broken=True)
    stages = YAML(typ="safe").load(Path("project/dvc.yaml"))["stages"]
    assert stages["prepare"]["deps"] == ["../labels.csv", "../photos/cat", "../photos/dog"]
    assert repro(place / "project", "prepare") == {"prepare"}


def test_a_link_to_nothing_is_refused_since_dvc_could_not_read_it(place: Path) -> None:
    Path("photos/cat/gone.png").symlink_to("nowhere.png")
    said = refusal(lambda: init(Path("project"), Path("photos"), skip_broken=True))
    assert said == "photos/cat/gone.png is a link to nothing: remove it, DVC cannot read it"


def test_paths_with_spaces_and_signs_of_dvc_are_spelled_so_that_they_work(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("photos").rename("my ${photos}")
    init(Path("a project"), Path("my ${photos}"), skip_broken=False)
    assert capsys.readouterr().out.endswith(" is ready: cd 'a project' && dvc repro\n")
    assert repro(place / "a project", "prepare") == {"prepare"}


def test_what_cannot_be_a_project_or_its_images_is_refused_at_once(place: Path) -> None:
    Path("file").touch()
    done = shell("mentee", "init", "file", "--images", "photos", cwd=place)
    assert done.returncode == 2
    assert "Directory 'file' is a file" in done.stdout
    Path("photos").rename("my\nphotos")
    said = refusal(lambda: init(Path("project"), Path("my\nphotos"), skip_broken=False))
    assert said == "my\\nphotos: its path has a line break: rename that file or folder"
    assert not Path("project").exists()


def test_broken_files_stop_it_before_anything_is_written_unless_they_are_to_be_skipped(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("photos/cat/00.bmp").write_bytes(b"BM")
    said = refusal(lambda: init(Path("project"), Path("photos"), skip_broken=False))
    assert said.startswith("photos/cat/00.bmp: not a readable image (")
    assert "mentee init --skip-broken" in said
    assert not Path("project").exists()
    init(Path("project"), Path("photos"), skip_broken=True)
    assert "broken: photos/cat/00.bmp: not a readable image (" in capsys.readouterr().out
    assert load_params(Path("project/params.yaml")).data.skip_broken


def test_a_project_that_is_there_or_would_lie_in_its_images_is_refused(place: Path) -> None:
    inside = refusal(lambda: init(Path("photos/project"), Path("photos"), skip_broken=False))
    assert "put either into a folder of its own" in inside
    init(Path("project"), Path("photos"), skip_broken=False)
    before = Path("project/params.yaml").read_text()
    again = refusal(lambda: init(Path("project"), Path("photos"), skip_broken=False))
    assert again == "project/params.yaml is there already: name another folder"
    assert Path("project/params.yaml").read_text() == before


def test_what_was_interrupted_on_the_way_is_begun_again_by_the_same_command(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By Ctrl-C, or because there was no git yet."""
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(place / "nowhere"))
        with pytest.raises(FileNotFoundError, match="git"):
            init(Path("project"), Path("photos"), skip_broken=False)
    init(Path("project"), Path("photos"), skip_broken=False)
    assert shell("git", "log", "--oneline", cwd=place / "project").stdout.count("\n") == 1
    assert shell("git", "status", "--short", cwd=place / "project").stdout == ""


def test_half_a_dvc_repository_is_not_taken_for_one_of_the_users(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = initialising.run

    def interrupted(project: Path, *command: str) -> None:
        run(project, *command)
        if "dvc" in command:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(initialising, "run", interrupted)
        with pytest.raises(KeyboardInterrupt):
            init(Path("project"), Path("photos"), skip_broken=False)
    init(Path("project"), Path("photos"), skip_broken=False)
    ours = (REPOSITORY / ".dvc/config").read_text()
    assert Path("project/.dvc/config").read_text() == ours


def test_a_dvc_repository_that_dvc_cannot_read_is_left_as_it_is(place: Path) -> None:
    mine = place / "project/.dvc/cache/mine"
    mine.parent.mkdir(parents=True)
    mine.touch()
    (place / "project/.dvc/config").write_text("[[[ broken")
    assert "dvc init" in refusal(lambda: init(Path("project"), Path("photos"), False))
    assert mine.exists()


def test_a_project_within_a_git_repository_joins_it(place: Path) -> None:
    assert shell("git", "init", "-q", cwd=place).returncode == 0
    assert shell("git", "commit", "-q", "--allow-empty", "-m", "start", cwd=place).returncode == 0
    init(Path("project"), Path("photos"), skip_broken=False)
    assert not Path("project/.git").exists()
    assert "prepare" in shell("dvc", "stage", "list", "--name-only", cwd=place / "project").stdout
    assert shell("git", "log", "--oneline", cwd=place).stdout.count("\n") == 1


def test_the_installed_package_holds_all_that_a_project_begins_with(
    place: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A wheel, installed into a folder that is not this repository."""
    built, installed = tmp_path_factory.mktemp("source") / "mentee", place / "installed"
    listed = shell("git", "ls-files", "-co", "--exclude-standard", cwd=REPOSITORY).stdout
    for name in listed.splitlines():
        if not name.startswith(("tests/", "docs/", "benchmarks/")):
            (built / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / name, built / name, follow_symlinks=False)
    pip = (sys.executable, "-m", "pip", "install", "--no-deps", "--no-build-isolation", "--quiet")
    done = shell(*pip, "--target", str(installed), str(built), cwd=place)
    assert done.returncode == 0, done.stdout
    shutil.rmtree(built)
    code = f"import sys; sys.path.insert(0, {str(installed)!r}); from pipeline.cli import main; "
    code += "import pipeline; print(pipeline.__file__); main()"
    arguments = ("init", "project", "--images", "photos")
    done = shell("env", "-u", "PYTHONPATH", sys.executable, "-c", code, *arguments, cwd=place)
    assert done.returncode == 0, done.stdout
    assert done.stdout.startswith(str(installed))
    for name in (
        "dvc.yaml",
        "params.yaml",
        ".gitignore",
        ".dvc/config",
        ".dvc/plots/networks.json",
    ):
        assert (place / "project" / name).stat().st_size > 50
