"""The teacher as `mentee examine` asks it, with the head that students learn from."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from pipeline.compute import Compute
from pipeline.errors import MenteeError
from pipeline.files import read_json
from pipeline.heads import Head
from pipeline.params import Params
from pipeline.prepared import PREPARED_FILE, read_split
from pipeline.progress import track
from pipeline.stages.head import HEAD_FILE, fit
from pipeline.teacher_blocks import Tap
from pipeline.teachers import Answers, Teacher, load_teacher
from pipeline.tuned import find_tuned
from pipeline.views import plain, replay

BATCH = 64


@dataclass(frozen=True)
class ExaminedTeacher:
    """Answers by a head on a tap, or by its own logits where there is none."""

    teacher: Teacher
    tap: str
    head: Head | None

    def answer(self, images: np.ndarray) -> np.ndarray:
        return np.concatenate([self._decided(answers) for answers in self.asked(images)])

    def _decided(self, answers: Answers) -> np.ndarray:
        if self.head is None:
            return answers.logits.argmax(1).cpu().numpy()
        logits, _ = self.head.predict(answers.features[self.tap].cpu().numpy())
        return logits.argmax(1)

    def features(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """The taps of teacher.taps."""
        told = track(self.asked(images), "teacher's features", -(-len(images) // BATCH))
        parts = [answers.features for answers in told]
        return {tap: torch.cat([part[tap] for part in parts]).cpu().numpy()
                for tap in self.teacher.taps}  # fmt: skip

    def asked(self, images: np.ndarray) -> Iterator[Answers]:
        """What the teacher says of plain images, batch by batch."""
        for start in range(0, len(images), BATCH):
            part = torch.from_numpy(images[start : start + BATCH])
            regions = plain(len(part), images.shape[1:3])
            yield self.teacher.answer(replay(part, regions, self.teacher.input_size))


def examined_teacher(params: Params, compute: Compute) -> ExaminedTeacher:
    """The teacher, tuned if params say so, its maps averaged to one place, with its head.

    The head is fitted again from the cached features, as `mentee head` chose it.
    """
    labelled, validation = (read_split(PREPARED_FILE, name) for name in ("labelled", "validation"))
    taps = {name: Tap(module=tap.module, grid=1) for name, tap in params.teacher.taps.items()}
    asked = params.teacher.model_copy(update={"taps": taps})
    teacher = load_teacher(asked, compute, find_tuned(params, labelled))
    head = fit(as_chosen(params), labelled, validation) if params.head.fit else None
    network = ExaminedTeacher(teacher, params.head.tap, head)
    classes = next(network.asked(labelled.images[:1])).logits.shape[1]
    if head is None and classes != len(labelled.class_names):
        raise MenteeError(
            f"head.fit: the teacher speaks {classes} classes, the task has "
            f"{len(labelled.class_names)}: set head.fit to true, or tune the teacher "
            f"(finetune.layers)"
        )
    return network


def as_chosen(params: Params) -> Params:
    """These params with nothing left to choose: trying all again would take five times as long.

    But for self-training, where the best head of all tells the others what to learn.
    """
    if params.head.self_training:
        return params
    try:
        chosen = read_json(HEAD_FILE)
        only = {"inverse_regularisation": [chosen["inverse_regularisation"]]}
        if params.head.posterior != "point":
            only["temperatures"] = [chosen["temperature"]]
    except (FileNotFoundError, KeyError, TypeError, ValueError):  # none, or it is damaged
        raise MenteeError(f"{HEAD_FILE} holds no head as params say: run `mentee head`") from None
    return params.model_copy(update={"head": params.head.model_copy(update=only)})
