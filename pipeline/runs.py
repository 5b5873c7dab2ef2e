"""A run: all that takes part in training one student, made from params, data and caches."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

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
from pipeline.cache.reader import Kind
from pipeline.checkpoints import Checkpoint
from pipeline.compute import Compute, choose_compute
from pipeline.errors import MenteeError
from pipeline.files import canonical_json, digest_file, digest_text
from pipeline.lessons import Lessons, lone_lessons, mentored_lessons
from pipeline.mentoring.objective import Objective, Pair
from pipeline.mentoring.probes import Probe
from pipeline.mixtures import Mixture
from pipeline.params import Params
from pipeline.prepared import PREPARED_FILE, Split, read_split
from pipeline.ranks import ALONE, Ranks
from pipeline.regularisers import weights_of
from pipeline.students import Card, Student
from pipeline.training import Look, fit
from pipeline.variants import Variant


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
        refuse_partial(opened.logits, params.soft_targets)
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


def refuse_partial(logits: Sequence[Kind], soft_targets: SoftTargets) -> None:
    """Where a cache keeps the largest logits only, the others' mass is known at temperature 1.

    Of several teachers it tells no mean: each keeps other classes.
    """
    distance, temperature = soft_targets.distance, soft_targets.temperature
    if len(logits) > 1:
        asking, instead = "the mean of several teachers", "take one teacher"
    elif (distance, temperature) != ("kl", 1.0):
        asking = f"{distance} at temperature {temperature:g}"
        instead = "take kl at temperature 1"
    else:
        return
    for kind in logits:
        encoding = kind.spec["kinds"][kind.manifest.kind]["encoding"]
        if encoding.startswith("top"):
            raise MenteeError(
                f"soft_targets: {asking} needs every logit, {kind.folder} keeps the "
                f"{encoding.removeprefix('top')} largest: set cache.logits to float16 or uint8 and "
                f"run `mentee dump` and `mentee head`, or {instead}"
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
