"""A cache read by many processes at once: the same numbers, and the pages are shared."""

import hashlib
import multiprocessing
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from caches import ROWS, VIEWS, cache_spec, make_cache

from pipeline.cache.reader import Kind

KINDS = ("views", "logits", "features/late")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three kinds of three views of fifty rows in parts of twenty."""
    return make_cache(tmp_path / "labelled", cache_spec())


def array_of(kind: Kind) -> str:
    return "pixels" if kind.folder.name == "views" else "values"


def digest(kind: Kind, seed: int) -> str:
    """SHA-256 of five hundred random rows of random views."""
    generator = np.random.default_rng(seed)
    views, rows = generator.integers(VIEWS, size=500), generator.integers(ROWS, size=500)
    return hashlib.sha256(kind.gather(views, rows, array_of(kind)).tobytes()).hexdigest()


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_any_number_of_processes_read_the_same_at_once(root: Path, method: str) -> None:
    kinds = [Kind(root / name) for name in KINDS]
    asked = [(kind, seed) for kind in kinds for seed in range(8)]
    wanted = [digest(kind, seed) for kind, seed in asked]
    for workers in (1, 3):
        with multiprocessing.get_context(method).Pool(workers) as pool:
            assert pool.starmap(digest, asked, chunksize=1) == wanted
    assert [digest(kind, seed) for kind, seed in asked] == wanted, "nor did it change here"


def test_a_kind_that_is_sent_to_another_process_is_its_path_and_no_rows(root: Path) -> None:
    kind = Kind(root / "features/late")
    sent = pickle.dumps(kind)
    assert len(sent) < 500
    assert digest(pickle.loads(sent), 0) == digest(kind, 0)


def test_processes_share_the_pages_that_they_read(root: Path) -> None:
    """Mapped, not copied: the files stand in a forked child's maps, and take no private memory."""
    kind = Kind(root / "features/late")
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        kind.gather(np.arange(VIEWS), np.arange(VIEWS))
        blocks = Path("/proc/self/smaps").read_text().split("VmFlags")
        private = [line for block in blocks if str(root / "features/late") in block
                   for line in block.splitlines() if line.startswith("Private_Dirty")]  # fmt: skip
        os.write(writing, "\n".join(private).encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writing)
    with os.fdopen(reading) as told:
        lines = told.read().splitlines()
    assert len(lines) >= VIEWS * 3, "each of nine shards is mapped"
    assert {line.split()[1] for line in lines} == {"0"}


READ = """
import sys
from pathlib import Path
from test_processes import KINDS, digest
from pipeline.cache.reader import Kind
print(*(digest(Kind(Path(sys.argv[1]) / name), 7) for name in KINDS))
"""


def test_a_fresh_process_with_another_hash_seed_reads_the_same(root: Path) -> None:
    wanted = [digest(Kind(root / name), 7) for name in KINDS]
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    environment = {**os.environ, "PYTHONHASHSEED": "4711", "PYTHONPATH": path}
    command = [sys.executable, "-c", READ, str(root)]
    got = subprocess.run(command, env=environment, text=True, capture_output=True, check=True)
    assert got.stdout.split() == wanted
