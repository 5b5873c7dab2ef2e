"""predict: what a trained student, or an exported one, says of image files."""

import glob
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from scipy.special import softmax

from pipeline.blocks import Runtime
from pipeline.compute import Compute, choose_compute
from pipeline.errors import MenteeError
from pipeline.exports import Exported, open_onnx
from pipeline.images import files_below, is_picture, of_each, read_picture
from pipeline.students import Student, load_student
from pipeline.training import PREDICT_BATCH, predict_logits

Found = np.ndarray | MenteeError  # a picture, uint8 `(s, s, 3)`, or what is wrong with its file


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

    def read(path: Path) -> Found:
        try:
            return read_picture(path, network.card.image_size)
        except MenteeError as error:
            return error

    found = zip(paths, of_each(read, paths), strict=True)
    while batch := list(islice(found, PREDICT_BATCH)):
        yield from answer_batch(network, compute, batch)


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
    found: list[Path] = []
    for path in images:
        matches = [path]
        if not path.exists() and glob.has_magic(str(path)):
            matches = [Path(name) for name in sorted(glob.glob(str(path), recursive=True))]
        # Once each: `photos/**` matches a folder and what is in it.
        inside = dict.fromkeys(file for match in matches for file in images_at(match))
        if not inside:
            raise MenteeError(f"{path}: there are no images")
        found += inside
    return found


def images_at(path: Path) -> list[Path]:
    """The images in a folder; what is no folder is meant as one."""
    return [file for file in files_below(path) if is_picture(file)] if path.is_dir() else [path]


def answer_batch(
    network: Student | Exported, compute: Compute, found: Sequence[tuple[Path, Found]]
) -> Iterator[Answer | MenteeError]:
    """An answer for each picture in turn, or what is wrong with its file."""
    pictures = [picture for _, picture in found if not isinstance(picture, MenteeError)]
    answers: Iterator[list[float]] = iter(())
    if pictures:
        logits = predict_logits(network, np.stack(pictures), compute)
        answers = iter(softmax(logits.astype(np.float64), axis=1).tolist())
    for path, picture in found:
        if isinstance(picture, MenteeError):
            yield picture
        else:
            by_name = dict(zip(network.card.class_names, next(answers), strict=True))
            yield Answer(path, max(by_name, key=by_name.__getitem__), by_name)
