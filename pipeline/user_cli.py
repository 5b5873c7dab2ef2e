"""The commands around the stages: a project for one's own images, and the use of a student."""

import json
import sys
from pathlib import Path

import click

from pipeline.errors import MenteeError, printable
from pipeline.options import JSON, show


@click.command()
@click.argument("project", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--images", required=True, type=click.Path(exists=True, path_type=Path),
    help="A folder of folders, one a class, or a CSV file with the columns path and label.",
)  # fmt: skip
@click.option("--skip-broken", is_flag=True, help="Leave out files that cannot be read.")
def init(project: Path, images: Path, skip_broken: bool) -> None:
    """Begin a project around your own images.

    Writes dvc.yaml, params.yaml and .gitignore to the folder PROJECT, and says what it chose for
    these images. A folder called unlabelled beside those of the classes is learnt from without
    labels.

    Example: mentee init my-project --images photos
    """
    from pipeline.stages.init import init

    init(project, images, skip_broken)


@click.command()
@click.argument("student", type=click.Path(path_type=Path))
def export(student: Path) -> None:
    """Write a student as files for other programs, and check what they answer.

    STUDENT is a folder that train wrote; run it in its project, whose test images are asked. Writes
    exports/<student>/ with student.onnx, student-int8.onnx (ONNX in 8 bits) and student.pt2
    (torch.export).

    Example: mentee export students/obedient-plain-0
    """
    from pipeline.stages.export import export

    export(student)


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("images", nargs=-1, required=True, type=click.Path(readable=False, path_type=Path))
@JSON
def predict(model: Path, images: tuple[Path, ...], as_json: bool) -> None:
    """Print the class of each image, with its probability.

    MODEL is a folder that train wrote, or an .onnx file that export wrote; both work anywhere,
    without params or caches. IMAGES are files, folders or patterns. Files that cannot be read are
    named at the end, and the exit code is 1.

    Example: mentee predict students/obedient-plain-0 cat.jpg photos
    """
    from pipeline.blocks import Runtime
    from pipeline.stages.predict import predict

    answers = list(predict(model, images, Runtime(device="auto", threads=0)))
    broken = [answer for answer in answers if isinstance(answer, MenteeError)]
    sound = [answer for answer in answers if not isinstance(answer, MenteeError)]
    if as_json:
        content = [
            {"image": str(answer.path), "class": answer.name, "probability": answer.probability,
             "probabilities": answer.probabilities}
            for answer in sound
        ]  # fmt: skip
        click.echo(json.dumps(content, indent=2))
    else:
        for answer in sound:
            parts = (str(answer.path), answer.name, f"{answer.probability:.3f}")
            click.echo("\t".join(map(printable, parts)))
    for error in broken:
        click.echo(f"error: {error}", err=True)
    if broken:
        sys.exit(1)


@click.command()
@click.argument("pattern", required=False)
@JSON
def teachers(pattern: str | None, as_json: bool) -> None:
    """List the teachers whose weights are here, with their size and licence where known.

    With a PATTERN also those that could be downloaded.

    Example: mentee teachers 'resnet*'
    """
    from pipeline.stages.list_teachers import list_teachers, teacher_lines

    content = list_teachers(pattern)
    show(content, teacher_lines(content, pattern), as_json)


@click.command()
@click.argument("model")
@click.option("--input-size", default=160, show_default=True, type=click.IntRange(16, 1024))
@click.option("--depth", default=2, show_default=True, type=click.IntRange(1),
              help="Levels of modules inside modules.")  # fmt: skip
@JSON
def taps(model: str, input_size: int, depth: int, as_json: bool) -> None:
    """Show a network's modules and what they put out, and suggest taps.

    MODEL is as under teacher.model: timm:NAME, torchvision:NAME or export:PATH.

    Example: mentee taps torchvision:vgg19 --depth 1
    """
    from pipeline.stages.taps import tap_lines, taps

    content = taps(model, input_size, depth)
    show(content, tap_lines(content), as_json)
