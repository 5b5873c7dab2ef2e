"""What `mentee finetune` leaves for the dump: the tuned teacher's weights, and their card."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import MenteeError
from pipeline.files import digest_file, read_json
from pipeline.params import Params
from pipeline.prepared import Split

TUNED = Path("data/teacher")
CARD_FILE, WEIGHTS_FILE = "teacher.json", "weights.safetensors"


@dataclass(frozen=True)
class Tuned:
    """All weights of a teacher that speaks so many classes, in one safetensors file."""

    weights: Path
    classes: int


def origin(params: Params, labelled: Split) -> dict[str, Any]:
    """What a teacher is tuned from and how: its card records it, a dump compares it."""
    return {
        **params.finetune.model_dump(),
        "teacher": params.teacher.model_dump(
            include={"model", "weights", "mean", "std", "input_size"}, exclude_none=True
        ),
        "views": params.views.model_dump(exclude={"unlabelled"}),
        "data": {"digest": labelled.digest, "class_names": list(labelled.class_names)},
    }


def find_tuned(params: Params, labelled: Split) -> Tuned | None:
    """The tuned teacher, or None where params ask for the one that was never tuned.

    A MenteeError if it is not there, is damaged, or was tuned with other params or images.
    """
    if params.finetune.layers == "none":
        return None
    weights = TUNED / WEIGHTS_FILE
    try:
        card = read_json(TUNED / CARD_FILE)
        fits = (card["origin"], card["sha256"]) == (origin(params, labelled), digest_file(weights))
    except (FileNotFoundError, KeyError, TypeError, ValueError):
        fits = False
    if not fits:
        raise MenteeError(
            f"{TUNED} holds no teacher that was tuned as params say: run `mentee finetune`, or "
            f"set finetune.layers to none"
        )
    return Tuned(weights, len(labelled.class_names))
