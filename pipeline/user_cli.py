"""The commands around the stages: a project for one's own images, and the use of a student."""

import sys
from pathlib import Path

import click

from pipeline.errors import MenteeError


@click.command()
@click.argument("project", type=click.Path(path_type=Path))
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
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with every class.")
def predict(model: Path, images: tuple[Path, ...], as_json: bool) -> None:
    """Print the class of each image, with its probability.

    MODEL is a folder that train wrote, or an .onnx file that export wrote; both work anywhere,
    without params or caches. IMAGES are files, folders or patterns. Files that cannot be read are
    named at the end, and the exit code is 1.

    Example: mentee predict students/obedient-plain-0 cat.jpg photos
    """
    import json

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
        click.echo(json.dumps(content, indent=2, ensure_ascii=False))
    else:
        for answer in sound:
            click.echo(f"{answer.path}\t{answer.name}\t{answer.probability:.3f}")
    for error in broken:
        click.echo(f"error: {error}", err=True)
    if broken:
        sys.exit(1)
