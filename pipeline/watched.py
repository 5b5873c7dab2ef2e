"""Whether DVC notices when a file changes that params name and a stage reads."""

from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pipeline.progress import warn

STAGES_FILE = Path("dvc.yaml")


def warn_of_unwatched(key: str, path: Path, stage: str) -> None:
    """Tell where `stage` of dvc.yaml does not depend on `path`, which params name under `key`.

    DVC knows no dependency that may be there or not, so ours cannot list it.
    """
    try:
        content = YAML(typ="safe", pure=True).load(STAGES_FILE.read_text(encoding="utf-8"))
        listed = [Path(str(path)).resolve() for path in content["stages"][stage]["deps"]]
    except (OSError, UnicodeDecodeError, YAMLError, KeyError, TypeError):
        return  # nothing that DVC would run
    own = path.resolve()
    if not {own, *own.parents}.intersection(listed):
        warn(
            f"warning: {key}: DVC will not notice when {path} changes: list it in {STAGES_FILE} "
            f"under the deps of {stage}"
        )


def warn_of_unwatched_images(key: str, source: str, stage: str) -> None:
    """The same of a source of images, where it is `folder:PATH` or `csv:PATH`."""
    kind, _, path = source.partition(":")
    if kind in ("folder", "csv"):
        warn_of_unwatched(key, Path(path), stage)
