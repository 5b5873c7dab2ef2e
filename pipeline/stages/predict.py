"""predict: what a trained student, or an exported one, says of image files."""

import glob
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.special import softmax

from pipeline.blocks import Runtime
from pipeline.compute import Compute, choose_compute
from pipeline.errors import MenteeError
from pipeline.exports import Exported, open_onnx
from pipeline.images import is_picture, read_picture
from pipeline.students import Student, load_student
from pipeline.training import PREDICT_BATCH, predict_logits


@dataclass(frozen=True)
class Answer:
    """The likeliest class of an image, and the probability of every class by its name."""

    path: Path
    name: str
    probabilities: dict[str, float]

    @property
    def probability(self) -> float:
        """That of the likeliest class, 0 .. 1."""
        return self.probabilities[self.name]


def predict(
    model: Path, images: Iterable[Path], runtime: Runtime
) -> Iterator[Answer | MenteeError]:
    """An answer for every image in its turn, or what is wrong with its file."""
    network, compute = open_model(model, runtime)
    paths = find_images(images)
    for start in range(0, len(paths), PREDICT_BATCH):
        yield from answer_batch(network, compute, paths[start : start + PREDICT_BATCH])


def open_model(model: Path, runtime: Runtime) -> tuple[Student | Exported, Compute]:
    """A student's folder, or an ONNX file, with what it computes on."""
    if model.suffix == ".onnx":
        return open_onnx(model), Compute(torch.device("cpu"), bfloat16=False)
    if model.suffix == ".pt2":
        raise MenteeError(
            f"{model}: such a file may run code when it is opened: name the .onnx file beside it, "
            f"or open it with torch.export.load yourself"
        )
    compute = choose_compute(runtime)
    return load_student(model).to(compute.device), compute


def find_images(images: Iterable[Path]) -> list[Path]:
    """The files that paths, folders and patterns like `photos/*.jpg` stand for."""
    found = []
    for path in images:
        if path.is_dir():
            inside = sorted(file for file in path.rglob("*") if is_picture(file))
        elif not path.exists() and glob.has_magic(str(path)):
            inside = [Path(name) for name in sorted(glob.glob(str(path), recursive=True))]
        else:
            inside = [path]
        if not inside:
            raise MenteeError(f"{path}: there are no images")
        found += inside
    return found


def answer_batch(
    network: Student | Exported, compute: Compute, paths: list[Path]
) -> Iterator[Answer | MenteeError]:
    """An answer for each path in turn, or what is wrong with its file."""
    pictures: dict[Path, np.ndarray] = {}
    broken: dict[Path, MenteeError] = {}
    for path in paths:
        try:
            pictures[path] = read_picture(path, network.card.image_size)
        except MenteeError as error:
            broken[path] = error
    answers = {}
    if pictures:
        logits = predict_logits(network, np.stack(list(pictures.values())), compute)
        probabilities = softmax(logits.astype(np.float64), axis=1).tolist()
        answers = dict(zip(pictures, probabilities, strict=True))
    names = network.card.class_names
    for path in paths:
        if path in broken:
            yield broken[path]
        else:
            by_name = dict(zip(names, answers[path], strict=True))
            yield Answer(path, max(by_name, key=by_name.__getitem__), by_name)
