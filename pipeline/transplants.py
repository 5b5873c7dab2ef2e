"""A student's first layers in a fresh network, frozen, and the rest trained on other images.

The protocol by which Venkatesan and Li (2016) tell how general features are, after Yosinski et al.,
"How transferable are features in deep neural networks?", 2014.
"""

from dataclasses import replace

import torch

from pipeline.blocks import Mode, Settings, SoftTargets, Training, Views
from pipeline.compute import Compute
from pipeline.lessons import lone_lessons
from pipeline.mentoring.objective import Objective
from pipeline.mixtures import Mixture
from pipeline.prepared import Split
from pipeline.states import fill
from pipeline.students import Student
from pipeline.training import Look, fit

LABELS_ALONE = Mode(alpha=[(0.0, 1.0)], beta=[(0.0, 0.0)], gamma=[(0.0, 0.0)])
NO_TEACHER = SoftTargets(distance="kl", temperature=1.0)  # never asked: gamma is 0


class Transplant(Student):
    """A fresh student for other classes that keeps another's network up to and including a tap.

    What is kept is frozen and stays in eval mode, so that its batch normalisation does not move.
    """

    def __init__(self, donor: Student, tap: str, class_names: tuple[str, ...], seed: int):
        torch.manual_seed(seed)
        super().__init__(replace(donor.card, class_names=class_names, dropout=0.0))
        self.kept = donor.up_to(tap)
        state = {name: value for name, value in donor.network.state_dict().items()
                 if self.is_kept(name)}  # fmt: skip
        fill(self.network, state, strict=False)
        for name, parameter in self.network.named_parameters():
            parameter.requires_grad_(not self.is_kept(name))

    def is_kept(self, name: str) -> bool:
        """Whether a parameter or buffer is. Those of no child, like position codes, come first."""
        child, inside, _ = name.partition(".")
        return not inside or child in self.kept

    def train(self, mode: bool = True) -> "Transplant":
        super().train(mode)
        for child in self.kept:
            self.network.get_submodule(child).eval()
        return self


def retrain(
    student: Transplant, labelled: Split, test: Split, training: Training, views: Views,
    seed: int, compute: Compute, resident_share: float,
) -> float:  # fmt: skip
    """Train `student` in place on what is labelled; the share of test images it then has right."""
    size = student.card.input_size
    lessons = lone_lessons(labelled, views, size, compute.device, resident_share)
    mixture = Mixture(lessons, None, [(0.0, 0.0)], training.batch_size, seed)
    objective = Objective(LABELS_ALONE, NO_TEACHER, []).to(compute.device)
    accuracies = []

    def listen(look: Look) -> None:
        accuracies.append(float((look.answers.argmax(1) == test.labels).mean()))

    # One look, after the last step: the test images choose nothing.
    once = training.model_copy(update={"validations": 1})
    fit(student, objective, mixture, test, once, Settings(), compute, listen)
    (accuracy,) = accuracies
    return accuracy
