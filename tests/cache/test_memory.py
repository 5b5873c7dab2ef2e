"""Caches that are larger than memory, and how much memory there is."""

import os
from pathlib import Path

import numpy as np
import pytest
from caches import cache_spec, make_cache

from pipeline.cache import mapping, memory
from pipeline.cache.reader import Kind


@pytest.mark.parametrize("available", [1 << 40, 20_000])
def test_rows_are_the_same_whether_they_fit_into_memory_or_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, available: int
) -> None:
    """Parts of forty rows are mapped, the last ones of ten are smaller than a page and copied."""
    kinds = {"logits": {"encoding": "float32", "shape": [90]}}
    root = make_cache(tmp_path, cache_spec(kinds=kinds, rows_per_shard=40))
    wanted = Kind(root / "logits")
    everything = np.stack([wanted.view(view) for view in range(wanted.views)])
    monkeypatch.setattr(mapping, "memory_bytes", lambda: available)
    kind = Kind(root / "logits")
    generator = np.random.default_rng(0)
    for _ in range(10):  # more than there is room for, several times over
        views, rows = generator.integers(3, size=60), generator.integers(50, size=60)
        np.testing.assert_array_equal(kind.gather(views, rows), everything[views, rows])
        for place, values in kind.parts():
            np.testing.assert_array_equal(values, everything[place.view, place.start : place.stop])


def test_memory_is_what_the_narrowest_group_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = Path("/proc/self/cgroup").read_text().splitlines()
    groups = [line.split(":", 2) for line in own]
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    monkeypatch.setattr(memory, "_GROUPS", tmp_path)
    assert memory.memory_bytes() == physical
    for _, controllers, path in groups:
        if not controllers:
            folder, name = tmp_path / path.lstrip("/"), "memory.max"
        elif "memory" in controllers.split(","):
            folder, name = tmp_path / "memory" / path.lstrip("/"), "memory.limit_in_bytes"
        else:
            continue
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("max\n")
        assert memory.memory_bytes() == physical
        (folder / name).write_text("1000000\n")
        assert memory.memory_bytes() == 1_000_000
        (folder / name).unlink()
