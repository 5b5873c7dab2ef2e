"""Files of one's own that DVC does not know of are pointed out; all others are not."""

from pathlib import Path

import pytest

from pipeline.watched import warn_of_unwatched


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
        Path("dvc.yaml").write_text(text)
    warn_of_unwatched("teacher.weights", Path("weights/mine.pt"), "dump")
    told = "".join(capsys.readouterr())
    assert bool(told) == is_told
    if is_told:
        assert told == (
            "warning: teacher.weights: DVC will not notice when weights/mine.pt changes: list it "
            "in dvc.yaml under the deps of dump\n"
        )
