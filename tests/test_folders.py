"""One's own images: what is listed, what is left out, and that it is never left out silently."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from projects import refusal

from pipeline import images
from pipeline.blocks import Data
from pipeline.datasets import Dataset, load_dataset
from pipeline.folders import list_images
from pipeline.prepared import NO_LABEL
from pipeline.stages.prepare import draw_splits


def load(source: str, **changes: object) -> Dataset:
    given = {
        "source": source, "image_size": 16, "labelled_per_class": 1, "unlabelled": 0,
        "validation": 1, "test": None, "seed": 0,
    }  # fmt: skip
    return load_dataset(Data(**given | changes), Path("raw"))


def save(path: Path, shade: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (20, 20), shade).save(path)
    return path


@pytest.fixture(autouse=True, params=[0, 1 << 20], ids=["threads", "one-thread"])
def how_images_are_read(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of more bytes than these are read by threads."""
    monkeypatch.setattr(images, "SMALL_FILE", request.param)
    monkeypatch.setattr(images, "own_cores", lambda: 3)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three cats and three dogs, each of another shade."""
    for shade in range(6):
        save(tmp_path / f"pictures/{'dog' if shade % 2 else 'cat'}/{shade}.png", shade)
    return tmp_path / "pictures"


def test_a_broken_file_stops_it_unless_it_is_to_be_skipped_and_is_named_anyhow(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "cat/2.png").write_bytes(b"no picture")
    (folder / "dog/3.png").write_bytes((folder / "dog/3.png").read_bytes()[:40])
    said = refusal(lambda: load(f"folder:{folder}"))
    assert said.startswith(f"{folder / 'cat/2.png'}: not a readable image (")
    assert "(and 1 more, listed above)" in said
    assert "data.skip_broken" in said
    listed = capsys.readouterr().out
    dataset = load(f"folder:{folder}", skip_broken=True)
    skipped = capsys.readouterr().out
    for name in ("cat/2.png", "dog/3.png"):
        assert f"broken: {folder / name}: not a readable image (" in listed
        assert f"broken: {folder / name}: not a readable image (" in skipped
    assert "left out: 2 broken image files" in skipped
    assert dataset.ids == ("cat/0.png", "cat/4.png", "dog/1.png", "dog/5.png")
    assert dataset.images[:, 0, 0, 0].tolist() == [0, 4, 1, 5]
    assert dataset.labels.tolist() == [0, 0, 1, 1]


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.dictionaries(st.integers(0, 5), st.integers(0, 60), max_size=5))
def test_no_file_is_lost_whatever_is_damaged(
    cuts: dict[int, int], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Files are cut off at some byte; each is in the data set or named."""
    for shade in range(6):
        save(folder / f"{'dog' if shade % 2 else 'cat'}/{shade}.png", shade)
    for shade, size in cuts.items():
        path = folder / f"{'dog' if shade % 2 else 'cat'}/{shade}.png"
        path.write_bytes(path.read_bytes()[:size])
    ids = load(f"folder:{folder}", skip_broken=True).ids
    said = capsys.readouterr().out
    for path in folder.rglob("*.png"):
        name = path.relative_to(folder).as_posix()
        assert (name in ids) != (f"broken: {path}: " in said)


def test_a_path_that_is_longer_than_a_disk_takes_is_left_out_like_any_broken_file(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = folder / "labels.csv"
    rows = ["cat/0.png,cat", "dog/1.png,dog", f"{'x' * 5000}.png,cat"]
    table.write_text("\n".join(["path,label", *rows]))
    assert load(f"csv:{table}", skip_broken=True).ids == ("cat/0.png", "dog/1.png")
    said = capsys.readouterr().out
    assert "xxx.png: not a readable image (" in said
    assert "File name too long" in said


def test_a_copy_is_left_out_so_that_no_split_shares_an_image_with_another(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same pixels in another format are a copy too; the labelled one is kept."""
    Image.open(folder / "cat/0.png").save(folder / "cat/again.bmp")
    save(folder / "unlabelled/1.png", 1)
    dataset = load(f"folder:{folder}")
    assert len(dataset.ids) == 6
    said = capsys.readouterr().out
    assert f"{folder / 'cat/again.bmp'} is the same image as {folder / 'cat/0.png'}" in said
    assert f"{folder / 'unlabelled/1.png'} is the same image as {folder / 'dog/1.png'}" in said
    assert "2 copies" in said


def test_one_image_in_two_classes_is_refused(folder: Path) -> None:
    save(folder / "dog/cat.png", 0)
    said = refusal(lambda: load(f"folder:{folder}", skip_broken=True))
    assert f"{folder / 'dog/cat.png'} of class 'dog' is the same image as" in said


def test_blank_images_of_other_shapes_are_other_images(folder: Path) -> None:
    Image.new("RGB", (4, 9), "white").save(folder / "cat/tall.png")
    Image.new("RGB", (9, 4), "white").save(folder / "dog/wide.png")
    assert {"cat/tall.png", "dog/wide.png"} <= set(load(f"folder:{folder}").ids)


@pytest.mark.parametrize("name", ["unlabelled", "unlabeled", "Unlabelled"])
def test_a_folder_of_unlabelled_images_is_no_class_and_serves_learning_alone(
    name: str, folder: Path
) -> None:
    for shade in range(10, 30):
        save(folder / name / f"deep/{shade}.png", shade)
    dataset = load(f"folder:{folder}")
    assert dataset.class_names == ("cat", "dog")
    assert dataset.labels.tolist() == [0, 0, 0, 1, 1, 1] + [NO_LABEL] * 20
    chosen = Data(
        source=f"folder:{folder}", image_size=16, labelled_per_class=1, unlabelled=22,
        validation=1, test=1, seed=0,
    )  # fmt: skip
    rows = draw_splits(dataset, chosen)
    assert set(range(6, 26)) <= set(rows["unlabelled"].tolist())
    for split in ("labelled", "validation", "test"):
        assert (dataset.labels[rows[split]] != NO_LABEL).all()


def test_files_that_are_no_images_are_named(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "cat/notes.txt").write_text("")
    save(folder / "stray.png", 77)
    save(folder / ".hidden/1.png", 78)
    save(folder / "cat/.thumbnails/2.png", 79)
    save(folder.parent / "elsewhere/3.png", 80)
    (folder / "dog/more").symlink_to(folder.parent / "elsewhere")
    assert len(load(f"folder:{folder}").ids) == 6
    said = capsys.readouterr().out
    assert f"not used: 3 files in {folder} that are no images of a class: " in said
    for name in ("stray.png", "cat/notes.txt", "dog/more"):
        assert name in said


def test_loose_images_are_named_and_are_no_class(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refusal(lambda: load(f"folder:{folder / 'cat'}"))
    assert said.endswith("one folder a class; found 0 images of 0 classes")
    assert "no images of a class: 0.png, 2.png, 4.png" in capsys.readouterr().out


def test_splits_are_not_taken_for_classes(folder: Path) -> None:
    """A class may be called so too, if its images lie in it."""
    for old, new in (("cat", "Train"), ("dog", "test")):
        (folder / old).rename(folder / new)
    assert load(f"folder:{folder}").class_names == ("Train", "test")
    save(folder / "test/cat/7.png", 7)
    said = refusal(lambda: load(f"folder:{folder}"))
    assert said.endswith("these are splits, not classes: Train, test: name one of them")


def old_name(path: Path) -> Path:
    """Rename a file or folder as a disk in Latin-1 would have it; its new path."""
    new = path.with_name("caf" + os.fsdecode(b"\xe9") + path.suffix)
    try:
        return path.rename(new)
    except OSError:
        pytest.skip("names must be UTF-8 here")


@pytest.mark.skipif(sys.platform == "win32", reason="names are UTF-16")
@pytest.mark.parametrize("name", ["cat", "cat/0.png", "unlabelled", "unlabelled/deep"])
def test_a_name_that_is_not_utf_8_is_to_be_changed(name: str, folder: Path) -> None:
    save(folder / "unlabelled/deep/8.png", 8)
    named = str(old_name(folder / name)).encode(errors="surrogateescape")
    said = refusal(lambda: load(f"folder:{folder}"))
    assert said.startswith(f"data.source: {named.decode(errors='backslashreplace')}")
    assert said.endswith(": this name is not in UTF-8: rename it")


@pytest.mark.skipif(sys.platform == "win32", reason="names are UTF-16")
def test_a_table_by_such_a_name_is_to_be_renamed(folder: Path) -> None:
    table = folder.parent / "labels.csv"
    table.write_text("path,label\npictures/cat/0.png,a\npictures/dog/1.png,b\n")
    said = refusal(lambda: list_images(f"csv:{old_name(table)}"))
    assert said == f"{folder.parent}/caf\\xe9.csv: this name is not in UTF-8: rename it"


@pytest.mark.skipif(sys.platform == "win32", reason="names are UTF-16")
def test_a_file_that_is_no_image_may_have_any_name(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (folder / "cat/notes.txt").write_text("")
    old_name(folder / "cat/notes.txt")
    assert len(load(f"folder:{folder}").ids) == 6
    assert "no images of a class: cat/caf\\udce9.txt\n" in capfd.readouterr().out


def test_a_table_names_images_wherever_they_are(folder: Path) -> None:
    save(folder / "loose.png", 50)
    table = folder.parent / "labels.csv"
    table.write_text(
        "\ufeffpath,who,label\npictures/cat/0.png,x,small\npictures/loose.png,x,\n"
        "pictures/dog/1.png,y, large\n", encoding="utf-8",
    )  # fmt: skip
    dataset = load(f"csv:{table}")
    assert dataset.class_names == ("large", "small")
    assert dataset.ids == ("pictures/cat/0.png", "pictures/dog/1.png", "pictures/loose.png")
    assert dataset.labels.tolist() == [1, 0, NO_LABEL]
    assert dataset.images[:, 0, 0, 0].tolist() == [0, 1, 50]
    with open(table, "a", encoding="utf-8") as file:
        file.write(",,\n , ,\n\npictures/cat/2.png,,small,,\n")
    assert len(load(f"csv:{table}").ids) == 4, "blank lines and columns of a spreadsheet are none"


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("file,class\na.png,x\n", "its first line must name the columns path and label"),
        ("", "its first line must name the columns path and label"),
        ("path,label\na.png,x\n", "at least two classes, a path and its class a line"),
        ("path,label\na.png,x\nb.png,y\n", "a.png: there is no such file (and 1 more"),
        (b"path,label\n\xff.png,x\n", "is no CSV file in UTF-8"),
        ("path,label\na\0.png,x\nb.png,y\n", "is no CSV file in UTF-8 (line contains NUL)"),
        ("path,label\na.png,x\n,y\n", "labels.csv: line 3 has a label but no path"),
        ("path,label\na.png,x\nb.png,y, large\n", "labels.csv: line 3 has more columns than the"),
        ("path,label,label\na.png,x,y\n", "its first line names the column label twice"),
        ('path,label\na.png,x\nb.png,"y\nc.png,z\n', "end of data): look from line 3 on"),
        ('path,label\na.png,x\n"b.png,y\n"c.png,z\n', "): look from line 3 on"),
    ],
)
def test_a_table_that_cannot_serve_is_one_line(
    content: str | bytes, text: str, tmp_path: Path
) -> None:
    table = tmp_path / "labels.csv"
    table.write_bytes(content.encode() if isinstance(content, str) else content)
    assert text in refusal(lambda: load(f"csv:{table}"))


def test_a_table_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    assert "there is no such file" in refusal(lambda: load(f"csv:{tmp_path / 'none.csv'}"))


def test_images_of_256_pixels_are_kept_at_that_size(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 256, 300, 3), dtype=np.uint8)
    for name, image in zip("ab", pixels, strict=True):
        (tmp_path / name).mkdir()
        Image.fromarray(image).save(tmp_path / name / "1.png")
    dataset = load(f"folder:{tmp_path}", image_size=256)
    assert np.array_equal(dataset.images, pixels[:, :, 22:278])
