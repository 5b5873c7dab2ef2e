"""Helpers: dumps of a small teacher in processes of their own, which may be killed at any moment.

A fork server has imported torch and the stages already, so that a dump starts within milliseconds.
"""

import multiprocessing
import os
import shutil
import time
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from projects import REPOSITORY, merge
from ruamel.yaml import YAML
from safetensors.torch import save_file

from pipeline import cost
from pipeline.cache.shard import check_shard, open_shard
from pipeline.checkpoints import Checkpoint
from pipeline.params import load_params
from pipeline.prepared import PREPARED_FILE
from pipeline.stages import dump as dumping
from pipeline.stages.prepare import prepare

ANSWERED = "answered"  # a byte for every batch that the teacher answered
SMALL: dict[str, Any] = {
    "data": {"source": "digits", "image_size": 8, "labelled_per_class": 30, "unlabelled": 400,
             "validation": 60, "test": 60},
    "views": {"labelled": 2, "unlabelled": 2, "padding": 1},
    "teacher": {"model": "timm:test_resnet", "weights": "teacher.safetensors", "input_size": 32},
    "cache": {"rows_per_shard": 150},
    "runtime": {"device": "cpu", "threads": 1},
}  # fmt: skip


def set_params(folder: Path, **changes: Any) -> None:
    """The repository's params with a small teacher, in `folder`; then `changes` by block."""
    yaml = YAML()
    content = yaml.load(REPOSITORY / "params.yaml")
    content["teacher"]["taps"] = {
        "middle": {"module": "layer3", "grid": 2},
        "pooled": {"module": "global_pool", "grid": 1},
    }
    merge(content, SMALL)
    merge(content, changes)
    yaml.dump(content, folder / "params.yaml")


def prepare_small(folder: Path) -> None:
    """Params, a teacher with random weights and scikit-learn's digits; the folder is entered."""
    os.chdir(folder)
    set_params(folder)
    torch.manual_seed(0)
    network = timm.create_model("test_resnet")
    save_file({n: v.contiguous() for n, v in network.state_dict().items()}, "teacher.safetensors")
    prepare(load_params())


def stop_after(saves: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next run is interrupted when it has kept its state so many times."""
    save, left = Checkpoint.save, [saves]

    def saved(checkpoint: Checkpoint, *arguments: Any) -> None:
        save(checkpoint, *arguments)
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoint, "save", saved)


def copy_prepared(prepared: Path, folder: Path) -> Path:
    """A folder with the same params, teacher and images, and no cache."""
    (folder / PREPARED_FILE).parent.mkdir(parents=True)
    for name in ("params.yaml", "teacher.safetensors", PREPARED_FILE):
        shutil.copy(prepared / name, folder / name)
    return folder


def cache_files(folder: Path) -> dict[str, bytes]:
    """Every file of the cache and of the scratch folder, hidden ones too."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for root in ("data/cache", ".work")
        for path in sorted((folder / root).rglob("*"))
        if path.is_file()
    }


def finished_views(folder: Path) -> int:
    """How many views need no answer any more; every shard under a final name must be whole."""
    shards = [open_shard(path) for path in (folder / ".work").rglob("p*.h5")]
    for shard in shards:
        check_shard(shard)
    kinds: dict[tuple[str, int, int], int] = {}
    for shard in shards:
        key = (shard.spec["split"], shard.place.view, shard.place.start)
        kinds[key] = kinds.get(key, 0) + 1
    sizes = {(s.spec["split"], s.place.view, s.place.start): s.place.stop - s.place.start
             for s in shards}  # fmt: skip
    return sum(sizes[key] for key, count in kinds.items() if count == 4)  # all kinds are there


def dump_here(folder: Path, log: Path) -> None:
    """`mentee dump` in `folder`; what the teacher answers is counted in `log`."""
    os.chdir(folder)
    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, 1)
    counted = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    answer = dumping.answer_filled_up

    def counting(*arguments: Any) -> Any:
        answers = answer(*arguments)
        os.write(counted, b".")
        return answers

    dumping.answer_filled_up = counting
    cost.SECONDS = 0.0  # measured last, when all is published: in seven runs, not a second
    dumping.dump(load_params())


@dataclass
class Dumps:
    """Starts dumps in folders under `root`."""

    root: Path

    def __post_init__(self) -> None:
        # The server of forks must find this module, to have torch imported once and for all.
        paths = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["killing"])

    def start(self, folder: Path) -> BaseProcess:
        log = self.root / f"{folder.name}.{ANSWERED}"
        process = self._context.Process(target=dump_here, args=(folder, log))
        process.start()
        return process

    def run(self, folder: Path) -> float:
        """A dump to its end; how many seconds it took."""
        start = time.perf_counter()
        process = self.start(folder)
        process.join()
        assert process.exitcode == 0
        return time.perf_counter() - start

    def answered(self, folder: Path) -> int:
        """How many batches all dumps in this folder have asked the teacher for."""
        log = self.root / f"{folder.name}.{ANSWERED}"
        return log.stat().st_size if log.exists() else 0

    def forget(self, folder: Path) -> None:
        """Remove a folder and what was counted there."""
        shutil.rmtree(folder)
        (self.root / f"{folder.name}.{ANSWERED}").unlink(missing_ok=True)
