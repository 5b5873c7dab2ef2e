"""A student as a file that other programs run: ONNX, ONNX in 8 bits, or a torch.export program.

Normalisation is part of the graph. What a program has to do with an image file before is written
in the file's metadata, beside the class names.
"""

import io
import logging
import warnings
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import nn

from pipeline.blocks import Block
from pipeline.errors import MenteeError, reason
from pipeline.students import Card, ClassNames, Side, Student

INPUT, OUTPUT = "pictures", "logits"  # uint8 (n, 3, s, s) and float32 (n, classes)
METADATA = "mentee"  # the key in an ONNX file; in a torch.export program it is mentee.json
PREPROCESSING = (
    "Turn the image as EXIF says. Make transparent pixels white. Of 16-bit grey keep the upper 8 "
    "bits. Convert to RGB. Crop the centre to a square and resample it to image_size, then to "
    "input_size, both bicubic with antialiasing. Give uint8 (n, 3, input_size, input_size)."
)


class About(Block):
    """What an exported file says of itself; sizes are in pixels."""

    class_names: ClassNames
    image_size: Side
    input_size: Side
    preprocessing: str
    trained: dict[str, Any]

    @classmethod
    def of(cls, card: Card) -> "About":
        """What a student's card says, and what to do with an image file before."""
        return cls(
            class_names=card.class_names, image_size=card.image_size, input_size=card.input_size,
            preprocessing=PREPROCESSING, trained=card.about,
        )  # fmt: skip


class Exported(nn.Module):
    """An exported student, which answers as the student does: uint8 pictures to logits."""

    def __init__(self, card: About, answer: Callable[[torch.Tensor], torch.Tensor]):
        super().__init__()
        self.card, self._answer = card, answer

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """uint8 `(n, 3, s, s)` -> float32 logits `(n, classes)`; s is input_size."""
        return self._answer(pictures)


def library(name: str) -> ModuleType:
    """A module of the extra `export`; a MenteeError says how to get it."""
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise MenteeError(
            f"{error.name} is not installed: pip install 'mentee[export]' gets it"
        ) from None


def trace(student: Student) -> torch.export.ExportedProgram:
    """The student's computation, for batches of any size."""
    size = student.card.input_size
    example = torch.zeros((2, 3, size, size), dtype=torch.uint8)
    student.network.to(memory_format=torch.contiguous_format)
    batch = {INPUT: {0: torch.export.Dim("n", min=1)}}
    try:
        return torch.export.export(student.eval(), (example,), dynamic_shapes=batch)
    except Exception as error:  # of the many kinds that tracing knows
        raise MenteeError(
            f"torch.export cannot trace {student.card.model} ({reason(error)}): train another model"
        ) from None


def write_program(program: torch.export.ExportedProgram, about: About, path: Path) -> None:
    """Write a file of torch.export, with `about` as JSON inside."""
    extra = {f"{METADATA}.json": about.model_dump_json()}
    content = io.BytesIO()  # torch does not say of a full disk that it is full
    torch.export.save(program, content, extra_files=extra)
    path.write_bytes(content.getbuffer())


def write_onnx(program: torch.export.ExportedProgram, about: About, path: Path) -> None:
    """Write an ONNX file for batches of any size, with `about` as JSON in its metadata.

    A MenteeError where the extra `export` is not installed.
    """
    library("onnxscript")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what becomes deprecated within torch itself
        made = torch.onnx.export(
            program, input_names=[INPUT], output_names=[OUTPUT], dynamo=True, verbose=False
        )
    assert made, "dynamo=True makes a program"
    made.model.metadata_props[METADATA] = about.model_dump_json()
    made.save(path)


def write_onnx_in_8_bits(whole: Path, pictures: np.ndarray, path: Path) -> None:
    """Weights and activations of the ONNX file `whole` in 8 bits.

    Their ranges are those that `pictures` uint8 `(n, 3, s, s)` show. Of the weights' 8 bits 7 are
    used: x86 processors without VNNI add two products in 16 bits, which else saturate without a
    word (onnxruntime's page on quantization).
    """
    quantization: Any = library("onnxruntime.quantization")
    kinds = quantization.QuantType

    class Reader(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self._batches = iter(np.array_split(pictures, -(-len(pictures) // 64)))

        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(self._batches, None)
            return None if batch is None else {INPUT: batch}

    logging.disable(logging.WARNING)  # it recommends what torch's exporter has done
    try:
        quantization.quantize_static(
            whole, path, Reader(), per_channel=True, activation_type=kinds.QUInt8,
            weight_type=kinds.QInt8, reduce_range=True,
        )  # fmt: skip
    finally:
        logging.disable(logging.NOTSET)


def check_shapes(session: Any, card: About) -> None:
    """A ValueError unless the graph takes and gives what its metadata say."""
    (given,), (answered,) = session.get_inputs(), session.get_outputs()
    size = card.input_size
    if (given.name, given.type, given.shape[1:]) != (INPUT, "tensor(uint8)", [3, size, size]):
        raise ValueError(f"it takes {given.name} {given.type} {given.shape}")
    if (answered.name, answered.shape[1:]) != (OUTPUT, [len(card.class_names)]):
        raise ValueError(f"it gives {answered.name} {answered.shape}")


def open_onnx(path: Path) -> Exported:
    """The network in an ONNX file that `mentee export` wrote, on the CPU."""
    runtime = library("onnxruntime")
    try:
        session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
        about = session.get_modelmeta().custom_metadata_map[METADATA]
        card = About.model_validate_json(about)
        check_shapes(session, card)
    except Exception as error:  # onnxruntime has a kind of its own for every way to fail
        if not path.exists():
            raise MenteeError(f"{path}: there is no such file") from None
        raise MenteeError(
            f"{path} is no ONNX file that `mentee export` wrote ({reason(error)})"
        ) from None

    def answer(pictures: torch.Tensor) -> torch.Tensor:
        given = {INPUT: np.ascontiguousarray(pictures.numpy())}
        return torch.from_numpy(session.run([OUTPUT], given)[0])

    return Exported(card, answer)
