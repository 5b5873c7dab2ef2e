"""The page of the cache format is true: its reader reads real caches."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from caches import cache_spec, make_cache

from pipeline.cache.reader import Kind
from pipeline.files import canonical_json, digest_text

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
