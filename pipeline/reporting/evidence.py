"""What evaluate, examine and stability found, beyond metrics: JSON that may be missing."""

from pathlib import Path
from typing import Any

from pipeline.errors import MenteeError
from pipeline.files import read_json
from pipeline.params import Params
from pipeline.results import Row
from pipeline.variants import UNTRAINED

EVIDENCE = Path("evidence")


def read_evidence(stage: str, name: str) -> dict[str, Any]:
    """What a stage found of a network; empty where this folder does not have it."""
    path = EVIDENCE / stage / f"{name}.json"
    try:
        content = read_json(path)
    except FileNotFoundError:
        return {}
    except ValueError:  # no JSON, or no UTF-8
        raise MenteeError(f"{path} is not JSON: `dvc repro` makes it again") from None
    if not isinstance(content, dict):
        raise MenteeError(f"{path} is damaged: `dvc repro` makes it again")
    return content


def found(row: Row, stage: str, part: str) -> dict[str, Any]:
    """One part of what a stage found of a row's networks, by their names."""
    parts = {name: read_evidence(stage, name).get(part) for name in row.names}
    return {name: content for name, content in parts.items() if content}


def untrained(params: Params) -> Row:
    """The student's network before any training, as a row without scores."""
    names = tuple(f"{UNTRAINED}-{seed}" for seed in params.sweep.seeds)
    return Row(UNTRAINED, UNTRAINED, names, tuple(params.sweep.seeds), ())


def read_attempts(params: Params) -> list[dict[str, Any]]:
    """Every short training of the sweep of learning rates that is in this folder."""
    attempts = (read_evidence("stability", attempt.name) for attempt in params.attempts())
    return [attempt for attempt in attempts if attempt]
