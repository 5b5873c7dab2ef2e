"""The page of the cache format is true: its reader reads real caches."""

import hashlib
import json
import re
import zlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from caches import cache_spec, make_cache, mentee

from pipeline.cache.reader import Kind
from pipeline.cache.schema import places
from pipeline.files import canonical_json, digest_text
from pipeline.prepared import Split

PAGE = Path(__file__).parent.parent / "docs/cache-format.md"
LOGITS = ("float16", "float32", "uint8 per row", "top2")
FEATURES = ("float16", "float32", "uint8 per channel", "uint4 per channel")


def reader_of_the_page() -> dict[str, Any]:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(code, str(PAGE), "exec"), names)
    return names


@pytest.mark.parametrize("shape", [[7], [5, 3, 3]])
@pytest.mark.parametrize(("logits", "features"), [*zip(LOGITS, FEATURES, strict=True)])
def test_the_pages_reader_reads_what_ours_reads(
    tmp_path: Path, logits: str, features: str, shape: list[int]
) -> None:
    kinds = {
        "logits": {"encoding": logits, "shape": [3]},
        "features/late": {"module": "pool", "grid": 1, "encoding": features, "shape": shape},
    }
    make_cache(tmp_path, cache_spec(kinds=kinds))
    read_view = reader_of_the_page()["read_view"]
    for kind in kinds:
        ours = Kind(tmp_path / kind)
        for view in range(ours.views):
            np.testing.assert_allclose(
                read_view(tmp_path / kind, view), ours.view(view), rtol=1e-6, atol=1e-6
            )


def test_the_fingerprint_is_that_of_the_canonical_spec(tmp_path: Path) -> None:
    kind = Kind(make_cache(tmp_path) / "logits")
    assert kind.fingerprint == digest_text(canonical_json(kind.spec))
    assert f"format {kind.spec['format']}" in PAGE.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("encoding", "width"), [("uint8 per row", 700), ("top5", 1000), ("float16", 40), (None, 0)]
)
def test_a_rows_checksum_is_over_the_data_sets_in_the_order_in_which_the_page_names_them(
    tmp_path: Path, encoding: str | None, width: int
) -> None:
    """Small ones may lie before larger ones that were written earlier."""
    kinds = {"logits": {"encoding": encoding, "shape": [width]}} if encoding else {"views": {}}
    spec = cache_spec(rows=600, rows_per_shard=600, kinds=kinds)
    (shard,) = make_cache(tmp_path, spec).rglob("v000/p00000.h5")
    tables = PAGE.read_text(encoding="utf-8").split("## A shard")[1]
    with h5py.File(shard) as file:
        arrays = {name: file[name][...] for name in file}
    sums = arrays.pop("checksums")
    order = sorted(arrays, key=lambda name: tables.index(f"`{name}`"))
    for row, told in enumerate(sums):
        assert told == zlib.crc32(b"".join(arrays[name][row].tobytes() for name in order))


def write_as_the_page_says(folder: Path, spec: dict[str, Any], values: np.ndarray) -> None:
    """A kind of one data set, with h5py alone."""
    text = json.dumps(spec, sort_keys=True, separators=(",", ":"))
    shards = []
    for place in places({**spec, "views": {**spec["views"], "count": 1}}):
        path = place.path(folder)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = values[place.start : place.stop]
        arrays = {
            "values": part, "checksums": np.array([zlib.crc32(row) for row in part], np.uint32),
        }  # fmt: skip
        extents = {}
        with h5py.File(path, "w", alignment_threshold=4096, alignment_interval=4096) as file:
            file.attrs["spec"] = np.bytes_(text)
            file.attrs["max_error"] = 0.0
            for field in ("view", "part", "start", "stop"):
                file.attrs[field] = getattr(place, field)
            file.attrs["format"] = 2
            for name, array in arrays.items():
                digest = hashlib.sha256(array.tobytes()).hexdigest()
                file[name] = array
                file[name].attrs["sha256"] = np.bytes_(digest)
                offset = file[name].id.get_offset()
                extents[name] = {"offset": offset, "bytes": array.nbytes, "sha256": digest}
        shards.append({
            "path": path.relative_to(folder).as_posix(), "bytes": path.stat().st_size,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "arrays": extents,
        })  # fmt: skip
    manifest = {
        "format": 2, "kind": "logits", "spec": spec, "shards": shards,
        "fingerprint": hashlib.sha256(text.encode()).hexdigest(),
    }  # fmt: skip
    told = json.dumps(manifest, indent=2, sort_keys=True) + "\n"
    (folder / "manifest.json").write_text(told)


def test_a_kind_that_another_program_wrote_as_the_page_says_is_read(tmp_path: Path) -> None:
    ours = Kind(make_cache(tmp_path / "ours") / "logits")
    values = np.random.default_rng(0).normal(size=(ours.rows, 3)).astype(np.float16)
    write_as_the_page_says(tmp_path / "theirs/logits", ours.spec, values)
    theirs = Kind(tmp_path / "theirs/logits")
    assert theirs.fingerprint == ours.fingerprint
    assert np.array_equal(theirs.view(0), values)
    checked = mentee("cache", "verify", tmp_path / "theirs")
    assert checked.exit_code == 0, checked.output


def test_a_specs_digests_are_made_as_the_page_says(tmp_path: Path) -> None:
    make_cache(tmp_path)
    whole = json.loads((tmp_path / "spec.json").read_text())
    index = whole.pop("index")
    assert index == {"sha256": hashlib.sha256((tmp_path / "index.h5").read_bytes()).hexdigest()}
    whole["kinds"] = {"logits": whole["kinds"]["logits"]}
    del whole["views"]["count"]
    assert Kind(tmp_path / "logits").spec == whole

    images = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 3), np.uint8)
    split = Split("labelled", images, np.array([1, -1]), ("a", "b\u00e9"), ("cat", "\u732b"))
    digested = json.dumps([["a", "b\u00e9"], ["cat", "\u732b"]]).encode()
    digested += np.array([1, -1], "<i8").tobytes() + images.tobytes()
    assert split.digest == hashlib.sha256(digested).hexdigest()
