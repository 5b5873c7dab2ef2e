"""Images from a folder, from scikit-learn and from torchvision, whatever their format."""

import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from pipeline.blocks import Data
from pipeline.datasets import Dataset, load_dataset
from pipeline.errors import MenteeError

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def load(source: str, raw: Path, size: int = 16) -> Dataset:
    data = Data(
        source=source, image_size=size, labelled_per_class=1, unlabelled=0, validation=1,
        test=None, seed=0,
    )  # fmt: skip
    return load_dataset(data, raw)


def save(picture: Image.Image, path: Path, **options: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, **options)


def load_one(folder: Path, size: int = 16) -> np.ndarray:
    """The only image of class `a`, in a folder that gets a class `b` too."""
    save(Image.new("RGB", (20, 20)), folder / "b/other.png")
    dataset = load(f"folder:{folder}", folder / "raw", size)
    assert dataset.images.shape == (2, size, size, 3)
    assert dataset.images.dtype == np.uint8
    return dataset.images[0]


def a_palette_with_a_transparent_entry() -> Image.Image:
    picture = Image.new("P", (20, 20), 1)
    picture.putpalette([*RED, *BLUE])
    return picture


@pytest.mark.parametrize(
    ("mode", "picture", "suffix", "options", "colour"),
    [
        ("L", Image.new("L", (20, 20), 77), "png", {}, (77, 77, 77)),
        ("1", Image.new("1", (20, 20), 1), "png", {}, WHITE),
        ("RGBA", Image.new("RGBA", (20, 20), (*RED, 255)), "png", {}, RED),
        ("RGBA", Image.new("RGBA", (20, 20), (*RED, 0)), "png", {}, WHITE),
        ("LA", Image.new("LA", (20, 20), (9, 255)), "png", {}, (9, 9, 9)),
        ("P", a_palette_with_a_transparent_entry(), "png", {}, BLUE),
        ("P", a_palette_with_a_transparent_entry(), "png", {"transparency": 1}, WHITE),
        ("I;16", Image.fromarray(np.full((20, 20), 0x80FF, "<u2")), "png", {}, (128,) * 3),
        ("I;16B", Image.fromarray(np.full((20, 20), 0x80FF, ">u2")), "tif", {}, (128,) * 3),
        ("I", Image.fromarray(np.full((20, 20), 0x80FF, "<u2")), "pgm", {}, (128,) * 3),
        ("CMYK", Image.new("CMYK", (20, 20), (255, 0, 0, 0)), "tif", {}, (0, 255, 255)),
    ],
)
def test_every_mode_of_picture_becomes_rgb(
    mode: str, picture: Image.Image, suffix: str, options: dict, colour: tuple, tmp_path: Path
) -> None:
    path = tmp_path / f"a/picture.{suffix}"
    save(picture, path, **options)
    with Image.open(path) as stored:
        assert stored.mode == mode
    assert (load_one(tmp_path) == colour).all()


def test_a_half_transparent_picture_is_mixed_with_white(tmp_path: Path) -> None:
    save(Image.new("RGBA", (20, 20), (*RED, 128)), tmp_path / "a/picture.png")
    assert np.abs(load_one(tmp_path).astype(int) - (255, 127, 127)).max() <= 1


def test_a_photograph_is_turned_as_its_camera_says(tmp_path: Path) -> None:
    """Stored lying with red at the left; EXIF orientation 6 puts the left side on top."""
    picture = Image.new("RGB", (40, 32), BLUE)
    picture.paste(RED, (0, 0, 20, 32))
    exif = Image.Exif()
    exif[0x0112] = 6
    save(picture, tmp_path / "a/photo.jpg", exif=exif, quality=95)
    image = load_one(tmp_path, size=32).astype(int)
    top, bottom = image[:14], image[18:]
    assert np.abs(top - RED).max() < 30
    assert np.abs(bottom - BLUE).max() < 30


@pytest.mark.parametrize("upright", [False, True])
def test_the_middle_of_a_long_picture_is_kept(upright: bool, tmp_path: Path) -> None:
    pixels = np.full((20, 60, 3), RED, dtype=np.uint8)
    pixels[:, 20:40] = GREEN
    pixels = pixels.swapaxes(0, 1) if upright else pixels
    save(Image.fromarray(np.ascontiguousarray(pixels)), tmp_path / "a/long.png")
    image = load_one(tmp_path)
    assert (image[4:-4, 4:-4] == GREEN).all()


def test_a_picture_of_the_right_size_is_kept_to_the_pixel(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    save(Image.fromarray(pixels), tmp_path / "a/picture.bmp")
    assert np.array_equal(load_one(tmp_path), pixels)


def test_folders_are_classes_in_order_of_their_names_and_ids_are_paths(tmp_path: Path) -> None:
    for name, colour in (("zebra/2.png", RED), ("zebra/1.PNG", GREEN), ("ape/x/y.gif", BLUE)):
        save(Image.new("RGB", (16, 16), colour), tmp_path / name)
    (tmp_path / "zebra/notes.txt").write_text("not a picture")
    dataset = load(f"folder:{tmp_path}", tmp_path)
    assert dataset.class_names == ("ape", "zebra")
    assert dataset.ids == ("ape/x/y.gif", "zebra/1.PNG", "zebra/2.png")
    assert dataset.labels.tolist() == [0, 1, 1]
    assert dataset.images[:, 0, 0].tolist() == [list(BLUE), list(GREEN), list(RED)]
    assert not dataset.is_test.any()


def test_another_picture_changes_no_id_of_those_there(tmp_path: Path) -> None:
    for shade, name in enumerate(("a/2.png", "a/3.png", "b/1.png")):
        save(Image.new("L", (16, 16), shade), tmp_path / name)
    before = load(f"folder:{tmp_path}", tmp_path).ids
    assert load(f"folder:{tmp_path}", tmp_path).ids == before
    save(Image.new("L", (16, 16), 99), tmp_path / "a/1.png")
    after = load(f"folder:{tmp_path}", tmp_path).ids
    assert set(after) - set(before) == {"a/1.png"}
    assert set(before) < set(after)


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "tif"])
def test_a_truncated_picture_is_named(suffix: str, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    broken = tmp_path / f"a/broken.{suffix}"
    save(Image.fromarray(pixels), broken)
    broken.write_bytes(broken.read_bytes()[:-400])
    refuses_to_read(broken, tmp_path)


def refuses_to_read(broken: Path, folder: Path, told: str = "not a readable image (") -> None:
    with pytest.raises(MenteeError) as caught:
        load_one(folder)
    text = str(caught.value)
    assert text.startswith(f"{broken}: {told}")
    assert len(text.splitlines()) == 1


@pytest.mark.parametrize("content", [b"", b"certainly not a picture"])
def test_a_file_that_only_looks_like_a_picture_is_named(content: bytes, tmp_path: Path) -> None:
    broken = tmp_path / "a/broken.png"
    broken.parent.mkdir()
    broken.write_bytes(content)
    refuses_to_read(broken, tmp_path)


def test_a_picture_too_large_to_open_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pillow refuses pictures of twice its limit; lowered here, as the real one is 179 MP."""
    broken = tmp_path / "a/huge.png"
    save(Image.new("RGB", (100, 100)), broken)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    refuses_to_read(broken, tmp_path, told="too large")


def test_a_folder_with_one_class_is_refused(tmp_path: Path) -> None:
    save(Image.new("RGB", (16, 16)), tmp_path / "only/1.png")
    with pytest.raises(MenteeError, match="at least two classes, one folder a class") as caught:
        load(f"folder:{tmp_path}", tmp_path)
    assert str(caught.value).startswith(f"data.source: {tmp_path} ")
    assert "found 1 images of 1 classes (only)" in str(caught.value)


def test_a_folder_without_pictures_and_one_that_is_not_there_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with pytest.raises(MenteeError, match="found 0 images of 2 classes"):
        load(f"folder:{tmp_path}", tmp_path)
    with pytest.raises(MenteeError, match=r"data\.source: .*nowhere is not a folder"):
        load(f"folder:{tmp_path / 'nowhere'}", tmp_path)


def test_digits_are_scikit_learns_in_grey(tmp_path: Path) -> None:
    dataset = load("digits", tmp_path, size=8)
    original = load_digits()
    assert dataset.images.shape == (1797, 8, 8, 3)
    assert dataset.images.dtype == np.uint8
    assert dataset.class_names == tuple("0123456789")
    assert dataset.labels.tolist() == original.target.tolist()
    assert not dataset.is_test.any()
    assert len(set(dataset.ids)) == 1797
    # Sixteen shades become 0 .. 255, within rounding.
    for channel in range(3):
        shades = dataset.images[..., channel] / 255
        assert np.abs(shades - original.images / 16).max() <= 0.5 / 255
    assert load("digits", tmp_path, size=8).ids == dataset.ids


def write_idx(path: Path, values: np.ndarray) -> None:
    """The format of MNIST and its kin: two zeros, the type (8: bytes), the shape, the values."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header = struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape)
    path.write_bytes(header + values.astype(np.uint8).tobytes())


def test_a_torchvision_set_that_is_there_is_read_without_a_network(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 28, 28), dtype=np.uint8)
    raw = tmp_path / "FashionMNIST/raw"
    write_idx(raw / "train-images-idx3-ubyte", pixels[:3])
    write_idx(raw / "train-labels-idx1-ubyte", np.array([9, 0, 1]))
    write_idx(raw / "t10k-images-idx3-ubyte", pixels[3:])
    write_idx(raw / "t10k-labels-idx1-ubyte", np.array([2, 9]))
    dataset = load("torchvision:FashionMNIST", tmp_path, size=28)
    assert np.array_equal(dataset.images, np.repeat(pixels[..., None], 3, axis=-1))
    assert dataset.labels.tolist() == [9, 0, 1, 2, 9]
    assert dataset.is_test.tolist() == [False, False, False, True, True]
    assert dataset.ids == (
        "train/0000000", "train/0000001", "train/0000002", "test/0000000", "test/0000001",
    )  # fmt: skip
    assert len(dataset.class_names) == 10
    assert dataset.class_names[9] == "Ankle boot"


@pytest.mark.parametrize(
    ("name", "reason"),
    [("NoSuchSet", "has no 'NoSuchSet'"), ("FakeData", "FakeData has no training and test split")],
)
def test_a_torchvision_set_that_cannot_serve_is_refused(
    name: str, reason: str, tmp_path: Path
) -> None:
    with pytest.raises(MenteeError) as caught:
        load(f"torchvision:{name}", tmp_path)
    assert str(caught.value).startswith("data.source: ")
    assert reason in str(caught.value)


def test_a_torchvision_set_that_cannot_be_fetched_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy that nobody answers at stands for no network."""
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setattr("urllib.request._opener", None)  # the one that knows other proxies
    with pytest.raises(MenteeError) as caught:
        load("torchvision:FashionMNIST", tmp_path)
    text = str(caught.value)
    assert f"could not read FashionMNIST from {tmp_path} nor download it" in text
    assert len(text.splitlines()) == 1
