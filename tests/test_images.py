"""Damaged image files: every one is read or named with a reason, and none breaks or hangs us."""

import io
import sys
import tempfile
from datetime import timedelta
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from projects import as_nobody, refusal, shell

from pipeline.errors import MenteeError
from pipeline.files import explain
from pipeline.images import files_below, is_picture, open_picture

FORMATS = {
    "avif": "AVIF", "bmp": "BMP", "gif": "GIF", "jpg": "JPEG", "png": "PNG", "ppm": "PPM",
    "tif": "TIFF", "webp": "WEBP",
}  # fmt: skip


@cache
def sound_file(suffix: str) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (24, 31, 3), dtype=np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, FORMATS[suffix])
    return content.getvalue()


@st.composite
def damaged_files(draw: st.DrawFn) -> tuple[str, bytes]:
    """A suffix, and a file that is cut off or has flipped bits, most of them near its start."""
    suffix = draw(st.sampled_from(sorted(FORMATS)))
    content = bytearray(sound_file(suffix))
    if draw(st.booleans()):
        del content[draw(st.integers(0, len(content) - 1)) :]
    bits = st.integers(0, 8 * 100 - 1) | st.integers(0, 8 * len(content))
    for bit in draw(st.lists(bits, max_size=8)):
        if bit // 8 < len(content):
            content[bit // 8] ^= 1 << bit % 8
    return suffix, bytes(content)


@pytest.mark.filterwarnings("ignore:.*:UserWarning", "ignore::PIL.Image.DecompressionBombWarning")
@settings(
    max_examples=300, deadline=timedelta(seconds=10),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip
@given(damaged=damaged_files())
def test_a_damaged_file_is_an_rgb_picture_or_one_line(
    damaged: tuple[str, bytes], tmp_path: Path
) -> None:
    suffix, content = damaged
    path = tmp_path / f"picture.{suffix}"
    path.write_bytes(content)
    try:
        assert open_picture(path).mode == "RGB"
    except MenteeError as error:
        assert str(error).startswith((f"{path}: not a readable image (", f"{path}: too large"))
        assert len(str(error).splitlines()) == 1


def test_a_sound_file_of_every_format_is_read(tmp_path: Path) -> None:
    for suffix in FORMATS:
        path = tmp_path / f"picture.{suffix}"
        path.write_bytes(sound_file(suffix))
        assert open_picture(path).size == (31, 24)


def test_floating_point_pixels_are_refused_since_nobody_knows_their_range(tmp_path: Path) -> None:
    Image.new("F", (4, 4), 0.5).save(tmp_path / "float.tif")
    assert "floating-point numbers" in refusal(lambda: open_picture(tmp_path / "float.tif"))


def test_a_large_picture_is_read_without_a_word_and_one_too_large_is_to_be_scaled_down(
    tmp_path: Path,
) -> None:
    """In a process of its own, where Pillow holds 150 pixels for many and 400 for an attack."""
    Image.new("L", (15, 10)).save(tmp_path / "large.png")
    Image.new("L", (20, 20)).save(tmp_path / "larger.png")
    code = "import sys; from pathlib import Path; from pipeline.images import Image, open_picture; "
    code += "Image.MAX_IMAGE_PIXELS = 100; print(open_picture(Path(sys.argv[1])).size)"
    done = shell(sys.executable, "-c", code, "large.png", cwd=tmp_path)
    assert done.stdout == "(15, 10)\n"
    done = shell(sys.executable, "-c", code, "larger.png", cwd=tmp_path)
    assert done.stdout.endswith(
        "larger.png: too large, about 13,000 x 13,000 pixels are the most: scale it down\n"
    )


def test_a_file_is_a_picture_by_its_name() -> None:
    assert is_picture(Path("a/PHOTO.JPG"))
    assert not is_picture(Path("a/notes.txt"))


def test_what_is_hidden_is_not_below_a_folder_nor_what_a_link_leads_to(tmp_path: Path) -> None:
    folder = tmp_path / ".cache/photos"
    for name in ("a.jpg", "b/c.jpg", "._a.jpg", "b/.thumbnails/c.jpg", "b/.d/e/f.jpg"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    (folder / "link").symlink_to("b")
    assert files_below(folder) == [folder / "a.jpg", folder / "b/c.jpg", folder / "link"]


def test_a_folder_that_may_not_be_read_is_not_taken_for_an_empty_one() -> None:
    with as_nobody(), tempfile.TemporaryDirectory() as place:
        closed = Path(place, "cat/closed")
        closed.mkdir(mode=0o000, parents=True)
        with pytest.raises(PermissionError) as caught:
            files_below(Path(place))
        assert explain(caught.value) == f"{closed}: Permission denied: make it readable"
