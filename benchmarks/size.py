"""How many bytes a view's answers take, by encoding."""

import io
from pathlib import Path

import torch
from answers import random_answers
from rows import Row, row

from pipeline.cache import schema
from pipeline.cache.encodings import encoding_of, features_encoding, logits_encoding
from pipeline.cache.shard import write_shard
from pipeline.compute import choose_compute
from pipeline.params import load_params
from pipeline.teachers import load_teacher


def size(folder: Path, scale: float = 1.0) -> list[Row]:
    """Bytes of a view's answers on the default task, as they are stored."""
    shapes = answers_of_the_default_task()
    rows = max(int(load_params().cache.rows_per_shard * scale), 8)
    bytes_of = {
        "float16": stored_bytes(folder / "float16", shapes, rows, "float16", "float16"),
        "8 bits": stored_bytes(folder / "uint8", shapes, rows, "uint8", "uint8"),
        "8 bits + top 10": stored_bytes(folder / "top10", shapes, rows, "top10", "uint8"),
        "4 bits + top 10": stored_bytes(folder / "uint4", shapes, rows, "top10", "uint4"),
    }
    sample = {
        name: torch.from_numpy(random_answers(shape, 1, 0)[0]) for name, shape in shapes.items()
    }
    saved = io.BytesIO()
    torch.save(sample, saved)
    bytes_of["float32, torch.save"] = len(saved.getbuffer())
    made = []
    for name, other, target in (
        ("float16", "float32, torch.save", None),
        ("8 bits", "float16", None),
        ("8 bits + top 10", "float16", 0.3),
        ("8 bits + top 10", "float32, torch.save", None),
        ("4 bits + top 10", "float16", 0.3),
        ("4 bits + top 10", "float32, torch.save", None),
    ):
        measured = f"{bytes_of[name]:,.0f} against {bytes_of[other]:,.0f} bytes"
        ratio = bytes_of[name] / bytes_of[other]
        what = f"bytes a view: {name} against {other}"
        made.append(row(what, [ratio], measured, target=target, at_most=True))
    return made


def answers_of_the_default_task() -> dict[str, tuple[int, ...]]:
    """The shapes of what the teacher of params.yaml says of a view, by kind."""
    params = load_params()
    teacher = load_teacher(params.teacher, choose_compute(params.runtime))
    pixels = params.teacher.input_size
    said = teacher.answer(torch.zeros(1, 3, pixels, pixels, dtype=torch.uint8))
    taps = {schema.features_kind(tap): tuple(values.shape[1:])
            for tap, values in said.features.items()}  # fmt: skip
    return {schema.LOGITS: tuple(said.logits.shape[1:]), **taps}


def stored_bytes(
    folder: Path, shapes: dict[str, tuple[int, ...]], rows: int, logits: str, features: str
) -> float:
    """Bytes a row of whole shard files of every kind, headers and checksums included."""
    place, total = schema.Place(0, 0, 0, rows), 0
    for number, (kind, shape) in enumerate(shapes.items()):
        stored = logits_encoding(logits, shape[0]) if kind == schema.LOGITS else None
        encoding = stored or features_encoding(features)
        described = {"encoding": encoding, "shape": list(shape)}
        arrays = encoding_of(described).encode(random_answers(shape, rows, number))
        path = folder / f"{number}.h5"
        write_shard(path, arrays, {"kinds": {kind: described}}, place)
        total += path.stat().st_size
    return total / rows
