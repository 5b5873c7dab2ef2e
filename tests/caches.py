"""Helpers: small caches made with the real writer, and one command run on them."""

from pathlib import Path
from typing import Any

import numpy as np
from click.testing import CliRunner, Result

from pipeline.cache import schema
from pipeline.cache.encodings import encoding_of
from pipeline.cache.shard import write_shard
from pipeline.cache.writer import write_manifest, write_root
from pipeline.cli import main

ROWS, PER_SHARD, VIEWS = 50, 20, 3
CLASSES = ("cat", "dog", "eel")


def cache_spec(**changes: Any) -> dict[str, Any]:
    """The spec of a small split: three kinds, three views of fifty rows, parts of twenty."""
    return {
        "format": schema.FORMAT,
        "split": "labelled",
        "rows": ROWS,
        "rows_per_shard": PER_SHARD,
        "data": {"digest": "d" * 64, "class_names": list(CLASSES)},
        "views": {"count": VIEWS, "padding": 4, "flip": True, "seed": 0, "image_size": [8, 8]},
        "teacher": {"model": "timm:some", "weights_sha256": "a" * 64, "input_size": 16},
        "kinds": {
            "views": {},
            "logits": {"encoding": "float16", "shape": [len(CLASSES)]},
            "features/late": {
                "module": "pool", "grid": 1, "encoding": "uint8 per channel", "shape": [700],
            },
        },
        **changes,
    }  # fmt: skip


def answers(spec: dict[str, Any], kind: str, place: schema.Place, seed: int = 0) -> np.ndarray:
    """Answers that tell kind, view and row: normal numbers that depend on all three."""
    key = [seed, *kind.encode(), place.view, place.start]
    rows = place.stop - place.start
    shape = spec["kinds"][kind]["shape"]
    return np.random.default_rng(key).normal(size=(rows, *shape)).astype(np.float32)


def shown(place: schema.Place) -> dict[str, np.ndarray]:
    """What the views' kind holds: regions, and digests of pixels."""
    generator = np.random.default_rng([place.view, place.start])
    rows = place.stop - place.start
    regions = generator.integers(-4, 4, size=(rows, 5), dtype=np.int32)
    return {
        schema.REGIONS: regions.astype("<i4"),
        schema.PIXELS: generator.integers(2**63, size=rows).astype("<u8"),
    }


def make_cache(root: Path, spec: dict[str, Any] | None = None, seed: int = 0) -> Path:
    """A split's cache under `root`, written as a dump writes it."""
    spec = spec or cache_spec()
    for kind, described in spec["kinds"].items():
        own = schema.shard_spec(spec, kind)
        for place in schema.places(spec):
            if kind == schema.VIEWS:
                arrays, error = shown(place), 0.0
            else:
                values = answers(spec, kind, place, seed)
                encoding = encoding_of(described)
                arrays = encoding.encode(values)
                error = encoding.max_error(values, arrays)
            write_shard(place.path(root / kind), arrays, own, place, error)
        write_manifest(root / kind, kind, own, list(schema.places(spec)))
    ids = tuple(f"image-{row}" for row in range(spec["rows"]))
    write_root(root, spec, ids, np.arange(spec["rows"]) % len(CLASSES))
    return root


def mentee(*arguments: object) -> Result:
    """`mentee ...` in this process, as the shell would run it."""
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def files_under(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
