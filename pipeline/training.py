"""Training a student: one loop for every mode."""

from collections.abc import Callable

import numpy as np
import torch

from pipeline.compute import Compute
from pipeline.errors import MenteeError
from pipeline.lessons import Mixture
from pipeline.mentoring.objective import Objective
from pipeline.params import Training
from pipeline.prepared import Split
from pipeline.progress import track
from pipeline.students import Student
from pipeline.taps import tapped
from pipeline.views import replay

PREDICT_BATCH = 250
# What is told now and then: step, the weighed terms of the loss, the validation logits.
Listener = Callable[[int, dict[str, float], np.ndarray], None]


def fit(
    student: Student, objective: Objective, mixture: Mixture, validation: Split,
    training: Training, compute: Compute, listen: Listener,
) -> None:  # fmt: skip
    """Train `student` in place with AdamW and a one-cycle learning rate.

    `listen` hears `training.validations` times, the last time after the last step. A loss that is
    not finite is a MenteeError that names the step and the term.
    """
    parameters = [*student.parameters(), *objective.parameters()]
    optimizer = torch.optim.AdamW(
        parameters, lr=training.learning_rate, weight_decay=training.weight_decay, fused=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, training.learning_rate, total_steps=training.steps, pct_start=training.warmup
    )
    heard = {round(n * training.steps / training.validations)
             for n in range(1, training.validations + 1)}  # fmt: skip
    modules = {pair.student: pair.student for pair in objective.pairs}
    with tapped(student.network, modules) as features:
        for step in track(range(1, training.steps + 1), "training", training.steps):
            student.train()
            batch = mixture.next()
            with compute.autocast():
                logits = student(batch.pictures)
                terms = objective(batch, logits, features, (step - 1) / (training.steps - 1))
            optimizer.zero_grad()
            sum(terms.values()).backward()
            optimizer.step()
            schedule.step()
            if step in heard:
                told = {name: term.item() for name, term in terms.items()}
                _check_finite(told, step)
                listen(step, told, predict_logits(student, validation.images, compute))


def _check_finite(terms: dict[str, float], step: int) -> None:
    for name, value in terms.items():
        if not np.isfinite(value):
            raise MenteeError(
                f"step {step}: the loss term {name!r} is {value}: lower training.learning_rate "
                f"or the term's weight"
            )


@torch.inference_mode()
def predict_logits(
    student: Student, images: np.ndarray, compute: Compute, what: str | None = None
) -> np.ndarray:
    """Logits float32 `(n, classes)` of plain images uint8 `(n, H, W, 3)`; sets eval mode.

    Shows progress under the name `what`, if there is one.
    """
    student.eval()
    height, width = images.shape[1:3]
    plain = torch.tensor([0, 0, height, width, 0], device=compute.device)
    starts = range(0, len(images), PREDICT_BATCH)
    out = []
    for start in track(starts, what, len(starts)) if what else starts:
        part = torch.from_numpy(images[start : start + PREDICT_BATCH]).to(compute.device)
        pictures = replay(part, plain.expand(len(part), -1), student.card.input_size)
        with compute.autocast():
            out.append(student(pictures).float().cpu())
    return torch.cat(out).numpy()
