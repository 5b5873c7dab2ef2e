"""What `mentee head` and `mentee train` say to a cache that is not the one they need.

One line that says what to do, exit code 1, and nothing on disk is changed.
"""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import pytest
from caches import files_under, mentee
from killing import prepare_small, set_params
from projects import shell
from stage_one import enter_copy, run_stage_one

from pipeline.cache.schema import fingerprint
from pipeline.cache.shard import open_shard, write_shard
from pipeline.files import digest_file, read_json, write_json
from pipeline.params import Params, load_params
from pipeline.stages.prepare import prepare

FEATURES = Path("data/cache/labelled/features/pooled")  # what both commands read
SHARD = FEATURES / "v001/p00000.h5"
FEW_STEPS: dict[str, Any] = {
    "student": {"width": 8, "input_size": 8},
    "training": {"steps": 12, "batch_size": 8, "validations": 1},
    "head": {"inverse_regularisation": [0.01]},
    "data": {"labelled_per_class": 4, "unlabelled": 20, "validation": 20, "test": 20},
    "cache": {"rows_per_shard": 30},
}


def few_steps() -> Params:
    prepare_small(Path())
    set_params(Path(), **FEW_STEPS)
    return load_params()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which prepare, dump and head have run: not to be changed."""
    return run_stage_one(tmp_path_factory.mktemp("finished"), few_steps)


@pytest.fixture
def project(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return enter_copy(finished, tmp_path / "project", monkeypatch)


def refusal(*command: str) -> str:
    """The one line in which a command is refused, which changes nothing on disk."""
    before = files_under(Path())
    done = mentee(*command)
    assert done.exit_code == 1, done.output
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith("error: ")
    assert files_under(Path()) == before
    return done.stderr


def test_a_whole_cache_is_refused_by_neither(project: Path) -> None:
    assert mentee("head").exit_code == 0
    done = mentee("train", "obedient")
    assert done.exit_code == 0, done.output


# What somebody may find under data/cache


def remanifest(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Another manifest.json, in which digests and fingerprint are right whatever is changed."""
    content = read_json(folder / "manifest.json")
    change(content)
    for shard in content["shards"]:
        path = folder / shard["path"]
        shard |= {"bytes": path.stat().st_size, "sha256": digest_file(path)}
    content["fingerprint"] = fingerprint(content["spec"])
    write_json(folder / "manifest.json", content)


def nothing(_: Any) -> None:
    pass


def truncated() -> None:
    SHARD.write_bytes(SHARD.read_bytes()[:-100])


def truncated_and_listed_so() -> None:
    truncated()
    remanifest(FEATURES, nothing)


def no_hdf5() -> None:
    SHARD.write_bytes(b"a shard, honestly\n" * 500)
    remanifest(FEATURES, nothing)


def missing_shard() -> None:
    SHARD.unlink()


def empty_folder() -> None:
    shutil.rmtree(FEATURES)
    FEATURES.mkdir()


def no_folder() -> None:
    shutil.rmtree(FEATURES)


def shards_without_a_manifest() -> None:
    (FEATURES / "manifest.json").unlink()


def manifest_of_format_1() -> None:
    content = read_json(FEATURES / "manifest.json")
    write_json(FEATURES / "manifest.json", {**content, "format": 1})


def manifest_of_a_later_format() -> None:
    content = read_json(FEATURES / "manifest.json")
    write_json(FEATURES / "manifest.json", {"format": 3, "tables": content["shards"]})


def shard_of_format_1() -> None:
    with h5py.File(SHARD, "r+") as file:
        file.attrs["format"] = 1
    remanifest(FEATURES, nothing)


def cache_of_format_1() -> None:
    """As a dump of the first version left it: one manifest a split, and `dtype` in the spec."""
    root = FEATURES.parent.parent
    for manifest in root.rglob("manifest.json"):
        manifest.unlink()
    for path in root.rglob("p*.h5"):
        with h5py.File(path, "r+") as file:
            file.attrs["format"] = 1
            del file.attrs["max_error"]
            spec = json.loads(file.attrs["spec"])
            for kind in spec["kinds"].values():
                kind["dtype"] = kind.pop("encoding", "float16")
            file.attrs["spec"] = json.dumps(spec)
    write_json(root / "manifest.json", {"format": 1, "fingerprint": "0" * 64, "shards": []})


def shard_of_another_dump() -> None:
    shard = open_shard(SHARD)
    arrays = {name: array.copy() for name, array in shard.arrays.items() if name != "checksums"}
    spec = {**shard.spec, "teacher": {**shard.spec["teacher"], "weights_sha256": "b" * 64}}
    write_shard(SHARD, arrays, spec, shard.place)


def shard_of_another_dump_listed() -> None:
    shard_of_another_dump()
    remanifest(FEATURES, nothing)


def other_encoding() -> None:
    def change(content: dict[str, Any]) -> None:
        content["spec"]["kinds"]["features/pooled"]["encoding"] = "uint4 per moon"

    remanifest(FEATURES, change)


def manifest_that_is_no_json() -> None:
    (FEATURES / "manifest.json").write_text("format: 2\n")


FOUND: list[tuple[Callable[[], None], str]] = [
    (truncated, r"v001/p00000\.h5 is damaged.*pull or dump it again"),
    (truncated_and_listed_so, r"v001/p00000\.h5 .*dump again"),
    (no_hdf5, r"v001/p00000\.h5 is not a whole shard .*dump again"),
    (missing_shard, r"v001/p00000\.h5 is missing: dump again, or `dvc pull` it"),
    (empty_folder, r"features/pooled holds no cache .*run `mentee dump`"),
    (no_folder, r"features/pooled is not there, .*run `mentee dump`.* or `dvc pull` it"),
    (shards_without_a_manifest, r"features/pooled holds no cache .*run `mentee dump`"),
    (manifest_of_format_1, r"manifest\.json has cache format 1, this version reads 2: dump again"),
    (manifest_of_a_later_format, r"manifest\.json has cache format 3, this version reads 2"),
    (shard_of_format_1, r"p00000\.h5 has cache format 1, this version reads 2: dump"),
    (cache_of_format_1, r"data/cache/labelled/\S+ .*run `mentee dump`"),
    (shard_of_another_dump, r"v001/p00000\.h5 is damaged, or of another dump"),
    (shard_of_another_dump_listed, r"v001/p00000\.h5 is of another dump than .*: dump again"),
    (other_encoding, r"no encoding 'uint4 per moon'.*: use a newer version"),
    (manifest_that_is_no_json, r"manifest\.json is not a manifest .*: dump again"),
]


@pytest.mark.parametrize("command", ["head", "train obedient"])
@pytest.mark.parametrize(("spoil", "reason"), FOUND, ids=lambda v: getattr(v, "__name__", ""))
def test_a_cache_that_does_not_serve_is_refused(
    project: Path, spoil: Callable[[], None], reason: str, command: str
) -> None:
    spoil()
    text = refusal(*command.split())
    assert re.search(reason, text), text


# Params and images that the cache was not made for


@pytest.mark.parametrize("command", ["head", "train obedient"])
def test_other_images_are_refused(project: Path, command: str) -> None:
    data = {**FEW_STEPS["data"], "seed": 1}
    set_params(project, **{**FEW_STEPS, "data": data})
    prepare(load_params())
    text = refusal(*command.split())
    assert "was made for other images than the labelled split: dump again" in text


def test_a_tap_that_was_not_dumped_is_refused(project: Path) -> None:
    early = {"early": {"module": "layer1", "grid": 1}}
    probes = [{"teacher": "early", "student": "conv4", "match": "projection"}]
    set_params(project, **FEW_STEPS, teacher={"taps": early}, probes=probes)
    text = refusal("train", "obedient")
    assert "features/early is not there, the taps that are there: middle, pooled" in text
    assert "run `mentee dump`" in text
    set_params(project, **{**FEW_STEPS, "head": {"tap": "early"}}, teacher={"taps": early})
    assert "the taps that are there: middle, pooled" in refusal("head")


def test_a_real_shell_sees_the_same_line_and_exit_code(project: Path) -> None:
    truncated()
    done = shell("mentee", "head", cwd=project)
    assert done.returncode == 1
    assert done.stdout.startswith("error: ")
    assert len(done.stdout.splitlines()) == 1
