"""The blocks of params.yaml as typed, frozen objects, each checked by itself."""

import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    model_validator,
)

from pipeline.mentoring.schedules import value_at

HERE = "here"  # the teacher whose cache is data/cache
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
# A teacher's tap, after the teacher's name where it is another than the one here: lite2/pooled.
Address = Annotated[str, Field(pattern=r"^([a-z][a-z0-9_]*/)?[a-z][a-z0-9_]*$")]
Fraction = Annotated[float, Field(ge=0, le=1)]
SOURCE = r"^(cifar10|digits|torchvision:\w+|folder:.+|csv:.+)$"  # of images
Seed = Annotated[int, Field(ge=0, lt=2**32)]
# A slip of the finger is an error before any work, and no batch that fills the memory.
Steps = Annotated[int, Field(ge=2, le=10**9)]
BatchSize = Annotated[int, Field(ge=2, le=2**17)]
# (t, value): the weight of a term at the share t of training; linear between knots.
Knot = Annotated[tuple[Fraction, Annotated[float, Field(ge=0)]], Field(strict=False)]
Knots = Annotated[list[Knot], Field(min_length=1)]
# What a probe may measure. The first compare the channels of two networks, which a match must make
# comparable; the others compare places or samples.
ChannelDistance = Literal["rmse", "mse", "l1", "cosine", "vid"]
OtherDistance = Literal[
    "attention_transfer", "similarity", "rkd_distance", "rkd_angle", "pkt", "cka", "crd"
]
READS_ATTENTION = "attention_transfer"  # the one distance that a tap's attention is enough for


class Block(BaseModel):
    """Frozen; unknown keys, wrong types, values out of range and no numbers are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def once(items: list[Any]) -> list[Any]:
    """`items` as they are; a ValueError where one stands twice."""
    if len(set(items)) < len(items):
        raise ValueError(f"each may be listed once only, not {items}")
    return items


class Data(Block):
    """Which images, and how many for what. image_size: pixels a side; the rest counts images."""

    source: str = Field(pattern=SOURCE)
    image_size: int = Field(ge=8, le=1024)
    labelled_per_class: int = Field(ge=1)
    unlabelled: int = Field(ge=0)
    validation: int = Field(ge=1)
    test: Annotated[int, Field(ge=1)] | None
    skip_broken: bool = False
    seed: Seed


class Views(Block):
    """How many views of an image, and how far from it. padding: pixels of the stored image."""

    labelled: int = Field(ge=1, le=1000)
    unlabelled: int = Field(ge=1, le=1000)
    padding: int = Field(ge=0)
    flip: bool
    seed: Seed


class Cache(Block):
    """How answers are stored: an encoding for logits and one for features, and rows a file."""

    logits: str = Field(pattern=r"^(float16|float32|uint8|top[1-9]\d{0,3})$")
    features: Literal["float16", "float32", "uint8", "uint4"]
    rows_per_shard: int = Field(ge=1)


class Head(Block):
    """The head on cached features.

    inverse_regularisation: values of scikit-learn's C to try. self_training: rounds of it at most.
    """

    fit: bool
    tap: Name
    inverse_regularisation: list[Annotated[float, Field(gt=0)]] = Field(min_length=1)
    self_training: int = Field(ge=0, le=20, default=0)
    posterior: Literal["point", "laplace", "langevin"] = "point"
    temperatures: list[Annotated[float, Field(gt=0)]] = Field(
        min_length=1, default=[0.01, 0.03, 0.1, 0.3, 1.0]
    )
    samples: int = Field(ge=2, le=1000, default=64)


class SoftTargets(Block):
    """How logits are compared: a distance, and the temperature that divides both sides'."""

    distance: Literal["kl", "kl_by_certainty", "rmse", "dkd", "dist"]
    temperature: float = Field(gt=0, le=100)


class Probe(Block):
    """Which tap of a teacher is compared with which of the student, how, and for how much."""

    teacher: Address
    student: str
    distance: Literal[ChannelDistance, OtherDistance] = "rmse"
    match: Literal["projection", "first_channels", "random_projection", "none"]
    weight: float = Field(gt=0, default=1.0)

    @property
    def asks(self) -> str:
        """The teacher whose tap it is."""
        return self.teacher.rpartition("/")[0] or HERE

    @model_validator(mode="after")
    def _match_suits_the_distance(self) -> "Probe":
        compares_channels = self.distance in get_args(ChannelDistance)
        if compares_channels and self.match == "none":
            raise ValueError(
                f"{self.distance} compares channels: set match to projection, first_channels or "
                f"random_projection"
            )
        if not compares_channels and self.match != "none":
            raise ValueError(f"{self.distance} compares no channels: set match to none")
        return self


def needs_channels(probe: Probe) -> str:
    """Why a probe cannot read a tap that keeps attention."""
    return (
        f"{probe.distance} compares what the teacher saw, the tap {probe.teacher} keeps where it "
        f"looked: set its keep to channels under teacher.taps, or distance to {READS_ATTENTION}"
    )


def _of_whole_blocks(model: str) -> str:
    """A residual network has three layers of n blocks of two convolutions, and some around them."""
    if found := re.match(r"(resnet|wrn_)(\d+)", model):
        depth, around = int(found[2]), {"resnet": 2, "wrn_": 4}[found[1]]
        if depth <= around or (depth - around) % 6:
            below = max(depth - around, 6) // 6 * 6 + around
            raise ValueError(
                f"{model!r} is not allowed: its depth must be 6n + {around}, like {below} or "
                f"{below + 6}"
            )
    return model


class Student(Block):
    """The network that is trained. width: channels; depth: convolutions; input_size: pixels."""

    model: Annotated[
        str,
        Field(
            pattern=r"^(fiveconv|resnet\d{1,3}(x4)?|wrn_\d{1,3}_[1-9]\d?|(torchvision|timm):\w+)$"
        ),
        AfterValidator(_of_whole_blocks),
    ]
    width: int = Field(ge=2, le=1024, multiple_of=2)
    depth: int = Field(ge=3, le=100, default=5)
    input_size: int = Field(ge=8, le=1024)


class Training(Block):
    """How a student is trained. learning_rate: the peak; warmup: a share of the steps."""

    steps: Steps
    batch_size: BatchSize
    optimizer: Literal["adamw", "sgd"] = "adamw"
    schedule: Literal["one_cycle", "cosine", "step"] = "one_cycle"
    learning_rate: float = Field(gt=0, le=10)
    weight_decay: float = Field(ge=0, le=10)
    warmup: float = Field(gt=0, lt=1)
    gradient_clip: Annotated[float, Field(gt=0)] | None = None
    weight_average: float = Field(ge=0, lt=1, default=0.0)
    validations: int = Field(ge=1)

    @model_validator(mode="after")
    def _both_halves_of_a_cycle_have_steps(self) -> "Training":
        if self.schedule == "one_cycle" and not 1 < self.warmup * self.steps < self.steps - 1:
            raise ValueError(
                f"warmup: {self.warmup} of {self.steps} steps leaves no step to rise or none to "
                f"fall: take more steps, or another share"
            )
        return self


def _check_times(name: str, knots: list[tuple[float, float]]) -> None:
    times = [t for t, _ in knots]
    if times != sorted(set(times)):
        raise ValueError(f"the knots of {name} must have increasing times, not {times}")


class Mode(Block):
    """How the weights of the three loss terms move over training."""

    alpha: Knots
    beta: Knots
    gamma: Knots

    @model_validator(mode="after")
    def _knots_are_in_order(self) -> "Mode":
        for term in ("alpha", "beta", "gamma"):
            _check_times(term, getattr(self, term))
        terms = (self.alpha, self.beta, self.gamma)
        # Between these times their sum is linear: where it is 0, it is so at one of them.
        for t in sorted({0.0, 1.0, *(t for knots in terms for t, _ in knots)}):
            if not any(value_at(knots, t) for knots in terms):
                raise ValueError(
                    f"alpha, beta and gamma are all 0 at t = {t:g}: one must always be above 0"
                )
        return self

    @property
    def reads_features(self) -> bool:
        return any(value > 0 for _, value in self.beta)

    @property
    def reads_logits(self) -> bool:
        return any(value > 0 for _, value in self.gamma)

    @property
    def reads_teacher(self) -> bool:
        return self.reads_features or self.reads_logits


def _as_knots(value: Any) -> Any:
    """One number for all of training is a list of one knot."""
    return [(0.0, value)] if isinstance(value, int | float) else value


class Settings(Block):
    """How a student is trained besides its mode."""

    dropout: float = Field(ge=0, lt=1, default=0.0)
    l1: float = Field(ge=0, le=1, default=0.0)
    l2: float = Field(ge=0, le=1, default=0.0)
    label_smoothing: float = Field(ge=0, lt=1, default=0.0)
    mixup: float = Field(ge=0, le=100, default=0.0)
    cutmix: float = Field(ge=0, le=100, default=0.0)
    early_stopping: int = Field(ge=0, default=0)
    unlabelled: Annotated[list[Knot], BeforeValidator(_as_knots), Field(min_length=1)] = [
        (0.0, 0.0)
    ]
    teachers: Annotated[list[Name], Field(min_length=1), AfterValidator(once)] = [HERE]

    @model_validator(mode="after")
    def _shares_are_below_1(self) -> "Settings":
        _check_times("unlabelled", self.unlabelled)
        for _, share in self.unlabelled:
            if share >= 1:
                raise ValueError(
                    f"unlabelled: {share:g} is not allowed: a share of a batch is less than 1"
                )
        return self

    @property
    def reads_unlabelled(self) -> bool:
        return any(share > 0 for _, share in self.unlabelled)

    @property
    def reads_others(self) -> bool:
        """Whether it asks any teacher but the one here."""
        return self.teachers != [HERE]

    @property
    def mixes(self) -> bool:
        """Whether the student is shown pictures that no teacher saw."""
        return self.mixup > 0 or self.cutmix > 0


class Group(Block):
    """Names of modes and of settings: students of each mode with each settings."""

    modes: Annotated[list[Name], AfterValidator(once)]
    settings: Annotated[list[Name], AfterValidator(once)]


class Sweep(Block):
    """The students to train: in each group every mode x every settings x every seed."""

    seeds: Annotated[list[Seed], Field(min_length=1), AfterValidator(once)]
    labels: Group
    logits: Group
    features: Group
    unlabelled: Group
    teachers: Group = Group(modes=[], settings=[])

    def groups(self) -> Iterator[tuple[str, Group]]:
        for name in ("labels", "logits", "features", "unlabelled", "teachers"):
            yield name, getattr(self, name)


class Runtime(Block):
    """What changes no number, or none beyond rounding: no DVC stage tracks it."""

    device: str = Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    threads: int = Field(ge=0, le=4096)
    resident_share: Fraction = 0.5
    tensorboard: str | None = None
