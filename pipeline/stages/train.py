"""train (stage two): one student from scratch, from the prepared data and the caches alone."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from dvclive import Live
from scmrepo.exceptions import SCMError

from pipeline.boards import Board
from pipeline.checkpoints import Checkpoint
from pipeline.errors import MenteeError
from pipeline.files import replaced_whole, said_to_fill
from pipeline.metrics import score
from pipeline.params import Params
from pipeline.prepared import Split
from pipeline.progress import say
from pipeline.ranks import joined
from pipeline.runs import Run, run_key, set_up
from pipeline.students import save_student
from pipeline.together import Pupil, fit_together
from pipeline.training import Look, predict_logits
from pipeline.variants import Variant

STUDENTS = Path("students")


def train(params: Params, variant: Variant) -> None:
    """Train one student and write it to STUDENTS, from its last checkpoint if it was killed.

    A MenteeError where params have no such variant, a cache does not suit it, or a term diverges.
    """
    with joined() as ranks:
        run = set_up(params, variant, ranks)
        say(
            f"{variant.name}: {run.student.count_parameters():,} parameters on {run.compute}"
            f"{ranks.several}"
        )
        key = run_key(params, variant, run)
        ranks.refuse_difference(key)
        if ranks.is_first:
            lead(params, variant, run, key)
        else:
            follow(params, variant, run, key)


def follow(params: Params, variant: Variant, run: Run, key: str) -> None:
    """Train along; the first rank tells and keeps what comes of it."""
    checkpoint = Checkpoint(variant.name, key, None, run.mixture.ranks)
    run.go(params.training, lambda look: None, checkpoint)


def lead(params: Params, variant: Variant, run: Run, key: str) -> None:
    folder = STUDENTS / variant.name
    with replaced_whole(folder) as fresh:
        checkpoint = fit_with_curves(params, variant, run, key, fresh / "live")
        answers = predict_logits(run.student, run.validation.images, run.compute)
        save_student(run.student.cpu(), fresh)
    checkpoint.remove()
    accuracy = score(answers, run.validation.labels)["accuracy"]
    say(f"{variant.name}: validation accuracy {accuracy:.1%} -> {folder}")


def train_ahead(params: Params, variant: Variant) -> None:
    """Train up to the last checkpoint, which `train` goes on from; nothing else is written."""
    run = set_up(params, variant)
    with TemporaryDirectory() as curves:
        fit_with_curves(params, variant, run, run_key(params, variant, run), Path(curves, "live"))


def train_ahead_as_one(params: Params, variants: Sequence[Variant]) -> list[str]:
    """`train_ahead` of students that differ in their seed alone; what went wrong with each, or "".

    Those that were killed at different steps follow one another.
    """
    first = set_up(params, variants[0])
    wrong = dict.fromkeys(variants, "")
    with TemporaryDirectory() as folder, ExitStack() as listening:
        pupils: dict[int, dict[Variant, Pupil]] = {}
        for variant in variants:
            run = first if variant == variants[0] else set_up(params, variant, beside=first)
            curves = Path(folder, variant.name)
            checkpoint = Checkpoint(variant.name, run_key(params, variant, run), curves)
            listen = listening.enter_context(telling(params, variant, run.validation, curves))
            pupil = Pupil(run.student, run.objective, run.mixture, listen, checkpoint)
            pupils.setdefault(checkpoint.step, {})[variant] = pupil
        for alike in pupils.values():
            ends = fit_together([*alike.values()], first.validation, params.training, first.compute)
            wrong |= {variant: str(end or "") for variant, end in zip(alike, ends, strict=True)}
    return [*wrong.values()]


def fit_with_curves(
    params: Params, variant: Variant, run: Run, key: str, folder: Path
) -> Checkpoint:
    """Train from the latest checkpoint on; the learning curves are written to `folder`."""
    checkpoint = Checkpoint(variant.name, key, folder, run.mixture.ranks)
    with telling(params, variant, run.validation, folder) as listen:
        run.go(params.training, listen, checkpoint)
    return checkpoint


@contextmanager
def telling(
    params: Params, variant: Variant, validation: Split, folder: Path
) -> Iterator[Callable[[Look], None]]:
    """What writes a student's learning curves to `folder`, and for TensorBoard if it is asked."""
    asked = params.runtime.tensorboard
    board, live = Board(Path(asked, variant.name) if asked else None), curves(folder)

    def listen(look: Look) -> None:
        live.step = look.step
        values = {f"loss/{name}": value for name, value in look.terms.items()}
        scores = score(look.answers, validation.labels)
        values |= {f"validation/{name}": value for name, value in scores.items()}
        values |= {"norm/gradient": look.gradient_norm, "norm/weights": look.weight_norm}
        for name, value in values.items():
            live.log_metric(name, value)
            board.add(name, value, look.step)
        live.make_summary()

    with said_to_fill(folder), live, closing(board):
        yield listen


def curves(folder: Path) -> Live:
    """Where the learning curves go; DVCLive asks git for the revision."""
    try:
        return Live(str(folder), resume=True, dvcyaml=None, save_dvc_exp=False, report=None)
    except SCMError as error:
        raise MenteeError(f"git: {str(error).lower()}: commit first, then train") from None
