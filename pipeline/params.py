"""params.yaml as one typed, frozen object: everything a user may turn, checked before any work."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from pipeline.blocks import (
    HERE,
    READS_ATTENTION,
    Block,
    Cache,
    Data,
    Head,
    Mode,
    Name,
    Probe,
    Runtime,
    Settings,
    SoftTargets,
    Student,
    Sweep,
    Training,
    Views,
    needs_channels,
)
from pipeline.errors import MenteeError
from pipeline.evidence_blocks import Efficiency, Examine, Stability
from pipeline.teacher_blocks import Finetune, Teacher
from pipeline.variants import TEACHER, UNTRAINED, Attempt, Budget, Variant

PARAMS_FILE = Path("params.yaml")


class Params(Block):
    """All of params.yaml, checked: what each block says, and that their names agree."""

    data: Data
    views: Views
    teacher: Teacher
    finetune: Finetune = Finetune()
    cache: Cache
    head: Head
    soft_targets: SoftTargets
    probes: list[Probe]
    student: Student
    training: Training
    modes: dict[Name, Mode]
    settings: dict[Name, Settings]
    sweep: Sweep
    examine: Examine = Examine()
    efficiency: Efficiency = Efficiency()
    stability: Stability = Stability()
    runtime: Runtime

    @model_validator(mode="after")
    def _names_agree(self) -> "Params":
        if TEACHER in self.modes:
            raise ValueError(f"modes.{TEACHER}: this name is the teacher's own, take another")
        if UNTRAINED in self.modes:
            raise ValueError(f"modes.{UNTRAINED}: so an untrained student is called, take another")
        for mode in self.stability.modes:
            _need(mode in self.modes, "stability.modes", mode, self.modes)
            if self.modes[mode].reads_features and not self.probes_of(Settings()):
                raise ValueError(
                    f"stability.modes: {mode}'s beta is above 0 but no probe asks the teacher here"
                )
        if self.stability.modes:
            self.training_of("stability.steps", steps=self.stability.steps)
            for depth in self.stability.depths:
                self.student_of(depth)
        if self.examine.retrain_after:
            self.training_of("examine.retrain_steps", steps=self.examine.retrain_steps)
        if self.efficiency.labels and self.teacher_knows_all and any(self.listening()):
            raise ValueError(
                "efficiency.labels: students with fewer labels need a teacher with no more: set "
                "finetune.layers to none and head.fit to true, or labels to []"
            )
        if too_many := [n for n in self.efficiency.labels if n >= self.data.labelled_per_class]:
            raise ValueError(
                f"efficiency.labels: {too_many[0]} is not allowed: must be less than "
                f"data.labelled_per_class, {self.data.labelled_per_class}"
            )
        if self.views.padding >= self.data.image_size:
            raise ValueError(
                f"views.padding: {self.views.padding} is not allowed: must be less than "
                f"data.image_size, {self.data.image_size}"
            )
        if self.teacher.is_whole and self.finetune.layers != "none":
            raise ValueError(
                f"finetune.layers: {self.teacher.model} comes as it is and cannot be tuned: set "
                f"layers to none, or name a model of timm or torchvision"
            )
        taps = self.teacher.taps
        _need(self.head.tap in taps, "head.tap", self.head.tap, taps)
        if self.head.fit and taps[self.head.tap].grid > 1:
            raise ValueError(
                f"head.tap: {self.head.tap!r} holds maps, a head reads one value a channel: name a "
                f"tap with grid 1"
            )
        if not self.head.fit:
            for key, off in {"posterior": "point", "self_training": 0}.items():
                if (value := getattr(self.head, key)) != off:
                    raise ValueError(
                        f"head.{key}: {value} needs a head that is fitted: set head.fit to true, "
                        f"or head.{key} to {off}"
                    )
        for probe in self.probes:
            known = probe.teacher in taps or probe.asks != HERE
            _need(known, "probes.teacher", probe.teacher, taps)
            kept = taps[probe.teacher].keep if probe.asks == HERE else None
            if kept == "attention" and probe.distance != READS_ATTENTION:
                raise ValueError(f"probes: {needs_channels(probe)}")
        for group_name, group in self.sweep.groups():
            for mode in group.modes:
                _need(mode in self.modes, f"sweep.{group_name}.modes", mode, self.modes)
            for settings in group.settings:
                _need(
                    settings in self.settings, f"sweep.{group_name}.settings", settings,
                    self.settings,
                )  # fmt: skip
            for mode in group.modes:
                for settings in group.settings:
                    self._needs_its_group(group_name, mode, settings)
        return self

    def _needs_its_group(self, listed: str, mode_name: str, settings_name: str) -> None:
        """A group's DVC stages depend on what its students read, so each must be in its own."""
        mode, settings = self.modes[mode_name], self.settings[settings_name]
        reads = group_of(mode, settings)
        if reads != listed:
            raise ValueError(
                f"sweep.{listed}: {mode_name} with {settings_name} belongs under sweep.{reads}: "
                f"sweep.labels is for beta = gamma = 0, sweep.logits for gamma alone, "
                f"sweep.features for beta, sweep.unlabelled for settings with unlabelled > 0, "
                f"sweep.teachers for settings that name other teachers"
            )
        if wrong := self.conflict(mode_name, settings_name):
            raise ValueError(f"sweep.{listed}: {wrong}")

    def conflict(self, mode_name: str, settings_name: str) -> str | None:
        """Why no student can be trained in this mode with these settings, if none can."""
        mode, settings = self.modes[mode_name], self.settings[settings_name]
        if settings.reads_unlabelled and not mode.reads_teacher:
            return f"{mode_name} has no teacher term to learn from unlabelled images"
        if settings.reads_unlabelled and not self.data.unlabelled:
            return f"settings.{settings_name}.unlabelled is above 0 but data.unlabelled is 0"
        if settings.mixes and mode.reads_teacher:
            return (
                f"{mode_name} listens to a teacher, and {settings_name} mixes pictures (mixup, "
                f"cutmix) of which it has said nothing"
            )
        if settings.label_smoothing and not any(value for _, value in mode.alpha):
            return f"{mode_name} reads no labels that {settings_name} could smooth: its alpha is 0"
        if settings.reads_others and not mode.reads_teacher:
            return f"{mode_name} has no term that listens to the teachers of {settings_name}"
        if mode.reads_features and not self.probes_of(settings):
            if not self.probes:
                return f"modes.{mode_name}.beta is above 0 but probes is empty"
            return (
                f"modes.{mode_name}.beta is above 0 but no probe asks a teacher of "
                f"settings.{settings_name}, {', '.join(settings.teachers)}"
            )
        return None

    def probes_of(self, settings: Settings) -> list[Probe]:
        """The probes that ask a teacher whom these settings name."""
        return [probe for probe in self.probes if probe.asks in settings.teachers]

    @property
    def teacher_knows_all(self) -> bool:
        """Whether the answers of the teacher here may come of every label, whatever its head."""
        return self.finetune.layers != "none" or not self.head.fit

    def listening(self) -> Iterator[str]:
        """The modes of the sweep that listen to a teacher."""
        for _, group in self.sweep.groups():
            yield from (mode for mode in group.modes if self.modes[mode].reads_teacher)

    def training_of(self, key: str, **changes: Any) -> Training:
        """The training with some changes; a MenteeError names `key` where there is none such."""
        try:
            return Training.model_validate({**self.training.model_dump(), **changes})
        except ValidationError as error:
            raise MenteeError(f"{key}: {error.errors()[0]['ctx']['error']}") from None

    def student_of(self, depth: int) -> Student:
        """The student at a depth of stability's; a MenteeError where it has one of its own."""
        if depth != self.student.depth and self.student.model != "fiveconv":
            raise MenteeError(
                f"stability.depths: {self.student.model} has a depth of its own: set it to "
                f"[{self.student.depth}], or student.model to fiveconv"
            )
        return self.student.model_copy(update={"depth": depth})

    def variants(self) -> list[Variant]:
        """Every student of the sweep, in the order in which params.yaml lists them."""
        return [
            Variant(mode, settings, seed)
            for _, group in self.sweep.groups()
            for mode in group.modes
            for settings in group.settings
            for seed in self.sweep.seeds
        ]

    def budgets(self) -> list[Budget]:
        """Every student of the sweep with every smaller number of labels, where it has one teacher.

        The heads of other teachers, whose caches come from elsewhere, know all labels.
        """
        return [
            Budget(variant, labels)
            for variant in self.variants()
            if not self.settings[variant.settings].reads_others
            for labels in self.efficiency.labels
        ]

    def attempts(self) -> list[Attempt]:
        """Every training of the sweep of learning rates, in the order of params.yaml."""
        sweep = self.stability
        return [
            Attempt(mode, learning_rate, depth, seed)
            for mode in sweep.modes
            for depth in sweep.depths
            for learning_rate in sweep.learning_rates
            for seed in sweep.seeds
        ]


def group_of(mode: Mode, settings: Settings) -> str:
    """The group of the sweep that depends on just the files such a student reads."""
    if settings.reads_others:
        return "teachers"
    if settings.reads_unlabelled:
        return "unlabelled"
    if mode.reads_features:
        return "features"
    return "logits" if mode.reads_logits else "labels"


def load_params(path: Path = PARAMS_FILE) -> Params:
    """Read and check params.yaml; a MenteeError names the key, its value and what is allowed."""
    try:
        content = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MenteeError(
            f"{path} is not here: run mentee in the folder that holds params.yaml"
        ) from None
    except (YAMLError, ValueError) as error:  # ValueError: no UTF-8, or a date like 2026-13-01
        raise MenteeError(f"{path} is not valid YAML: {_wrong_in_yaml(error)}") from None
    try:
        return Params.model_validate(content)
    except ValidationError as error:
        raise MenteeError(f"{path}: {_sentence(error)}") from None
    except MenteeError as error:
        raise MenteeError(f"{path}: {error}") from None


def _wrong_in_yaml(error: Exception) -> str:
    """Where and what, without ruamel's advice on how to let a key stand twice."""
    if isinstance(error, MarkedYAMLError) and error.problem_mark:
        told = " ".join(filter(None, (error.context, error.problem)))
        return f"line {error.problem_mark.line + 1}: {told}"
    return " ".join(str(error).split())


def _need(known: bool, key: str, value: str, allowed: dict[str, Any]) -> None:
    if not known:
        raise ValueError(f"{key}: {value!r} is not one of {', '.join(allowed)}")


def _sentence(error: ValidationError) -> str:
    """The first thing that is wrong: key, value, what is allowed."""
    first, *others = error.errors()
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "model_type" and not key:
        return f"the file must hold keys with values: {', '.join(Params.model_fields)}"
    value = first["input"]
    if first["type"] == "extra_forbidden":
        text = f"{key}: unknown key; allowed here: {', '.join(_allowed_keys(first['loc']))}"
    elif first["type"] == "missing":
        text = f"{key}: this key is missing"
    elif first["type"] == "value_error":
        text = f"{key + ': ' if key else ''}{first['ctx']['error']}"
    else:
        text = f"{key}: {value!r} is not allowed: {first['msg'][0].lower()}{first['msg'][1:]}"
    return text + (f" (and {len(others)} more)" if others else "")


def _allowed_keys(location: tuple[int | str, ...]) -> list[str]:
    """The keys that the block around the last part of `location` knows."""
    block: Any = Params
    for part in location[:-1]:
        if isinstance(block, type) and issubclass(block, BaseModel):
            block = block.model_fields[str(part)].annotation
        else:  # dict[Name, Block] and list[Block]
            block = block.__args__[-1]
    return list(block.model_fields)
