"""train (stage two): one student from scratch, from the prepared data and the caches alone."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from dvclive import Live
from scmrepo.exceptions import SCMError

import pipeline
from pipeline.blocks import (
    READS_ATTENTION,
    Mode,
    Settings,
    SoftTargets,
    Training,
    needs_channels,
)
from pipeline.blocks import Probe as ProbeParams
from pipeline.boards import Board
from pipeline.cache.reader import Kind
from pipeline.checkpoints import Checkpoint
from pipeline.compute import Compute, choose_compute
from pipeline.errors import MenteeError
from pipeline.files import canonical_json, digest_file, digest_text, replaced_whole
from pipeline.lessons import Lessons, lone_lessons, mentored_lessons
from pipeline.mentoring.objective import Objective, Pair
from pipeline.mentoring.probes import Probe
from pipeline.metrics import score
from pipeline.mixtures import Mixture
from pipeline.params import Params
from pipeline.prepared import PREPARED_FILE, Split, read_split
from pipeline.progress import say
from pipeline.ranks import ALONE, Ranks, joined
from pipeline.regularisers import weights_of
from pipeline.students import Card, Student, save_student
from pipeline.together import Pupil, fit_together
from pipeline.training import Look, fit, predict_logits
from pipeline.variants import Variant

STUDENTS = Path("students")


@dataclass(frozen=True)
class Run:
    """All that takes part in training one student."""

    student: Student
    objective: Objective
    mixture: Mixture
    validation: Split
    settings: Settings
    compute: Compute
    lessons: list[Lessons]

    def go(
        self, training: Training, listen: Callable[[Look], None],
        checkpoint: Checkpoint | None = None,
    ) -> None:  # fmt: skip
        fit(
            self.student, self.objective, self.mixture, self.validation, training, self.settings,
            self.compute, listen, checkpoint,
        )  # fmt: skip


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

    with live, closing(board):
        yield listen


def set_up(
    params: Params, variant: Variant, ranks: Ranks = ALONE, beside: Run | None = None
) -> Run:
    """Read what the student learns from, and make it and its objective by the variant's seed.

    beside: a run that differs in its seed alone, and whose lessons this one reads too.
    """
    mode, settings = find(params, variant)
    compute = choose_compute(params.runtime)
    asked = params.probes_of(settings) if mode.reads_features else []
    if beside:
        validation, read = beside.validation, beside.lessons
    else:
        validation = read_split(PREPARED_FILE, "validation")
        read = read_lessons(params, mode, settings, compute.device)
        refuse_shared(read[0].split, validation)
    seen, extra = read[0], read[1] if len(read) > 1 else None

    torch.manual_seed(variant.seed)
    about = {"mode": variant.mode, "settings": variant.settings, "seed": variant.seed}
    labelled = seen.split
    images = torch.from_numpy(labelled.images)
    card = Card.of(params.student, settings.dropout, labelled.class_names, images, about)
    student = Student(card).to(compute.device)
    probes = make_probes(asked, student, seen)
    contrasted = sorted({pair.teacher for pair, probe in probes if probe.needs == "negatives"})
    mixture = Mixture(
        seen, extra, settings.unlabelled, params.training.batch_size, variant.seed, contrasted,
        ranks,
    )  # fmt: skip
    weights = weights_of(student.network)
    objective = Objective(mode, params.soft_targets, probes, settings, weights).to(compute.device)
    if not ranks.is_first:  # dropout draws other units for other rows
        torch.manual_seed(variant.seed + (ranks.rank << 32))
    return Run(student, objective, mixture, validation, settings, compute, read)


def read_lessons(
    params: Params, mode: Mode, settings: Settings, device: torch.device
) -> list[Lessons]:
    """The labelled split and, where settings read it, the unlabelled one, as teachers saw them."""
    asked = params.probes_of(settings) if mode.reads_features else []
    taps = sorted({probe.teacher for probe in asked})
    size, share = params.student.input_size, params.runtime.resident_share

    def lessons(name: str) -> Lessons:
        split = read_split(PREPARED_FILE, name)
        if not (taps or mode.reads_logits):
            return lone_lessons(split, params.views, size, device, share)
        opened = mentored_lessons(
            split, mode.reads_logits, taps, size, device, resident_share=share,
            teachers=settings.teachers,
        )  # fmt: skip
        for logits in opened.logits:
            refuse_partial(logits, params.soft_targets)
        return opened

    return [lessons(name) for name in ("labelled", *(["unlabelled"] * settings.reads_unlabelled))]


def run_key(params: Params, variant: Variant, run: Run) -> str:
    """A digest of all that decides what becomes of a student, code and libraries included."""
    mode, settings = find(params, variant)
    code = sorted(Path(pipeline.__file__).parent.rglob("*.py"))
    return digest_text(canonical_json({
        "variant": variant.name,
        "mode": mode.model_dump(),
        "settings": settings.model_dump(),
        **params.model_dump(
            include={"student", "training", "soft_targets", "probes", "views"}
        ),
        "splits": [part.split.digest for part in run.lessons] + [run.validation.digest],
        "caches": [[kind.fingerprint for kind in part.kinds] for part in run.lessons],
        "compute": str(run.compute),
        "ranks": run.mixture.ranks.count,
        "torch": torch.__version__,
        "code": [digest_file(path) for path in code],
    }))  # fmt: skip


def curves(folder: Path) -> Live:
    """Where the learning curves go; DVCLive asks git for the revision."""
    try:
        return Live(str(folder), resume=True, dvcyaml=None, save_dvc_exp=False, report=None)
    except SCMError as error:
        raise MenteeError(f"git: {str(error).lower()}: commit first, then train") from None


def find(params: Params, variant: Variant) -> tuple[Mode, Settings]:
    """What params say of a variant; a MenteeError lists the names there are."""
    if variant.mode not in params.modes:
        raise MenteeError(f"no mode {variant.mode!r}; params.yaml has {', '.join(params.modes)}")
    if variant.settings not in params.settings:
        raise MenteeError(
            f"no settings {variant.settings!r}; params.yaml has {', '.join(params.settings)}"
        )
    mode, settings = params.modes[variant.mode], params.settings[variant.settings]
    if wrong := params.conflict(variant.mode, variant.settings):
        raise MenteeError(f"{variant.name}: {wrong}")
    return mode, settings


def refuse_shared(labelled: Split, validation: Split) -> None:
    """A MenteeError where an image is both learnt from and validated on."""
    shared = set(labelled.ids) & set(validation.ids)
    if shared:
        raise MenteeError(
            f"{len(shared)} labelled samples are in the validation split too, {min(shared)} among "
            f"them: run `mentee prepare` again"
        )


def refuse_partial(logits: Kind, soft_targets: SoftTargets) -> None:
    """Where a cache keeps the largest logits only, the others' mass is known at temperature 1."""
    encoding = logits.spec["kinds"][logits.manifest.kind]["encoding"]
    distance, temperature = soft_targets.distance, soft_targets.temperature
    if encoding.startswith("top") and (distance, temperature) != ("kl", 1.0):
        raise MenteeError(
            f"soft_targets: {distance} at temperature {temperature:g} needs every logit, "
            f"{logits.folder} keeps the {encoding.removeprefix('top')} largest: set cache.logits "
            f"to float16 or uint8 and run `mentee dump` and `mentee head`, or take kl at "
            f"temperature 1"
        )


def make_probes(
    asked: list[ProbeParams], student: Student, lessons: Lessons
) -> list[tuple[Pair, torch.nn.Module]]:
    """A probe for every pair that is asked for, fitted to the shapes of both sides."""
    shapes = student.feature_shapes({probe.student for probe in asked})
    made: list[tuple[Pair, torch.nn.Module]] = []
    for probe in asked:
        kind = lessons.features[probe.teacher]
        mean, std = map(torch.from_numpy, kind.statistics())
        module = Probe(probe.distance, probe.match, shapes[probe.student], kind.shape, mean, std)
        refuse_attention(kind, probe, shapes[probe.student])
        made.append((Pair(probe.teacher, probe.student, probe.weight), module))
    return made


def refuse_attention(kind: Kind, probe: ProbeParams, student_shape: tuple[int, ...]) -> None:
    """Where a tap keeps attention, the channels are gone, and with them every coarser grid's.

    The average of attention is not the attention of averages.
    """
    if kind.spec["kinds"][kind.manifest.kind].get("keep") != "attention":
        return
    if probe.distance != READS_ATTENTION:
        raise MenteeError(f"probes: {needs_channels(probe)}")
    grid, own = kind.shape[1:], student_shape[1:]
    if any(ours < theirs for ours, theirs in zip(own, grid, strict=False)):
        raise MenteeError(
            f"probes: {kind.folder} keeps attention at {grid[0]} x {grid[1]}, {probe.student} has "
            f"{own[0]} x {own[1]}: set its grid to {min(own)} under teacher.taps, or its keep "
            f"to channels"
        )
