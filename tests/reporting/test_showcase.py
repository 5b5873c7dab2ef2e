"""Whose pictures the gallery shows."""

import json
from pathlib import Path

import pytest

from pipeline.reporting.showcase import make_gallery
from pipeline.results import Row


def row(name: str, group: str, validation: float) -> Row:
    return Row(name, group, (name,), (0,), ({"validation": {"accuracy": validation}},))


def test_the_gallery_shows_the_student_of_several_teachers_that_validation_likes_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [row("alone", "labels", 0.5), row("led", "features", 0.6), row("both", "teachers", 0.7)]
    folder = tmp_path / "evidence/evaluate"
    folder.mkdir(parents=True)
    for each in rows:
        kernels = [[[[0, 0, 0]]]]
        (folder / f"{each.title}.json").write_text(json.dumps({"filters": kernels}))
    gallery = make_gallery(rows)
    assert gallery is not None
    assert gallery.student == "both"
    assert list(gallery.filters) == ["alone", "both"]
