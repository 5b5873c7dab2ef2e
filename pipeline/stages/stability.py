"""stability: one short training at a learning rate and depth, whether it gets anywhere or not."""

from pathlib import Path

import numpy as np

from pipeline.blocks import Settings
from pipeline.files import write_json
from pipeline.params import Params
from pipeline.progress import say
from pipeline.runs import set_up
from pipeline.training import Diverged, Look, predict_logits
from pipeline.variants import PLAIN, Attempt, Variant

EVIDENCE = Path("evidence/stability")
LOOKS = 20  # times that accuracy and norms are noted


def stability(params: Params, attempt: Attempt) -> None:
    """Train, and write how far it came; a loss that is not finite ends it and is a result."""
    changed = with_changes(params, attempt)
    run = set_up(changed, Variant(attempt.mode, PLAIN, attempt.seed))
    labels = run.validation.labels
    curve = []

    def accuracy_of(answers: np.ndarray) -> float:
        return float((answers.argmax(1) == labels).mean())

    def listen(look: Look) -> None:
        curve.append({
            "step": look.step,
            "accuracy": accuracy_of(look.answers),
            "gradient_norm": look.gradient_norm,
            "weight_norm": look.weight_norm,
        })  # fmt: skip

    diverged = None
    try:
        run.go(changed.training, listen)
    except Diverged as error:
        diverged = {"step": error.step, "term": error.term}
    answers = predict_logits(run.student, run.validation.images, run.compute)
    accuracy = accuracy_of(answers)
    content = {
        "mode": attempt.mode,
        "learning_rate": attempt.learning_rate,
        "depth": attempt.depth,
        "seed": attempt.seed,
        "accuracy": accuracy,
        "chance": 1 / len(run.validation.class_names),
        "diverged": diverged,
        "curve": curve,
    }
    write_json(EVIDENCE / f"{attempt.name}.json", content)
    end = f"diverged at step {diverged['step']} ({diverged['term']})" if diverged else "whole"
    say(f"{attempt.name}: validation accuracy {accuracy:.1%}, {end}")


def with_changes(params: Params, attempt: Attempt) -> Params:
    """These params at the attempt's learning rate and depth, of the sweep's length, and plain."""
    training = params.training_of(
        "stability.steps", steps=params.stability.steps, learning_rate=attempt.learning_rate,
        validations=LOOKS,
    )  # fmt: skip
    changed = {
        "training": training,
        "student": params.student_of(attempt.depth),
        "settings": {PLAIN: Settings()},
    }
    return params.model_copy(update=changed)
