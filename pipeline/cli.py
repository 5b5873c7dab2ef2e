"""The `mentee` command: one thin command a stage.

Heavy imports stand inside the commands, so that `mentee --help` answers at once.
"""

import os
import sys
import traceback

import click

from pipeline.cache_cli import cache
from pipeline.errors import MenteeError
from pipeline.files import explain
from pipeline.interrupts import interrupts_heard
from pipeline.options import SEED, SETTINGS, mode
from pipeline.progress import telling
from pipeline.user_cli import export, init, predict, taps, teachers
from pipeline.variants import TEACHER, UNTRAINED

SHARED = ("dump", "train")  # what torchrun may start several processes of


MENDED_BY_USER, INTERRUPTED = 1, 130  # exit codes; click's are 0, and 2 for wrong usage


class Commands(click.Group):
    """Errors that a user can mend end in one line on stderr and exit code 1."""

    def list_commands(self, context: click.Context) -> list[str]:
        """In the order in which they are defined: click would sort them."""
        return list(self.commands)

    def invoke(self, context: click.Context) -> object:
        try:
            with interrupts_heard():
                return super().invoke(context)
        except BrokenPipeError:
            raise  # who reads has read enough, as `head` does: click ends quietly
        except (MenteeError, OSError, KeyboardInterrupt) as error:
            if context.params["verbose"]:
                traceback.print_exc()
            click.echo(f"error: {one_line(error)}", err=True)
            sys.exit(INTERRUPTED if isinstance(error, KeyboardInterrupt) else MENDED_BY_USER)


def one_line(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return "interrupted; run it again, a dump goes on where it was"
    return explain(error) if isinstance(error, OSError) else str(error)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="mentee")
@click.option("-q", "--quiet", is_flag=True, envvar="MENTEE_QUIET",
              help="Print results, warnings and errors only.")  # fmt: skip
@click.option("-v", "--verbose", is_flag=True, envvar="MENTEE_VERBOSE",
              help="Say when each line was printed, and where an error comes from.")  # fmt: skip
@click.pass_context
def main(context: click.Context, quiet: bool, verbose: bool) -> None:
    """Train small image networks from scratch, taught offline by a large pretrained one.

    The commands up to report are the stages of dvc.yaml, in their order. `dvc repro` runs those
    that are out of date; each also runs by itself, reading params.yaml in the current folder.
    """
    if quiet and verbose:
        raise click.UsageError("--quiet and --verbose exclude each other.")
    context.with_resource(telling(story=not quiet, stamped=verbose))
    if int(os.environ.get("WORLD_SIZE", 1)) > 1 and context.invoked_subcommand not in SHARED:
        raise MenteeError(
            f"{context.invoked_subcommand} runs in one process: start it without torchrun, which "
            f"is for {' and '.join(SHARED)}"
        )


@main.command()
def prepare() -> None:
    """Read the images of data.source and split them.

    Writes data/prepared/images.h5 with the splits labelled, unlabelled, validation and test.

    Example: mentee prepare
    """
    from pipeline.params import load_params

    params = load_params()
    from pipeline.stages.prepare import prepare

    prepare(params)


@main.command()
def finetune() -> None:
    """Let the teacher learn the task's labels before the dump, if finetune.layers say so.

    Writes data/teacher/: what was tuned, and the weights.

    Example: mentee finetune
    """
    from pipeline.params import load_params

    params = load_params()
    from pipeline.stages.finetune import finetune

    finetune(params)


@main.command()
def dump() -> None:
    """Run the teacher once over every view (stage one).

    Writes its logits and the tapped features to data/cache/<split>/. A dump that was stopped goes
    on where it was.

    Example: mentee dump
    """
    from pipeline.params import load_params

    params = load_params()
    from pipeline.stages.dump import dump

    dump(params)


@main.command()
def head() -> None:
    """Turn cached features into logits over the task's classes.

    Fits a linear head on the labelled split; validation chooses its regularisation. Writes
    data/cache/<split>/task_logits/.

    Example: mentee head
    """
    from pipeline.params import load_params

    params = load_params()
    from pipeline.stages.head import head

    head(params)


@main.command()
@mode()
@SETTINGS
@SEED
def train(mode: str, settings: str, seed: int) -> None:
    """Train one student from the caches (stage two).

    MODE is one of the modes in params.yaml. Writes students/<mode>-<settings>-<seed>/.

    Example: mentee train obedient --settings unlabelled --seed 1
    """
    from pipeline.params import load_params
    from pipeline.variants import Variant

    params = load_params()
    from pipeline.stages.train import train

    train(params, Variant(mode, settings, seed))


@main.command()
@mode(TEACHER)
@SETTINGS
@SEED
def evaluate(mode: str, settings: str, seed: int) -> None:
    """Score a student, or the teacher, on the test split.

    MODE is as for train, or the word teacher. Writes metrics/<mode>-<settings>-<seed>.json, and to
    evidence/evaluate/ what the report draws: calibration, and for a student its likeness to the
    teacher.

    Example: mentee evaluate obedient --seed 1
    """
    from pipeline.params import load_params
    from pipeline.variants import Variant

    params = load_params()
    from pipeline.stages.evaluate import evaluate, evaluate_teacher

    if mode == TEACHER:
        evaluate_teacher()
    else:
        evaluate(params, Variant(mode, settings, seed))


@main.command()
def targets() -> None:
    """Read the other data sets that features are tried on.

    Writes data/targets/<name>.h5 for each of examine.targets, with the splits labelled and test.

    Example: mentee targets
    """
    from pipeline.params import load_params

    params = load_params()
    from pipeline.stages.targets import targets

    targets(params)


@main.command()
@mode(TEACHER, UNTRAINED)
@SETTINGS
@SEED
def examine(mode: str, settings: str, seed: int) -> None:
    """Try a network on corrupted images, and its features on other data sets.

    MODE is as for train, or the word teacher, or untrained: a student before any training. Writes
    evidence/examine/ and metrics/examine/<mode>-<settings>-<seed>.json.

    Example: mentee examine obedient --seed 1
    """
    from pipeline.params import load_params
    from pipeline.variants import Variant

    params = load_params()
    from pipeline.stages.examine import examine

    examine(params, Variant(mode, settings, seed))


@main.command()
@mode()
@SETTINGS
@click.option("--labels", required=True, type=click.IntRange(1), help="A class.")
@SEED
def efficiency(mode: str, settings: str, labels: int, seed: int) -> None:
    """Train one student, and its teacher's head, on fewer labels, and score it.

    MODE is one of the modes in params.yaml. Writes
    evidence/efficiency/<mode>-<settings>-<labels>-<seed>.json.

    Example: mentee efficiency obedient --labels 10
    """
    from pipeline.params import load_params
    from pipeline.variants import Budget, Variant

    params = load_params()
    from pipeline.stages.efficiency import efficiency

    efficiency(params, Budget(Variant(mode, settings, seed), labels))


@main.command()
@mode()
@click.option("--learning-rate", required=True, type=click.FloatRange(0, 10, min_open=True))
@click.option("--depth", required=True, type=click.IntRange(3, 100), help="Of fiveconv.")
@SEED
def stability(mode: str, learning_rate: float, depth: int, seed: int) -> None:
    """Train shortly at some learning rate, and record whether it gets anywhere.

    MODE is one of the modes in params.yaml. Writes
    evidence/stability/<mode>-<learning rate>-<depth>-<seed>.json.

    Example: mentee stability obedient --learning-rate 0.1 --depth 5
    """
    from pipeline.params import load_params
    from pipeline.variants import Attempt

    params = load_params()
    from pipeline.stages.stability import stability

    stability(params, Attempt(mode, learning_rate, depth, seed))


@main.command()
def report() -> None:
    """Gather all metrics and evidence into reports/index.html, and a table.

    What this folder has no evidence for is left out.

    Example: mentee report
    """
    from pipeline.params import load_params

    params = load_params()
    from pipeline.stages.report import report

    report(params)


@main.command()
@click.option(
    "--jobs", type=click.IntRange(1), help="Students at a time; else as many as cores, 8 on a GPU."
)
def sweep(jobs: int | None) -> None:
    """Run what is out of date, as `dvc repro` does, but train several students at a time.

    On a CPU each has its share of the cores; on a GPU those that differ in their seed alone train
    as one. The same files come out, recorded by DVC.

    Example: mentee sweep --jobs 4
    """
    from pipeline.params import load_params

    params = load_params()
    from pipeline.stages.sweep import sweep

    sweep(params, jobs)


for command in (cache, init, export, predict, teachers, taps):
    main.add_command(command)
