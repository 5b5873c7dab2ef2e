"""Several students that train as one: every operation runs once, for all of them.

A step of a small student is a hundred operations that each leave a GPU waiting for the next. Those
of students that differ in nothing but their seed are the same, on other numbers: their weights are
stacked, and torch.vmap runs one student's code over the stack. Nothing is shared between them, so
that each comes out as it would alone, up to rounding.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F
from torch.func import functional_call, stack_module_state, vmap
from torch.overrides import TorchFunctionMode

from pipeline.blocks import Probe, Settings, Training
from pipeline.blocks import Student as StudentParams
from pipeline.checkpoints import Checkpoint, Part
from pipeline.compute import Compute
from pipeline.data_parallel import Lesson
from pipeline.mentoring.distances import DISTANCES
from pipeline.mentoring.objective import PLAIN, Batch, Objective
from pipeline.mixtures import Mixture, next_of_all
from pipeline.prepared import Split
from pipeline.progress import track
from pipeline.ranks import ALONE
from pipeline.students import Student
from pipeline.training import (
    Diverged,
    Look,
    Watch,
    looks_of,
    make_optimizer,
    make_schedule,
    norm_of,
    parts_of,
    predict_logits,
)


@dataclass(frozen=True)
class Pupil:
    """One of the students, what it learns, and who hears of it."""

    student: Student
    objective: Objective
    mixture: Mixture
    listen: Callable[[Look], None]
    checkpoint: Checkpoint


def can_share(
    settings: Settings, probes: Sequence[Probe], training: Training, student: StudentParams
) -> bool:
    """Whether students of these settings, in all but their seed, can train as one.

    Not where random numbers are drawn besides the order of the lessons, where weights are
    penalised, clipped, averaged or kept for being the best, nor with a library's network, of which
    nobody knows what it does.
    """
    told = {"label_smoothing", "unlabelled", "teachers"}
    plain = settings.model_dump(exclude=told) == PLAIN.model_dump(exclude=told)
    contrasts = any(DISTANCES[probe.distance].needs == "negatives" for probe in probes)
    changes_weights = training.gradient_clip or training.weight_average
    return plain and not contrasts and not changes_weights and ":" not in student.model


def fit_together(
    pupils: Sequence[Pupil], validation: Split, training: Training, compute: Compute
) -> list[Diverged | None]:
    """What `fit` does for each of them, who differ in their seed and stand at one step.

    One whose loss is not finite any more is Diverged, and keeps no other from training; its
    checkpoint is that of the look before.
    """
    fates: list[Diverged | None] = [None] * len(pupils)
    looks, watch = looks_of(training), Watch()
    first = pupils[0]
    taps = {pair.student for pair in first.objective.pairs}
    with first.student.tapped(taps) as features, warnings.catch_warnings():
        # What vmap does one after another, since it has no rule for it, is right, if slower.
        warnings.filterwarnings("ignore", "There is a performance drop")
        stack = Stack(pupils, features, training, compute)
        steps = range(stack.done + 1, training.steps + 1)
        first.student.train()
        for step in track(steps, "training", len(steps)):
            t = (step - 1) / (training.steps - 1)
            terms = stack.step(next_of_all([pupil.mixture for pupil in pupils], t), t)
            watch.see(step, terms)
            if step not in looks:
                continue
            for number, pupil in enumerate(pupils):
                try:
                    watch.check(number)
                except Diverged as error:
                    fates[number] = error
                    continue
                parts = stack.take_out(number)
                answers = predict_logits(pupil.student, validation.images, compute)
                values = {name: term[number].item() for name, term in terms.items()}
                pupil.listen(Look(step, values, answers, *stack.norms(number)))
                pupil.checkpoint.save(step, parts, compute.device)
            first.student.train()  # a look has it in eval mode
    return fates


class Stack:
    """The weights of all pupils as single tensors `(pupils, ...)`, and what trains them."""

    def __init__(
        self, pupils: Sequence[Pupil], features: Mapping[str, torch.Tensor], training: Training,
        compute: Compute,
    ):  # fmt: skip
        """From where the pupils' checkpoints stand, all at one step.

        features: where those of the first appear, whose code runs for all.
        """
        self.compute = compute
        self._parts = [parts_for(pupil, training) for pupil in pupils]
        (self.done,) = {
            pupil.checkpoint.resume(parts, compute.device)
            for pupil, parts in zip(pupils, self._parts, strict=True)
        }
        self._lessons = [
            Lesson(pupil.student, pupil.objective, features, ALONE) for pupil in pupils
        ]
        self.weights, self._buffers = stack_module_state(self._lessons)
        self._optimizer = make_optimizer(self.weights.values(), training)
        self._schedule = make_schedule(self._optimizer, training)
        if self.done:
            states = [parts["optimizer"].state_dict() for parts in self._parts]
            self._optimizer.load_state_dict(stacked(states))
            self._schedule.load_state_dict(self._parts[0]["schedule"].state_dict())

    def step(self, batch: Batch, t: float) -> dict[str, torch.Tensor]:
        """Train all by a batch `(pupils, n, ...)` at t, 0 .. 1; the weighed terms, `(pupils,)`."""
        lesson = self._lessons[0]
        told = {"pictures": batch.pictures, "labels": batch.labels, "features": batch.features}
        if batch.logits is not None:
            told["logits"] = batch.logits

        def terms_of_one(weights: Any, buffers: Any, told: dict[str, Any]) -> Any:
            return functional_call(lesson, (weights, buffers), (Batch(**told), t))

        with self.compute.autocast(), Stackable():
            terms = vmap(terms_of_one)(self.weights, self._buffers, told)
        self._optimizer.zero_grad()
        sum(terms.values()).sum().backward()
        self._optimizer.step()
        self._schedule.step()
        return terms

    def norms(self, number: int) -> tuple[float, float]:
        """L2 of one pupil's gradients, and of all that it trains."""
        weights = self.weights.values()
        gradients = norm_of(w.grad[number] for w in weights if w.grad is not None)
        return gradients, norm_of(weight[number] for weight in weights)

    def take_out(self, number: int) -> dict[str, Part]:
        """Bring one pupil, and the parts of its checkpoint, to where the stack stands."""
        lesson, parts = self._lessons[number], self._parts[number]
        of_all = self.weights | self._buffers
        with torch.no_grad():
            for name, value in chain(lesson.named_parameters(), lesson.named_buffers()):
                value.copy_(of_all[name][number])
        parts["optimizer"].load_state_dict(unstacked(self._optimizer.state_dict(), number))
        parts["schedule"].load_state_dict(self._schedule.state_dict())
        return parts


class Stackable(TorchFunctionMode):
    """Within it, torch.vmap takes what it has no rule for: an order in memory, an average of all.

    The order is asked for where it makes one student's convolutions faster; a stack has its own.
    """

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # fmt: skip
        if function is torch.Tensor.contiguous:
            return args[0]
        if function is F.adaptive_avg_pool2d and args[1] in (1, (1, 1)):
            return args[0].mean((2, 3), keepdim=True)
        return function(*args, **(kwargs or {}))


def parts_for(pupil: Pupil, training: Training) -> dict[str, Part]:
    optimizer = make_optimizer(
        [*pupil.student.parameters(), *pupil.objective.parameters()], training
    )
    schedule = make_schedule(optimizer, training)
    return parts_of(pupil.student, pupil.objective, optimizer, schedule, pupil.mixture)


def stacked(states: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The state of an optimizer of all, from one of each; the number of steps is common to all."""
    first = states[0]
    return {
        **first,
        "state": {
            place: {
                name: value if name == "step" else torch.stack(
                    [state["state"][place][name] for state in states]
                )
                for name, value in kept.items()
            }
            for place, kept in first["state"].items()
        },
    }  # fmt: skip


def unstacked(state: dict[str, Any], number: int) -> dict[str, Any]:
    """The state of the optimizer of one, from that of all."""
    return {
        **state,
        "state": {
            place: {
                name: value if name == "step" else value[number].clone()
                for name, value in kept.items()
            }
            for place, kept in state["state"].items()
        },
    }
