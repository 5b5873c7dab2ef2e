"""The blocks of params.yaml that say what is measured of networks, beyond their task."""

from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from pipeline.blocks import SOURCE, Block, Fraction, Name, Seed, Steps, once

Source = Annotated[str, Field(pattern=SOURCE)]
Labels = Annotated[int, Field(ge=1)] | None
Depth = Annotated[int, Field(ge=3, le=100)]


def _with_a_point(value: Any) -> Any:
    """DVC and Python must spell a learning rate alike, since files are called by it."""
    if isinstance(value, int):
        raise ValueError(f"{value} is not allowed: write {value}.0")
    return value


LearningRate = Annotated[float, Field(gt=0, le=10), BeforeValidator(_with_a_point)]


class Examine(Block):
    """What every network is put to: corrupted test images, and other data sets."""

    corrupted: int = Field(ge=0, default=500)
    targets: dict[Name, Source] = Field(default={"digits": "digits"})
    per_class: Annotated[list[Labels], AfterValidator(once)] = Field(
        min_length=1, default=[10, None]
    )
    draws: int = Field(ge=1, le=100, default=3)
    retrain_after: Annotated[list[str], AfterValidator(once)] = Field(default=[])
    retrain_steps: Steps = 300


class Efficiency(Block):
    """The sweep's students again with fewer labels a class; off without any."""

    labels: Annotated[list[Annotated[int, Field(ge=1)]], AfterValidator(once)] = Field(default=[])


class Stability(Block):
    """A sweep of learning rates and depths, to see where training fails; off without modes."""

    modes: Annotated[list[Name], AfterValidator(once)] = Field(default=[])
    learning_rates: Annotated[list[LearningRate], AfterValidator(once)] = Field(
        min_length=1, default=[1.0e-4, 1.0e-3, 1.0e-2, 1.0e-1, 1.0]
    )
    depths: Annotated[list[Depth], AfterValidator(once)] = Field(min_length=1, default=[5])
    seeds: Annotated[list[Seed], AfterValidator(once)] = Field(min_length=1, default=[0, 1, 2])
    steps: Steps = 300
    trains_at: Fraction = 0.5
