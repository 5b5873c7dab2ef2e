"""`mentee targets`: which images of another data set are learnt from, and which only tested."""

from pathlib import Path

import numpy as np
import pytest
from caches import files_under, mentee
from PIL import Image
from sklearn.datasets import load_digits
from stage_one import SMALLEST, set_params

from pipeline.datasets import Dataset
from pipeline.prepared import TARGETS, Split, read_split
from pipeline.stages.targets import split, targets


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make(**sources: str | None) -> None:
    """Run the stage with these targets and no others."""
    params = set_params(SMALLEST)
    examine = params.examine.model_copy(update={"targets": sources})
    targets(params.model_copy(update={"examine": examine}))


def parts(name: str) -> list[Split]:
    return [read_split(TARGETS / f"{name}.h5", part) for part in ("labelled", "test")]


def pictures(folder: Path, classes: dict[str, int]) -> str:
    """A folder with so many images a class, no two alike."""
    generator = np.random.default_rng(0)
    for name, count in classes.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = generator.integers(0, 256, (20, 20, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return f"folder:{folder}"


def test_every_image_is_learnt_from_or_tested_with_and_keeps_its_label() -> None:
    set_params(SMALLEST)
    assert mentee("targets").exit_code == 0
    labelled, test = parts("digits")
    assert labelled.image_size == (32, 32), "the task's"
    digits = load_digits()
    ids = [*labelled.ids, *test.ids]
    assert sorted(ids) == [f"digit/{number:04}" for number in range(len(digits.target))]
    for part in (labelled, test):
        rows = [int(sample.removeprefix("digit/")) for sample in part.ids]
        assert part.labels.tolist() == digits.target[rows].tolist()
        brightness = digits.images[rows].mean((1, 2)) * 255 / 16
        assert np.abs(part.images.mean((1, 2, 3)) - brightness).max() < 3


def test_where_no_test_set_is_official_a_fifth_of_every_class_is_tested_with(folder: Path) -> None:
    make(shapes=pictures(folder / "shapes", {"round": 10, "square": 29, "star": 5}))
    labelled, test = parts("shapes")
    assert test.class_names == ("round", "square", "star")
    assert np.bincount(test.labels).tolist() == [2, 5, 1]
    assert np.bincount(labelled.labels).tolist() == [8, 24, 4]
    assert test.labels.tolist() != [0, 0, 1, 1, 1, 1, 1, 2] or test.ids[0] != "round/0.png"


def test_an_official_test_set_is_taken_as_it_is() -> None:
    images = np.arange(12, dtype=np.uint8).reshape(3, 2, 2, 1).repeat(3, axis=-1)
    is_test = np.array([False, True, False])
    dataset = Dataset(images, np.array([0, 1, 1]), ("a", "b"), ("x", "y", "z"), is_test)
    labelled, test = split(dataset)
    assert (labelled.name, labelled.ids, labelled.labels.tolist()) == (
        "labelled",
        ("x", "z"),
        [0, 1],
    )
    assert (test.name, test.ids, test.labels.tolist()) == ("test", ("y",), [1])
    assert np.array_equal(test.images, images[1:2])


def test_two_runs_write_the_same_bytes_and_a_target_that_is_dropped_goes(folder: Path) -> None:
    shapes = pictures(folder / "shapes", {"round": 10, "square": 10})
    make(digits="digits", shapes=shapes)
    first = files_under(TARGETS)
    assert set(first) == {"digits.h5", "shapes.h5"}
    make(digits="digits", shapes=shapes)
    assert files_under(TARGETS) == first
    make(shapes=shapes)
    assert files_under(TARGETS) == {"shapes.h5": first["shapes.h5"]}


def test_no_targets_are_an_empty_folder() -> None:
    make()
    assert TARGETS.is_dir()
    assert not files_under(TARGETS)


@pytest.mark.parametrize(
    ("classes", "text"),
    [
        (None, "examine.targets.shapes: shapes is not a folder"),
        ({"round": 10, "square": 0}, "examine.targets.shapes: class 'square' has no training"),
        ({"round": 4, "square": 4}, "examine.targets.shapes: a fifth of so few images are none"),
    ],
)
def test_a_target_that_cannot_serve_is_named(
    classes: dict[str, int] | None, text: str, folder: Path
) -> None:
    if classes:
        pictures(Path("shapes"), classes)
    before = files_under(folder)
    set_params(SMALLEST, {"examine": {"targets": {"shapes": "folder:shapes"}}})
    done = mentee("targets")
    assert done.exit_code == 1
    assert len(done.stderr.splitlines()) == 1
    assert text in done.stderr
    assert "data.source" not in done.stderr
    assert set(files_under(folder)) - set(before) == {"params.yaml"}


def test_a_folder_that_dvc_does_not_watch_is_told(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "dvc.yaml").write_text("stages: {targets: {deps: [seen]}}")
    seen, unseen = (pictures(folder / name, {"a": 5, "b": 5}) for name in ("seen", "unseen"))
    make(seen=seen)
    assert "DVC will not notice" not in capsys.readouterr().out
    make(unseen=unseen)
    said = capsys.readouterr().out
    assert "examine.targets.unseen: DVC will not notice when" in said
    assert "list it in dvc.yaml under the deps of targets" in said
