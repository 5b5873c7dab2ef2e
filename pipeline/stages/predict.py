"""predict: what a trained student says of image files."""

from pathlib import Path

import numpy as np
import torch

from pipeline.blocks import Runtime
from pipeline.compute import choose_compute
from pipeline.images import read_picture
from pipeline.students import load_student
from pipeline.training import predict_logits


def predict(folder: Path, pictures: list[Path], runtime: Runtime) -> list[tuple[Path, str, float]]:
    """Path, class name and probability of the likeliest class, picture by picture."""
    compute = choose_compute(runtime)
    student = load_student(folder).to(compute.device)
    images = np.stack([read_picture(path, student.card.image_size) for path in pictures])
    logits = torch.from_numpy(predict_logits(student, images, compute, "answers"))
    confidence, label = logits.softmax(1).max(1)
    names = [student.card.class_names[number] for number in label.tolist()]
    return list(zip(pictures, names, confidence.tolist(), strict=True))
