"""A card of every kind of student: what it is, what it reads, and the commands that train it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.blocks import HERE, Mode, Settings
from pipeline.cache.schema import MANIFEST, TASK_LOGITS, features_kind, read_manifest
from pipeline.params import Params
from pipeline.reporting.wording import percent
from pipeline.results import STUDENTS, Row
from pipeline.variants import PLAIN, TEACHER, Variant

CACHE, OTHER_CACHES = Path("data/cache"), Path("data/caches")
DIGITS = 12  # of a fingerprint


@dataclass(frozen=True)
class Card:
    title: str
    summary: str
    facts: dict[str, str]
    accuracies: dict[int, str]
    commands: tuple[str, ...]


def make_cards(params: Params, rows: list[Row]) -> list[Card]:
    variants = {variant.name: variant for variant in params.variants()}
    return [
        _card(params, row, [variants[name] for name in row.names])
        for row in rows
        if row.group != TEACHER
    ]


def _card(params: Params, row: Row, variants: list[Variant]) -> Card:
    first = variants[0]
    mode, settings = params.modes[first.mode], params.settings[first.settings]
    turned = settings.model_dump(exclude_defaults=True)
    facts = {
        "reads": _reads(mode, settings),
        "network": _network(params),
        "parameters": f"{row.mean('parameters'):,.0f}",
        f"mode {first.mode}": ", ".join(
            f"{term} {_knots(knots)}" for term, knots in mode.model_dump().items()
        ),
        f"settings {first.settings}": ", ".join(
            f"{key} {_spelt(key, value)}" for key, value in turned.items()
        )
        or "nothing besides the mode",
        "training": (
            f"{params.training.steps:,} steps of {params.training.batch_size} images, "
            f"{params.training.optimizer}, {params.training.schedule}, learning rate "
            f"{params.training.learning_rate:g}"
        ),
    }
    for kind, digits in _fingerprints(params, mode, settings).items():
        facts[f"cache {kind}"] = digits
    facts["files"] = ", ".join(f"{STUDENTS / name}/" for name in row.names)
    accuracies = {
        seed: percent(accuracy) for seed, accuracy in row.by_seed("test", "accuracy").items()
    }
    summary = percent(row.mean("test", "accuracy"), row.spread("test", "accuracy"))
    return Card(row.title, summary, facts, accuracies, tuple(map(_command, variants)))


def _network(params: Params) -> str:
    student = params.student
    own = f", width {student.width}, depth {student.depth}" if student.model == "fiveconv" else ""
    return f"{student.model}{own}, pictures of {student.input_size} pixels"


def _knots(weight: Any) -> str:
    """0.05 at 0, 0.2 at 0.33: the value, and the share of training."""
    if len(weight) == 1:
        return f"{weight[0][1]:g}"
    return "(" + ", ".join(f"{value:g} at {time:g}" for time, value in weight) + ")"


def _spelt(key: str, value: Any) -> str:
    """The value of a setting."""
    if key == "teachers":
        return " and ".join(value)
    return _knots(value) if key == "unlabelled" else str(value)


def _command(variant: Variant) -> str:
    settings = "" if variant.settings == PLAIN else f" --settings {variant.settings}"
    return f"mentee train {variant.mode}{settings} --seed {variant.seed}"


def _reads(mode: Mode, settings: Settings) -> str:
    unlabelled = settings.reads_unlabelled
    read = ["labelled and unlabelled images" if unlabelled else "labelled images"]
    if any(value > 0 for _, value in mode.alpha):
        read.append("labels")
    whose = "the teacher's"
    if settings.reads_others:
        whose = f"the teachers' ({', '.join(settings.teachers)})"
    told = (("features", mode.reads_features), ("logits", mode.reads_logits))
    read += [f"{whose} {what}" for what, is_read in told if is_read]
    return ", ".join(read)


def _fingerprints(params: Params, mode: Mode, settings: Settings) -> dict[str, str]:
    """The first digits of the fingerprint of each kind that is read of the labelled images.

    By its name, that of another teacher than the one here first: lite2/task_logits.
    """
    digits = {}
    for teacher in settings.teachers:
        root, prefix = (CACHE, "") if teacher == HERE else (OTHER_CACHES / teacher, f"{teacher}/")
        kinds = [TASK_LOGITS] if mode.reads_logits else []
        if mode.reads_features:
            probes = [probe for probe in params.probes_of(settings) if probe.asks == teacher]
            taps = {probe.teacher.rpartition("/")[2] for probe in probes}
            kinds += [features_kind(tap) for tap in sorted(taps)]
        for kind in kinds:
            folder = root / "labelled" / kind
            if (folder / MANIFEST).exists():
                digits[prefix + kind] = read_manifest(folder).fingerprint[:DIGITS]
    return digits
