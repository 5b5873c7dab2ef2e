"""Fine-tuning a teacher: its network learns the task's labels, as a whole or in part."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from pipeline.compute import memory_format_of
from pipeline.errors import MenteeError
from pipeline.lessons import Lessons
from pipeline.mixtures import Mixture
from pipeline.prepared import Split
from pipeline.progress import track
from pipeline.taps import module_at
from pipeline.teacher_blocks import Finetune
from pipeline.teachers import Teacher
from pipeline.views import plain, replay

PREDICT_BATCH = 64


def tune(
    teacher: Teacher, classifier: list[nn.Module], lessons: Lessons, settings: Finetune
) -> None:
    """Train `teacher` in place on the labels of `lessons`, by cross-entropy alone.

    AdamW, with a learning rate that rises to its peak and falls again (Smith and Topin, 2019). The
    teacher is in eval mode afterwards. A loss that is not finite is a MenteeError that names the
    step.
    """
    network, lies = teacher.network, memory_format_of(teacher.network)
    network.to(memory_format=lies)
    thaw(network, classifier, settings.layers)
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters, settings.learning_rate, weight_decay=settings.weight_decay, fused=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.learning_rate, total_steps=settings.steps
    )
    mixture = Mixture(lessons, None, [(0.0, 0.0)], settings.batch_size, settings.seed)
    # Other kernels would give other bytes each time, and with them another dump.
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
        for step in track(range(1, settings.steps + 1), "fine-tuning", settings.steps):
            batch = mixture.next(0.0)
            with teacher.compute.autocast():
                inputs = teacher.normalise(batch.pictures).contiguous(memory_format=lies)
                logits = network(inputs)
            loss = F.cross_entropy(logits.float(), batch.labels)
            if not loss.isfinite():
                raise MenteeError(
                    f"step {step}: the teacher's loss is not finite: lower finetune.learning_rate"
                )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    network.eval().requires_grad_(False).to(memory_format=torch.channels_last)


def thaw(network: nn.Module, classifier: list[nn.Module], layers: str | list[str]) -> None:
    """Let the classifier and these layers learn, and nothing else.

    What is frozen stays in eval mode: in training mode its batch normalisation would go by each
    batch's statistics and move its own, so that features meant to stay would change all the same.
    The network itself stays in it too, since the Inception family answers with a tuple while it
    trains.
    """
    network.eval().requires_grad_(layers == "all")
    if layers == "all":
        learning = list(network.children())
    elif layers == "head":
        learning = classifier
    else:
        named = [module_at(network, path, "finetune.layers") for path in layers]
        learning = [*named, *classifier]
    for module in learning:
        module.train().requires_grad_(True)


def predict_logits(teacher: Teacher, split: Split) -> np.ndarray:
    """The teacher's float32 logits `(n, classes)` of a split's plain images."""
    regions = plain(len(split), split.image_size)
    images = torch.from_numpy(split.images)
    starts = range(0, len(split), PREDICT_BATCH)
    answers = []
    for start in track(starts, f"answers to {split.name}", len(starts)):
        rows = slice(start, start + PREDICT_BATCH)
        pictures = replay(images[rows], regions[rows], teacher.input_size)
        answers.append(teacher.answer(pictures).logits.cpu())
    return torch.cat(answers).numpy()
