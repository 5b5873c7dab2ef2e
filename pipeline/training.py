"""Training a student: one loop for every mode."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from math import cos, pi
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from pipeline.blocks import Settings, Training
from pipeline.checkpoints import Checkpoint, Part
from pipeline.compute import Compute, to_device
from pipeline.data_parallel import Lesson, parallel, refuse_too_many
from pipeline.errors import MenteeError
from pipeline.mentoring.objective import Objective
from pipeline.mixtures import Mixture
from pipeline.prepared import Split
from pipeline.progress import say, track
from pipeline.regularisers import EarlyStopping, mixing
from pipeline.students import Student
from pipeline.views import plain, replay

PREDICT_BATCH = 250
MOMENTUM = 0.9
# Of the training: where the step schedule divides the learning rate by ten (Tian et al., 2020).
MILESTONES = (0.625, 0.75, 0.875)


class Sized(Protocol):
    @property
    def input_size(self) -> int: ...


class Answering(Protocol):
    """A student, or one that was exported: uint8 pictures `(n, 3, s, s)` to logits."""

    @property
    def card(self) -> Sized: ...
    def eval(self) -> Any: ...
    def __call__(self, pictures: torch.Tensor) -> torch.Tensor: ...


@dataclass(frozen=True)
class Look:
    """How training stands after a step: what is told now and then.

    terms: the weighed terms of the loss; answers: logits float32 `(n, classes)` of the validation
    images; gradient_norm, weight_norm: L2 over all that is trained, before clipping.
    """

    step: int
    terms: dict[str, float]
    answers: np.ndarray
    gradient_norm: float
    weight_norm: float


class Diverged(MenteeError):
    """A term of the loss that is not finite any more."""

    def __init__(self, step: int, term: str):
        super().__init__(
            f"step {step}: the loss term {term!r} is not finite: lower training.learning_rate or "
            f"the term's weight"
        )
        self.step, self.term = step, term


def fit(
    student: Student, objective: Objective, mixture: Mixture, validation: Split,
    training: Training, settings: Settings, compute: Compute, listen: Callable[[Look], None],
    checkpoint: Checkpoint | None = None,
) -> None:  # fmt: skip
    """Train `student` in place, from where `checkpoint` stands if there is one.

    `listen` hears `training.validations` times, the last time after the last step; after every
    step if these are fewer, and not after early stopping. A loss that is not finite is Diverged,
    which names the step and the term. Ranks that share the batches of `mixture` end with the same
    student.
    """
    ranks = mixture.ranks
    refuse_too_many(ranks, mixture.batch_size, len(validation))
    parameters = [*student.parameters(), *objective.parameters()]
    optimizer = make_optimizer(parameters, training)
    schedule = make_schedule(optimizer, training)
    parts = parts_of(student, objective, optimizer, schedule, mixture)
    averaged = stopping = None
    if training.weight_average:
        average = get_ema_multi_avg_fn(training.weight_average)
        parts["averaged"] = averaged = AveragedModel(
            student, multi_avg_fn=average, use_buffers=True
        )
    if settings.early_stopping:
        parts["stopping"] = stopping = EarlyStopping(settings.early_stopping)
    done = checkpoint.resume(parts, compute.device) if checkpoint else 0
    if done:
        say(f"going on after step {done}")
    judged = cast(Student, averaged.module) if averaged else student
    mix = mixing(settings, len(student.card.class_names))
    looks = looks_of(training)
    taps = {pair.student for pair in objective.pairs}
    watch = Watch()
    steps = range(done + 1, training.steps + 1)
    with student.tapped(taps) as features:
        lesson = parallel(Lesson(student, objective, features, ranks))
        student.train()
        for step in track(steps, "training", len(steps)):
            if stopping and stopping.is_over:
                break
            t = (step - 1) / (training.steps - 1)
            batch = mixture.next(t)
            if mix:
                batch = mix(batch)
            with compute.autocast():
                terms = lesson(batch, t)
            optimizer.zero_grad()
            sum(terms.values()).backward()
            looking = step in looks
            if looking:
                gradient_norm = norm_of(parameter.grad for parameter in parameters)
            if training.gradient_clip:
                torch.nn.utils.clip_grad_norm_(parameters, training.gradient_clip)
            optimizer.step()
            schedule.step()
            if averaged:
                averaged.update_parameters(student)
            watch.see(step, terms)
            if looking:
                watch.check()
                share = predict_logits(judged, validation.images[ranks.own()], compute)
                answers = ranks.whole(torch.from_numpy(share), len(validation)).numpy()
                if stopping:
                    stopping.look(judged, float((answers.argmax(1) == validation.labels).mean()))
                values = {name: term.item() for name, term in terms.items()}
                listen(Look(step, values, answers, gradient_norm, norm_of(parameters)))
                if checkpoint:
                    checkpoint.save(step, parts, compute.device)
                student.train()  # a look has it in eval mode
    if stopping:
        student.load_state_dict(stopping.weights)
    elif averaged:
        student.load_state_dict(averaged.module.state_dict())


def parts_of(
    student: Student, objective: Objective, optimizer: torch.optim.Optimizer,
    schedule: LRScheduler, mixture: Mixture,
) -> dict[str, Part]:  # fmt: skip
    """What every checkpoint holds."""
    return {
        "student": student, "objective": objective, "optimizer": optimizer, "schedule": schedule,
        "mixture": mixture,
    }  # fmt: skip


def looks_of(training: Training) -> set[int]:
    """The steps after which validation is looked at."""
    count = training.validations
    return {round(n * training.steps / count) for n in range(1, count + 1)}


def norm_of(tensors: Iterable[torch.Tensor | None]) -> float:
    """L2 norm over all that are there, taken as one vector."""
    there = [tensor.detach() for tensor in tensors if tensor is not None]
    return torch.nn.utils.get_total_norm(there).item()


def make_optimizer(
    parameters: Iterable[torch.nn.Parameter], training: Training
) -> torch.optim.Optimizer:
    """AdamW (Loshchilov and Hutter, 2019), or SGD with Nesterov's momentum of 0.9.

    The schedule one_cycle moves momentum.
    """
    rate, decay = training.learning_rate, training.weight_decay
    if training.optimizer == "sgd":
        # Not fused: so it trips over probes that a mode takes up after the first step.
        return torch.optim.SGD(
            parameters, rate, momentum=MOMENTUM, nesterov=True, weight_decay=decay
        )
    return torch.optim.AdamW(parameters, rate, weight_decay=decay, fused=True)


def make_schedule(optimizer: torch.optim.Optimizer, training: Training) -> LRScheduler:
    """The learning rate over the steps, rising for a share `warmup` of them to its peak.

    one_cycle is Smith and Topin's, 2018, which moves momentum, or AdamW's first beta, from 0.95 to
    0.85 and back; cosine and step rise linearly, then fall as below.
    """
    if training.schedule == "one_cycle":
        return OneCycleLR(
            optimizer, training.learning_rate, total_steps=training.steps,
            pct_start=training.warmup,
        )  # fmt: skip

    def share(steps_done: int) -> float:
        t = steps_done / training.steps
        if t < training.warmup:
            return (steps_done + 1) / (training.warmup * training.steps + 1)
        if training.schedule == "step":
            return stairs(t)
        return cosine((t - training.warmup) / (1 - training.warmup))

    return LambdaLR(optimizer, share)


def cosine(t: float) -> float:
    """The share of the peak at t, 0 .. 1 from peak to end (Loshchilov and Hutter, 2017)."""
    return (1 + cos(pi * t)) / 2


def stairs(t: float) -> float:
    """The share of the peak at t, 0 .. 1 over all steps: a tenth after each of MILESTONES."""
    return 0.1 ** sum(t >= milestone for milestone in MILESTONES)


class Watch:
    """Which term of the loss was the first that was not finite; the device is asked now and then.

    Asking at every step would make it wait at every step.
    """

    def __init__(self) -> None:
        self._unread: list[tuple[int, tuple[str, ...], torch.Tensor]] = []
        self._found: dict[int, tuple[int, str]] = {}  # by student: the step and the term

    def see(self, step: int, terms: dict[str, torch.Tensor]) -> None:
        """Take note of a step's terms by name, scalars, or `(students,)` of several at once.

        It does not wait for the device, which keeps them until they are checked.
        """
        with torch.no_grad():
            self._unread.append((step, tuple(terms), torch.stack([*terms.values()])))

    def check(self, number: int = 0) -> None:
        """Diverged names the first term that was not finite, and when, of one of the students."""
        for names, same in groupby(self._unread, key=lambda seen: seen[1]):
            steps, _, values = zip(*same, strict=True)
            finite = torch.stack(values).view(len(steps), len(names), -1).isfinite()
            for place, term, student in (~finite).nonzero().tolist():
                self._found.setdefault(student, (steps[place], names[term]))
        self._unread.clear()
        if number in self._found:
            raise Diverged(*self._found[number])


@torch.inference_mode()
def predict_logits(
    student: Answering, images: np.ndarray, compute: Compute, what: str | None = None
) -> np.ndarray:
    """Logits float32 `(n, classes)` of plain images uint8 `(n, H, W, 3)`; sets eval mode.

    Shows progress under the name `what`, if there is one.
    """
    answers = answer_plain(student, images, compute)
    if what:
        answers = track(answers, what, -(-len(images) // PREDICT_BATCH))
    return torch.cat([logits.cpu() for logits in answers]).numpy()


@torch.inference_mode()
def predict_features(
    student: Student, images: np.ndarray, taps: Iterable[str], compute: Compute,
    keep: Callable[[torch.Tensor], torch.Tensor] = torch.Tensor.float,
) -> dict[str, torch.Tensor]:  # fmt: skip
    """What each tap puts out for plain images uint8 `(n, H, W, 3)`, on the device; sets eval mode.

    By tap what `keep` makes of a batch's features, `(n, C)` or `(n, C, h, w)`.
    """
    kept: dict[str, list[torch.Tensor]] = {tap: [] for tap in taps}
    with student.tapped(kept) as features:
        for _ in answer_plain(student, images, compute):
            for tap, parts in kept.items():
                parts.append(keep(features[tap]))
    return {tap: torch.cat(parts) for tap, parts in kept.items()}


def answer_plain(
    student: Answering, images: np.ndarray, compute: Compute
) -> Iterator[torch.Tensor]:
    """Float32 logits of plain images, batch by batch; sets eval mode."""
    student.eval()
    for start in range(0, len(images), PREDICT_BATCH):
        part = to_device(images[start : start + PREDICT_BATCH], compute.device)
        pictures = replay(part, plain(len(part), images.shape[1:3]), student.card.input_size)
        with compute.autocast():
            logits = student(pictures).float()
        yield logits
