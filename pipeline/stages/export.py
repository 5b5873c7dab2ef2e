"""export: a student as files that other programs run, checked against the student itself."""

from pathlib import Path

import numpy as np
import torch

from pipeline.compute import Compute
from pipeline.errors import MenteeError
from pipeline.exports import (
    About,
    Exported,
    open_onnx,
    trace,
    write_onnx,
    write_onnx_in_8_bits,
    write_program,
)
from pipeline.files import replaced_whole
from pipeline.metrics import score
from pipeline.prepared import PREPARED_FILE, Split, read_split
from pipeline.progress import say
from pipeline.students import Student, load_student
from pipeline.training import predict_logits
from pipeline.views import plain, replay

EXPORTS = Path("exports")
ONNX, ONNX_8_BITS, PROGRAM = "student.onnx", "student-int8.onnx", "student.pt2"
TOLERANCE = 1e-4  # of logits, absolute and relative
CALIBRATED = 500  # labelled images that show the ranges of activations
COMPUTE = Compute(torch.device("cpu"), bfloat16=False)


def export(folder: Path) -> None:
    """Write the student in `folder` to EXPORTS in three forms, each scored on the test split.

    A MenteeError where a form in float32 does not answer within TOLERANCE of the student.
    """
    student = load_student(folder)
    test, labelled = (read_split(PREPARED_FILE, name) for name in ("test", "labelled"))
    if test.class_names != student.card.class_names:
        raise MenteeError(
            f"{folder} knows other classes than {PREPARED_FILE}: export it in its own project"
        )
    logits = predict_logits(student, test.images, COMPUTE, "answers of the student")
    about = About.of(student.card)
    program = trace(student)
    place = EXPORTS / folder.resolve().name
    with replaced_whole(place) as fresh:
        write_program(program, about, fresh / PROGRAM)
        write_onnx(program, about, fresh / ONNX)
        write_onnx_in_8_bits(fresh / ONNX, calibration(student, labelled), fresh / ONNX_8_BITS)
        reloaded = torch.export.load(fresh / PROGRAM).module()
        exported = {
            PROGRAM: Exported(about, lambda pictures: reloaded(pictures)),  # no module: no train()
            ONNX: open_onnx(fresh / ONNX),
            ONNX_8_BITS: open_onnx(fresh / ONNX_8_BITS),
        }
        accuracy = score(logits, test.labels)["accuracy"]
        say(f"{folder}: {accuracy:.1%} of {len(test)} test images right")
        for name, network in exported.items():
            found = predict_logits(network, test.images, COMPUTE, f"answers of {name}")
            if name != ONNX_8_BITS:
                refuse_others(name, found, logits)
            accuracy, apart = score(found, test.labels)["accuracy"], np.abs(found - logits).max()
            size = (fresh / name).stat().st_size / 1e6
            say(f"{place / name}: {accuracy:.1%} right, {size:.2f} MB, logits within {apart:.1e} "
                f"of the student's")  # fmt: skip


def calibration(student: Student, labelled: Split) -> np.ndarray:
    """Plain labelled images as the student sees them, evenly from all: uint8 `(n, 3, s, s)`."""
    rows = np.unique(np.linspace(0, len(labelled) - 1, CALIBRATED).round().astype(int))
    images = torch.from_numpy(labelled.images[rows])
    regions = plain(len(rows), labelled.image_size)
    return replay(images, regions, student.card.input_size).contiguous().numpy()


def refuse_others(name: str, found: np.ndarray, logits: np.ndarray) -> None:
    """A MenteeError unless logits `(n, classes)` are the student's."""
    if not np.allclose(found, logits, rtol=TOLERANCE, atol=TOLERANCE):
        raise MenteeError(
            f"{name} answers test images otherwise than the student, by up to "
            f"{np.abs(found - logits).max():.2g}: not exported; another version of torch may do"
        )
