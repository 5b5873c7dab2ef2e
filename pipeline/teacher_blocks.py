"""The blocks of params.yaml that say who teaches: the teacher, its taps, and how it is tuned."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PlainValidator, PositiveFloat, model_validator

from pipeline.blocks import BatchSize, Block, Name, Seed, Steps


class Tap(Block):
    """Where features are read. module: its path; grid: places a side, 1 for a vector."""

    module: str
    grid: int = Field(ge=1, le=64)
    keep: Literal["channels", "attention"] = "channels"

    @model_validator(mode="after")
    def _attention_has_places(self) -> "Tap":
        if self.keep == "attention" and self.grid == 1:
            raise ValueError("keep: attention says where a teacher looks: set grid above 1")
        return self

    def described(self) -> dict[str, Any]:
        """What a cache's spec says of it. A default is left out: older caches do not name it."""
        return self.model_dump(exclude_defaults=True)


INCLUDED = "included"  # weights of a network that a file holds whole


class Teacher(Block):
    """The pretrained network. mean, std: of pixels from 0 to 1, by channel; input_size: pixels."""

    model: str = Field(pattern=r"^((timm|torchvision):[\w.]+|(export|torchscript):.+)$")
    weights: str
    mean: Annotated[list[float], Field(min_length=3, max_length=3)] | None = None
    std: Annotated[list[PositiveFloat], Field(min_length=3, max_length=3)] | None = None
    input_size: int = Field(ge=16, le=1024)
    taps: dict[Name, Tap] = Field(min_length=1)

    @property
    def is_whole(self) -> bool:
        """Whether a file of the user's holds the network with its weights."""
        return self.model.startswith(("export:", "torchscript:"))

    def files(self) -> list[tuple[str, Path]]:
        """The user's own files that hold the teacher, by the key that names them."""
        if self.is_whole:
            return [("model", Path(self.model.partition(":")[2]))]
        weights = Path(self.weights)
        return [("weights", weights)] if weights.is_file() else []

    @model_validator(mode="after")
    def _files_hold_their_weights(self) -> "Teacher":
        if self.is_whole and self.weights != INCLUDED:
            raise ValueError(f"{self.model} holds its weights: set weights to {INCLUDED}")
        if not self.is_whole and self.weights == INCLUDED:
            raise ValueError(f"weights: {INCLUDED} is for export: and torchscript: models")
        return self


def _check_layers(value: Any) -> Any:
    """One of three words, or module paths: a union would complain of each of its members."""
    is_list = isinstance(value, list) and all(isinstance(path, str) for path in value)
    if value in ("none", "head", "all") or (is_list and value):
        return value
    raise ValueError(
        f"{value!r} is not allowed: take none, head, all or a list of the teacher's module paths"
    )


class Finetune(Block):
    """How the teacher learns the task's labels before the dump; off unless `layers` are named."""

    layers: Annotated[str | list[str], PlainValidator(_check_layers)] = "none"
    steps: Steps = 200  # the learning rate of the last is 0
    batch_size: BatchSize = 32
    learning_rate: float = Field(gt=0, le=10, default=1e-3)
    weight_decay: float = Field(ge=0, le=10, default=1e-2)
    seed: Seed = 0
