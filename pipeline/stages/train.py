"""train (stage two): one student from scratch, from the prepared data and the caches alone."""

from pathlib import Path

import torch
from dvclive import Live
from scmrepo.exceptions import SCMError

from pipeline.cache.reader import Kind
from pipeline.compute import choose_compute
from pipeline.errors import MenteeError
from pipeline.files import replaced_whole
from pipeline.lessons import Lessons, Mixture, lone_lessons, mentored_lessons
from pipeline.mentoring.objective import Objective, Pair
from pipeline.mentoring.probes import Probe
from pipeline.metrics import score
from pipeline.params import Mode, Params, Settings, SoftTargets
from pipeline.prepared import PREPARED_FILE, Split, read_split
from pipeline.progress import say
from pipeline.students import Card, Student, save_student
from pipeline.training import fit
from pipeline.variants import Variant

STUDENTS = Path("students")


def train(params: Params, variant: Variant) -> None:
    mode, settings = find(params, variant)
    compute = choose_compute(params.runtime)
    torch.manual_seed(variant.seed)
    labelled = read_split(PREPARED_FILE, "labelled")
    validation = read_split(PREPARED_FILE, "validation")
    unlabelled = read_split(PREPARED_FILE, "unlabelled") if settings.unlabelled else None
    refuse_shared(labelled, validation)

    about = {"mode": variant.mode, "settings": variant.settings, "seed": variant.seed}
    images = torch.from_numpy(labelled.images)
    card = Card.of(params.student, settings.dropout, labelled.class_names, images, about)
    student = Student(card).to(compute.device)

    taps = sorted({probe.teacher for probe in params.probes}) if mode.reads_features else []
    mentored = bool(taps) or mode.reads_logits
    size, device = params.student.input_size, compute.device

    def lessons(split: Split) -> Lessons:
        if not mentored:
            return lone_lessons(split, params.views, size, device)
        opened = mentored_lessons(
            split, mode.reads_logits, taps, size, device,
            resident_share=params.runtime.resident_share,
        )  # fmt: skip
        if opened.logits:
            refuse_partial(opened.logits, params.soft_targets)
        return opened

    seen = lessons(labelled)
    extra = lessons(unlabelled) if unlabelled else None
    mixture = Mixture(seen, extra, settings.unlabelled, params.training.batch_size, variant.seed)
    probes = make_probes(params, student, seen) if mode.reads_features else []
    objective = Objective(mode, params.soft_targets, probes).to(device)
    say(f"{variant.name}: {student.count_parameters():,} parameters on {compute}")
    folder = STUDENTS / variant.name
    with (
        replaced_whole(folder) as fresh,
        curves(fresh / "live") as live,
    ):

        def listen(step, terms, logits) -> None:
            live.step = step
            for name, value in terms.items():
                live.log_metric(f"loss/{name}", value)
            for name, value in score(logits, validation.labels).items():
                live.log_metric(f"validation/{name}", value)
            live.make_summary()

        fit(student, objective, mixture, validation, params.training, compute, listen)
        save_student(student.cpu(), fresh)
    accuracy = live.summary["validation"]["accuracy"]
    say(f"{variant.name}: validation accuracy {accuracy:.1%} -> {folder}")


def curves(folder: Path) -> Live:
    """Where the learning curves go; DVCLive asks git for the revision."""
    try:
        return Live(str(folder), dvcyaml=None, save_dvc_exp=False, report=None)
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
    if settings.unlabelled and not (mode.reads_features or mode.reads_logits):
        raise MenteeError(
            f"{variant.mode} has no teacher term to learn from unlabelled images: take other "
            f"settings than {variant.settings!r}"
        )
    if settings.unlabelled and not params.data.unlabelled:
        raise MenteeError(
            f"settings.{variant.settings}.unlabelled is above 0 but data.unlabelled is 0"
        )
    return mode, settings


def refuse_shared(labelled: Split, validation: Split) -> None:
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
    params: Params, student: Student, lessons: Lessons
) -> list[tuple[Pair, torch.nn.Module]]:
    """A probe for every pair in params, fitted to the shapes of both sides."""
    shapes = student.feature_shapes({probe.student for probe in params.probes})
    made = []
    for probe in params.probes:
        kind = lessons.features[probe.teacher]
        mean, std = map(torch.from_numpy, kind.statistics())
        module = Probe(probe.distance, probe.match, shapes[probe.student], kind.shape, mean, std)
        made.append((Pair(probe.teacher, probe.student), module))
    return made
