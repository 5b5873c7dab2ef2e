"""What evaluate, examine and stability found, beyond metrics: JSON that may be missing."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationError

from pipeline.errors import MenteeError
from pipeline.files import read_json
from pipeline.metrics import CALIBRATION_BINS
from pipeline.params import Params
from pipeline.results import Row
from pipeline.variants import UNTRAINED

EVIDENCE = Path("evidence")
STRENGTHS = 5  # of a corruption
# The numbers of several seeds stand beside each other.
Bins = Field(min_length=CALIBRATION_BINS, max_length=CALIBRATION_BINS)
Weakened = Annotated[list[float], Field(min_length=STRENGTHS, max_length=STRENGTHS)]


class Reliability(BaseModel):
    """A number a bin; nothing where a bin is empty."""

    confidence: list[float | None] = Bins
    accuracy: list[float | None] = Bins
    count: list[float] = Bins


class Difference(BaseModel):
    """A test image, and the answers to it with their probabilities."""

    row: int
    label: str
    student: tuple[str, float]
    teacher: tuple[str, float]


class Attention(BaseModel):
    """Rows of the test split, and by tap a map of each."""

    rows: list[int]
    taps: dict[str, list[list[list[float]]]]


class Evaluated(BaseModel):
    """cka: by the teacher's tap and the student's. filters: RGB pictures."""

    reliability: Reliability | None = None
    cka: dict[str, dict[str, float]] | None = None
    disagreements: list[Difference] = []
    attention: Attention | None = None
    filters: list[list[list[list[int]]]] = []


class Corruptions(BaseModel):
    """images: how many. clean: accuracy without any. The rest: by strength, weakest first."""

    images: int
    clean: float
    gaussian_noise: Weakened
    gaussian_blur: Weakened
    contrast: Weakened
    jpeg: Weakened


class Transferred(BaseModel):
    """Accuracies: by tap and labels a class one a draw, and by the tap trained after."""

    taps: dict[str, dict[str, list[float]]]
    retrained: dict[str, float] = {}


class Examined(BaseModel):
    corruptions: Corruptions | None = None
    targets: dict[str, Transferred] = {}


class Accuracy(BaseModel):
    accuracy: float


class WithLabels(BaseModel):
    test: Accuracy


class Step(BaseModel):
    step: int
    gradient_norm: float


class Tried(BaseModel):
    """diverged: where and how, if it did."""

    mode: str
    depth: int
    learning_rate: float
    accuracy: float
    chance: float
    diverged: dict[str, Any] | None
    curve: list[Step]


# What the report reads of each stage's files; they may hold more.
FORMS: dict[str, type[BaseModel]] = {
    "evaluate": Evaluated, "examine": Examined, "efficiency": WithLabels, "stability": Tried,
}  # fmt: skip


def read_evidence(stage: str, name: str) -> dict[str, Any]:
    """What a stage found of a network; empty where this folder does not have it.

    A MenteeError where the file is not of its form.
    """
    path = EVIDENCE / stage / f"{name}.json"
    try:
        content = read_json(path)
    except FileNotFoundError:
        return {}
    except ValueError:  # no JSON, or no UTF-8
        raise MenteeError(f"{path} is not JSON: `dvc repro` makes it again") from None
    try:
        FORMS[stage].model_validate(content)
    except ValidationError:
        raise MenteeError(f"{path} is damaged: run `dvc repro`, or `mentee {stage}`") from None
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
