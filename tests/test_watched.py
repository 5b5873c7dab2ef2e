"""Files of one's own that DVC does not know of are pointed out; all others are not."""

from pathlib import Path

import pytest

from pipeline.watched import warn_of_unwatched, warn_of_unwatched_images


def stages(*deps: str) -> str:
    return "stages:\n  dump:\n    deps:\n" + "".join(f"      - {path}\n" for path in deps)


@pytest.mark.parametrize(
    ("text", "is_told"),
    [
        (stages("a.h5"), True),
        (stages("a.h5", "weights/other.pt"), True),
        (stages("a.h5", "weights/mine.pt"), False),
        (stages("./weights"), False),
        (stages("weights/x/../mine.pt"), False),
        ("stages: {}", False),
        ("stages: {dump: null}", False),
        ("# \xff", False),
        ("stages: [", False),
        (None, False),
    ],
)
def test_a_file_is_named_if_no_dependency_holds_it(
    text: str | None, is_told: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    if text:
        Path("dvc.yaml").write_bytes(text.encode("latin-1"))
    warn_of_unwatched("teacher.weights", Path("weights/mine.pt"), "dump")
    told = "".join(capsys.readouterr())
    assert bool(told) == is_told
    if is_told:
        assert told == (
            "warning: teacher.weights: DVC will not notice when weights/mine.pt changes: list it "
            "in dvc.yaml under the deps of dump\n"
        )


@pytest.mark.parametrize(
    ("source", "named"),
    [
        ("folder:images", "images"),
        ("csv:images/all.csv", "images/all.csv"),
        ("folder:images:2", "images:2"),
        ("digits", None),
        ("torchvision:FashionMNIST", None),
    ],
)
def test_of_sources_those_are_named_that_are_files_of_ones_own(
    source: str, named: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("dvc.yaml").write_text(stages("a.h5"))
    warn_of_unwatched_images("data.source", source, "dump")
    told = "".join(capsys.readouterr())
    assert (f"data.source: DVC will not notice when {named} changes" in told) == bool(named)
    assert bool(told) == bool(named)
